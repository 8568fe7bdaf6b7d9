"""Answer one of the questions that the papers leave open, by experiments with the small ESC-Net on MojiScenes.

    python tools/miniature/ablation.py sam_block
    python tools/miniature/ablation.py --list

Each variant is trained with each seed and judged on classes it has no masks of (novel) and on those it has (base).
What an earlier call has found is used again, and a killed call goes on. Draw the pictures first:
python datasets/prepare_mojiscenes.py
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import at_least_one, refuse, run_program

if TYPE_CHECKING:
    from escnet.miniature.experiments import Table


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", help="the question, one of --list")
    parser.add_argument("--list", action="store_true", help="list the questions")
    parser.add_argument("--config-file", default="configs/mojiscenes/escnet.yaml")
    parser.add_argument("--output", type=Path, default=Path("output/ablations"), help="folder of all experiments")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--jobs", type=at_least_one, default=os.cpu_count(), help="experiments at a time, on a thread")
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY VALUE", help="of the configuration, for all rows")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.miniature.ablations import TABLES
    from escnet.training.failures import run_or_refuse

    if options.list or not options.table:
        print("\n".join(f"{table.name:12}  {table.question}" for table in TABLES.values()))
        return 0
    if options.table not in TABLES:
        return refuse("ablation", f"there is no question {options.table}; choose of {', '.join(TABLES)}")
    refused = (ValueError, FloatingPointError)
    return run_or_refuse("ablation", lambda: answer(options, TABLES[options.table]), refused, code=1)


def answer(options: argparse.Namespace, table: Table) -> None:
    """Do the experiments of a table that are not done yet, and print it.

    Raises:
        ValueError, WeightsError, FloatingPointError, OSError: an experiment cannot be done.
    """
    from escnet.miniature.experiments import run_table, write_up

    where, start = (options.config_file, options.output, options.seeds), time.perf_counter()
    for done, total, last in run_table(table, *where, options.jobs, tuple(options.set)):
        print(f"{done}/{total} after {time.perf_counter() - start:.0f} s: {last}", file=sys.stderr, flush=True)
    print(f"\n{table.question}\n\n{write_up(table, *where, tuple(options.set))}")


if __name__ == "__main__":
    sys.exit(run_program(main))
