"""Answer one of the questions about CLIP-Guided SAM, by experiments with the small one on MojiScenes.

    python tools/miniature/clip_guided_sam.py signals
    python tools/miniature/clip_guided_sam.py text --plot curves.png
    python tools/miniature/clip_guided_sam.py --list

Each variant is trained with each seed, on few labelled pictures of which a part chooses the weights, and judged on
things that it has no masks of (novel) and on those it has (base). What an earlier call has found is used again, and a
killed call goes on. Draw the pictures first: python datasets/prepare_mojiscenes.py; those of `photographs` come from
datasets/prepare_camvid.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from escnet.command_line import at_least_one, refuse, run_program

ABILITY, REGIONS = "ability", "regions"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", help="one of --list")
    parser.add_argument("--list", action="store_true", help="list the questions")
    parser.add_argument("--output", type=Path, default=Path("output/clip_guided_sam"), help="folder of all experiments")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--jobs", type=at_least_one, default=os.cpu_count(), help="experiments at a time, on a thread")
    parser.add_argument("--plot", type=Path, help="where the curves go, a .png file")
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY VALUE", help="of the configuration, for all rows")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.miniature import guided_ability, guided_regions
    from escnet.miniature.guided_curves import CURVES
    from escnet.miniature.guided_tables import TABLES
    from escnet.training.failures import run_or_refuse

    questions = {name: table.question for name, table in (CURVES | TABLES).items()}
    questions |= {ABILITY: guided_ability.QUESTION, REGIONS: guided_regions.QUESTION}
    if options.list or not options.question:
        print("\n".join(f"{name:10}  {question}" for name, question in questions.items()))
        return 0
    if options.question not in questions:
        return refuse("clip_guided_sam", f"there is no question {options.question}; choose of {', '.join(questions)}")
    if options.plot and options.question not in CURVES:
        return refuse("clip_guided_sam", f"--plot draws curves, of {' and '.join(CURVES)} alone")
    refused = (ValueError, FloatingPointError)
    return run_or_refuse("clip_guided_sam", lambda: answer(options, questions[options.question]), refused, code=1)


def answer(options: argparse.Namespace, question: str) -> None:
    """Do the experiments of a question that are not done yet, and print its table.

    Raises:
        ValueError, WeightsError, FloatingPointError, OSError: an experiment cannot be done, or its curves not written.
    """
    from escnet.miniature.experiments import run_table, write_up
    from escnet.miniature.guided_ability import run_ability, write_up_ability
    from escnet.miniature.guided_curves import CURVES, save_curves, write_up_curves
    from escnet.miniature.guided_regions import write_up_regions
    from escnet.miniature.guided_tables import CONFIG, TABLES
    from escnet.safe_files import check_writable

    if options.plot:
        check_writable(options.plot)
    common, start = tuple(options.set), time.perf_counter()

    def say(done: str) -> None:
        print(f"{done} after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    if options.question == ABILITY:
        for done in run_ability(options.output, options.seeds, options.jobs, common):
            say(done)
        written = write_up_ability(options.output, options.seeds, common)
    elif options.question == REGIONS:
        written = write_up_regions(common)
    else:
        table, where = (CURVES | TABLES)[options.question], (CONFIG, options.output, options.seeds)
        for done, total, last in run_table(table, *where, options.jobs, common):
            say(f"{done}/{total}: {last}")
        if options.plot:
            save_curves(options.plot, table, *where, common)
        written = (write_up_curves if options.question in CURVES else write_up)(table, *where, common)
    print(f"\n{question}\n\n{written}")


if __name__ == "__main__":
    sys.exit(run_program(main))
