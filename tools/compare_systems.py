#!/usr/bin/env python3
r"""Compare systems on the same data: mIoU of seen and unseen classes, parameters, GFLOPs, seconds, memory, weights.

    python tools/compare_systems.py configs/comparison/mojiscenes.yaml --output output/comparison
    python tools/compare_systems.py configs/comparison/full.yaml --costs-only --output output/costs

The file lists the systems, each with its configuration and weights, and the data. The output folder gets table.md,
table.csv, differences.csv (a paired bootstrap of each two systems), systems.json, miou_over_cost.png and .svg; in
runs/ the folders of all evaluations, with a report, and in costs/ what was measured. The same command goes on where it
was stopped. --costs-only measures the costs alone, with random weights: no checkpoint and no data are needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import run_program

if TYPE_CHECKING:
    from escnet.evaluation.systems.comparison import ComparedSystems, ComparisonTask
    from escnet.evaluation.systems.plan import ComparisonPlan

PROGRAM = "compare_systems.py"
PLOT = "miou_over_cost"
# What is imported in functions takes seconds, and --help and mistyped options should not.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.evaluation.systems.costs import CostError
    from escnet.pretrained.files import WeightsError
    from escnet.training.failures import run_or_refuse

    return run_or_refuse(PROGRAM, lambda: compare(read_task(args)), (ValueError, WeightsError, CostError))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path, metavar="YAML", help="systems, data, and how costs are measured")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="these of the file alone")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NAME=PATH", help="another checkpoint of a system; repeatable"
    )
    parser.add_argument("--limit", type=int, metavar="K", help="only the first K images of each dataset")
    parser.add_argument("--costs-only", action="store_true", help="costs alone, with random weights and without data")
    parser.add_argument("--threads", type=int, metavar="N", help="while costs are measured (default: as the file says)")
    parser.add_argument("--repeats", type=int, metavar="N", help="of each picture, likewise")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the images (default 1000)")
    parser.add_argument("--restart", action="store_true", help="delete the results that are in the output folder")
    args = parser.parse_args(arguments)
    for option in ("threads", "repeats", "resamples"):
        value = getattr(args, option)
        if value is not None and value < 1:
            parser.error(f"--{option} is {value}; it has to be at least 1")
    return args


def read_task(args: argparse.Namespace) -> ComparisonTask:
    """What is to be compared.

    Raises:
        ValueError: the file, or an option, cannot be used.
    """
    from escnet.evaluation.systems.comparison import ComparisonTask
    from escnet.evaluation.systems.plan import read_plan

    plan = read_plan(args.plan).with_weights(dict(read_weights(text) for text in args.weights))
    if args.systems:
        plan = plan.only(args.systems)
    if args.limit is not None:
        plan = plan.limited(args.limit)
    changes = {key: getattr(args, key) for key in ("threads", "repeats") if getattr(args, key) is not None}
    plan = replace(plan, costs=replace(plan.costs, **changes))
    return ComparisonTask(plan, args.output, args.costs_only, args.resamples, args.restart)


def read_weights(text: str) -> tuple[str, str]:
    """A system's name and a path from ``NAME=PATH``.

    Raises:
        ValueError: it is of another form.
    """
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError(f"--weights {text}: it has to be NAME=PATH, such as --weights 'ESC-Net=model_final.pth'")
    return name, path


def compare(task: ComparisonTask) -> None:
    """Compare, write all files and print the tables."""
    import logging

    from detectron2.utils.logger import setup_logger

    from escnet.evaluation.systems.comparison import compare_systems
    from escnet.evaluation.systems.table import write_tables

    setup_logger(name="escnet").setLevel(logging.WARNING)
    found = compare_systems(task)
    tables = write_tables(found)
    if not task.costs_only:
        draw(task.plan, found, task.output)
    print(f"\n{tables}\n\ntables{'' if task.costs_only else ', plots and runs'} are in {task.output}", flush=True)


def draw(plan: ComparisonPlan, found: ComparedSystems, output: Path) -> None:
    """Write the plot of mIoU over cost: of unseen classes, then of seen ones, where the file says which these are.

    All of one protocol, the ordinary one if there is such data, since others share no axis with it.
    """
    from escnet.evaluation.systems.plot import CostPoint, cost_plot, save_cost_plot
    from escnet.evaluation.systems.table import column_title

    first = next((data for data in plan.data if not data.column.protocol.is_oracle), plan.data[0])
    protocol = first.column.protocol
    same = [data for data in plan.data if data.column.protocol == protocol]
    told = [next((data for data in same if data.role == role), None) for role in ("unseen", "seen")]
    drawn = [data for data in told if data is not None] or [first]
    points = []
    for system in found.systems:
        scores = [system.row.scores[data.column.key]["miou"] for data in drawn]
        if None not in scores:
            points.append(CostPoint(system.system.name, (system.costs.seconds, system.costs.flops / 1e9), scores))
    if not points:
        return
    costs, titles = ("seconds per image", "GFLOPs per image"), [column_title(data) for data in drawn]
    figure = cost_plot(points, costs, titles, protocol.miou_name)
    for ending in ("png", "svg"):
        save_cost_plot(output / f"{PLOT}.{ending}", figure)


if __name__ == "__main__":
    sys.exit(run_program(main))
