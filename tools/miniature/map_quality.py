"""Judge the correlation maps of the small ESC-Net against the truth: CLIP's, and those after each block.

    python tools/miniature/map_quality.py

Prints a table: average precision of a class's probability; the share of its cells where it is the most probable class;
how many of the cells where it is the most probable are the class's; and its probability in its own cells. Draw the
pictures first: python datasets/prepare_mojiscenes.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import astuple

from tabulate import tabulate

from escnet.command_line import CommandParser, run_program


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config-file", default="configs/mojiscenes/escnet.yaml")
    parser.add_argument("--weights", default="shipped:esc_net", help="of ESC-Net (default: %(default)s)")
    parser.add_argument("--dataset", default="mojiscenes_val_novel", help="(default: %(default)s)")
    parser.add_config_keys("over the configuration")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.training.failures import run_or_refuse

    return run_or_refuse("map_quality", lambda: measure(options), (ValueError,), "stopped", code=1)


def measure(options: argparse.Namespace) -> None:
    """Measure, and print the table.

    Raises:
        ValueError, WeightsError, OSError: something cannot be used.
    """
    from escnet.config import load_config
    from escnet.miniature.map_quality import measure_maps

    cfg = load_config(options.config_file, ["MODEL.WEIGHTS", options.weights, *options.opts])
    stages = measure_maps(cfg, options.dataset)
    rows = [
        (f"after block {number}" if number else "CLIP", *astuple(stage)[:-1]) for number, stage in enumerate(stages)
    ]
    print(f"{stages[0].classes} classes in the pictures of {options.dataset}, mean\n")
    headers = ("map", "average precision", "covered", "precise", "probability")
    print(tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f"))


if __name__ == "__main__":
    sys.exit(run_program(main))
