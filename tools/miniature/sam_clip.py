"""Answer one of the questions about SAM-CLIP, by experiments with the small one on MojiScenes.

    python tools/miniature/sam_clip.py headline
    python tools/miniature/sam_clip.py --list

Each row is trained with each seed, through its stages, and judged: zero-shot accuracy among 120 words and mask AP from
exact boxes at several sizes, mIoU of label maps. What an earlier call has found is used again, and a killed call goes
on. --plot draws accuracy and AP over the size of the pictures. Draw the pictures first:
python datasets/prepare_mojireplay.py, and python datasets/prepare_mojiscenes.py.
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
    from escnet.miniature.sam_clip_tables import Question


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", help="one of --list")
    parser.add_argument("--list", action="store_true", help="list the questions")
    parser.add_argument("--output", type=Path, default=Path("output/sam_clip"), help="folder of all experiments")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--jobs", type=at_least_one, default=os.cpu_count(), help="seeds at a time, each on one thread")
    parser.add_argument("--plot", type=Path, help="where the curves go, a .png file")
    parser.add_argument("--set", nargs="+", default=(), metavar="KEY VALUE", help="of all stages of all rows")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.miniature.sam_clip_questions import QUESTIONS
    from escnet.training.failures import run_or_refuse

    if options.list or not options.question:
        print("\n".join(f"{question.name:10}  {question.text}" for question in QUESTIONS.values()))
        return 0
    if options.question not in QUESTIONS:
        return refuse("sam_clip", f"there is no question {options.question}; choose of {', '.join(QUESTIONS)}")
    question = QUESTIONS[options.question]
    if options.plot and not question.sizes:
        return refuse("sam_clip", f"--plot: {question.name} measures nothing over the size of the pictures")
    return run_or_refuse("sam_clip", lambda: answer(options, question), (ValueError, FloatingPointError), code=1)


def answer(options: argparse.Namespace, question: Question) -> None:
    """Do the experiments of a question that are not done yet, and print its table.

    Raises:
        ValueError, WeightsError, FloatingPointError, OSError: an experiment cannot be done, or its curves not written.
    """
    from escnet.miniature.sam_clip_experiments import Laboratory
    from escnet.miniature.sam_clip_tables import run_question, save_curves, write_up
    from escnet.safe_files import check_writable

    if options.plot:
        check_writable(options.plot)
    laboratory, start = Laboratory(options.output, tuple(options.set)), time.perf_counter()
    for done in run_question(question, laboratory, options.seeds, options.jobs):
        print(f"{done} after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if options.plot:
        save_curves(options.plot, question, laboratory, options.seeds)
    print(f"\n{question.text}\n\n{write_up(question, laboratory, options.seeds)}")


if __name__ == "__main__":
    sys.exit(run_program(main))
