"""What does it cost to look at fewer classes? mIoU and recall of the small ESC-Net over the numbers that are kept.

    python tools/miniature/narrowing.py --weights shipped:esc_net --choices all 64 "64>8" "64>8-32@0.05"

"64>8-32@0.05": a first pass over the 64 classes that CLIP's map ranks highest, and a second over those, at most 32 and
at least 8, that have at least 0.05 of some region in its result. Of several files of weights, as of several seeds, mean
and deviation are told. What an earlier call has found is used again. Draw the pictures first:
python datasets/prepare_mojiscenes.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from escnet.command_line import run_program

DATASETS = ("mojiscenes_val_novel", "mojiscenes_val_base", "mojiscenes_val_all", "mojiscenes_val_847")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/mojiscenes/escnet.yaml")
    parser.add_argument("--weights", nargs="+", default=["shipped:esc_net"], help="of one model, or of several seeds")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, help="(default: %(default)s)")
    parser.add_argument("--choices", nargs="+", required=True, help='such as all 64 "64>8" "64>8-32@0.05"')
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/narrowing"), help="folder of all results")
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY VALUE", help="of the configuration")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.training.failures import run_or_refuse

    return run_or_refuse("narrowing", lambda: measure(options), (ValueError,), code=1)


def measure(options: argparse.Namespace) -> None:
    """Measure what is not known yet, and print the table.

    Raises:
        ValueError, WeightsError, OSError: something cannot be used.
    """
    import torch

    from escnet.miniature.narrowing import choice_table, measured, parse_choice

    torch.set_num_threads(options.threads)
    for choice in options.choices:
        parse_choice(choice)
    results = {
        dataset: [
            measured(options.config_file, options.set, weights, dataset, options.choices, options.output)
            for weights in options.weights
        ]
        for dataset in options.datasets
    }
    print(choice_table(results, options.choices))


if __name__ == "__main__":
    sys.exit(run_program(main))
