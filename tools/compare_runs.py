#!/usr/bin/env python3
"""Compare two evaluations on the same images: differences B - A, with intervals by a paired bootstrap over images.

    python tools/compare_runs.py output/a/ESCNet/ade20k_150_val output/b/ESCNet/ade20k_150_val
    python tools/compare_runs.py output/a output/b --output differences.csv

A and B are the folders of two runs, OUTPUT/MODEL/DATASET of tools/eval_zero_shot.py, or two whole OUTPUT folders, of
which every run found in both is compared. Exit code: 0, or 2 if the two cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from escnet.command_line import refuse, run_program

if TYPE_CHECKING:
    from escnet.evaluation.runs.comparison import Comparison, Difference

# Conditions longer than this (templates, say) are cut in the terminal; run.json has them in full.
LONGEST = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = _parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.evaluation.runs.comparable import paired_runs
    from escnet.evaluation.runs.comparison import compare_runs, write_csv

    try:
        pairs, alone = paired_runs(args.a, args.b)
        compared = [compare_runs(a, b, args.samples, args.seed, args.confidence) for a, b in pairs]
        if args.output:
            write_csv(args.output, compared)
    except (ValueError, OSError) as error:
        return refuse("compare_runs.py", error)
    print("\n\n".join(describe(comparison, args.top) for comparison in compared))
    if alone:
        print("\nNot compared:", *alone, sep="\n  ")
    if args.output:
        print(f"\nAll classes are in {args.output}")
    return 0


def describe(comparison: Comparison, top: int) -> str:
    """A comparison as text: differing conditions, overall scores, the `top` classes that differ most."""
    a, b = comparison.a, comparison.b
    lines = [f"{b.title}: {comparison.images} images, {len(b.class_names)} classes"]
    lines += [f"  A  {a.model} on {a.dataset}  ({a.folder})", f"  B  {b.model} on {b.dataset}  ({b.folder})", ""]
    if comparison.conditions:
        rows = [[key, _short(of_a), _short(of_b)] for key, of_a, of_b in comparison.conditions]
        lines += ["Conditions that differ:", tabulate(rows, ["", "A", "B"], "simple", disable_numparse=True), ""]
    else:
        lines += ["All recorded conditions are equal.", ""]
    header = ["", "images", "A %", "B %", "B - A", f"{100 * comparison.confidence:g} % interval", "B > A", ""]
    lines += [_table([_row(found, comparison) for found in comparison.scores], header), ""]

    present = [found for found in comparison.classes if found.images]
    largest = sorted(present, key=lambda found: -abs(found.difference))[:top]
    lines.append(f"IoU of the {len(largest)} classes that differ most, of {len(present)} in the truth:")
    lines += [_table([_row(found, comparison) for found in largest], header), ""]

    many = [found for found in present if found.images >= comparison.least_images]
    clear = sum(comparison.is_clear(found) for found in many)
    lines += [
        f"* the interval excludes 0, and at least {comparison.least_images} images have the class: {clear} of "
        f"{len(many)} such classes; about {round((1 - comparison.confidence) * len(many))} would if nothing but chance "
        "made the difference.",
        f"{comparison.samples} resamples of the images, the same for both runs.",
    ]
    return "\n".join(lines)


def _table(rows: list[list[str]], header: list[str]) -> str:
    aligned = ("left", "right", "right", "right", "right", "left", "right", "left")
    return tabulate(rows, header, "simple", disable_numparse=True, colalign=aligned if rows else None)


def _row(found: Difference, comparison: Comparison) -> list[str]:
    absent = comparison.samples - found.resamples
    remark = ["*"] * comparison.is_clear(found) + [f"absent from {absent} resamples"] * (absent > 0)
    numbers = [f"{100 * found.a:.2f}", f"{100 * found.b:.2f}", f"{100 * found.difference:+.2f}"]
    interval = f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    return [found.name, str(found.images), *numbers, interval, f"{found.share_b_higher:.1%}", " ".join(remark)]


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 2] + ".."


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="compare_runs.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", type=Path, help="folder of a run, or of an evaluation's whole output")
    parser.add_argument("b", metavar="B", type=Path, help="the same of the other")
    parser.add_argument("--samples", type=int, default=1000, help="resamples of the images (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--output", type=Path, metavar="CSV", help="write the differences of all classes")
    parser.add_argument("--top", type=int, default=20, help="classes in the printed table (default 20)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_program(main))
