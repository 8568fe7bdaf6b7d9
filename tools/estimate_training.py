#!/usr/bin/env python3
"""Estimate what a training on pixels and its evaluation take: FLOPs, memory, hours.

    python tools/estimate_training.py --config-file configs/escnet/vitb16.yaml
    python tools/estimate_training.py --config-file configs/escnet/vitl14.yaml --tflops 120 MODEL.PRECISION bf16

Work, memory and operators are counted on the configured model at its real size, with tensors that have no numbers: no
weights, no images and no GPU are needed, 5 GiB of memory and a few minutes. All else is arithmetic from the options,
each of which is an assumption that is printed; the default rate is two fifths of an A100's peak in fp32. A GPU computes
while it is asked for the next operators: what takes longer is the time of a step. Exit code: 0 if the training can run
on all clusters, 1 if it cannot on some (they are named), 2 if nothing can be estimated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import (
    CommandParser,
    add_gpu_assumptions,
    at_least_one,
    positive_number,
    print_table,
    refuse,
    run_program,
)

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from escnet.training.estimation.segmentation import SegmentationCounter, StepPlan, TrainingCost
    from escnet.vocabulary import Vocabulary

PROGRAM = "estimate_training.py"
BENCHMARKS = ("a847", "pc459", "a150", "pc59", "pas20", "pas20b")
GIGA = 1e9


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    # What is imported in functions takes seconds, and --help and mistyped options should not.
    from escnet.config import ConfigError, load_config
    from escnet.training.estimation.segmentation import SegmentationCounter

    try:
        cfg = load_config(args.config_file, args.opts)
        words = training_words(cfg, args.classes)
        tests = [(name, *benchmark_words(cfg, name)) for name in args.benchmarks]
        return print_estimate(cfg, SegmentationCounter(cfg), words, tests, args)
    except (ConfigError, ValueError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        return refuse(f"\n{PROGRAM}", "stopped", code=130)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML", help="configuration of a training on pixels")
    add("--classes", type=at_least_one, metavar="N", help="of a training (default: the words of DATASETS.TRAIN)")
    add("--gpus", type=at_least_one, nargs="+", default=[1, 4], metavar="N", help="clusters (default: 1 4)")
    add("--benchmarks", nargs="+", default=BENCHMARKS, metavar="NAME", help=f"(default: {' '.join(BENCHMARKS)})")
    add_gpu_assumptions(parser, tflops=8.0, memory=40.0)
    add(
        "--launch-us",
        type=positive_number,
        nargs=2,
        default=(34.0, 15.0),
        metavar=("TRAINING", "PREDICTION"),
        help="from one operator to the next of which a GPU is asked, in microseconds (default: 34 15, measured)",
    )
    parser.add_config_keys("changes to the configuration, at the end")
    return parser.parse_args(arguments)


def training_words(cfg: CfgNode, classes: int | None) -> Vocabulary:
    """The words of a training: so many, or those of its dataset, of several the one with the most.

    Raises:
        ValueError: no dataset is named, or one is unknown.
    """
    from escnet.data.label_spaces import dataset_vocabulary
    from escnet.vocabulary import Vocabulary

    if classes is not None:
        return Vocabulary([f"thing number {i}" for i in range(classes)], templates=cfg.INPUT.TEMPLATES)
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; name a dataset, or say how many --classes there are")
    found = [dataset_vocabulary(name, cfg.INPUT.TEMPLATES, cfg.INPUT.CLASS_NAMES) for name in cfg.DATASETS.TRAIN]
    return max(found, key=lambda words: len(words.rows))


def benchmark_words(cfg: CfgNode, name: str) -> tuple[Vocabulary, int]:
    """The words of a benchmark, and how many images it has.

    Raises:
        ValueError: it is none.
    """
    from escnet.data.benchmarks import find_benchmark
    from escnet.data.label_spaces import dataset_vocabulary

    benchmark = find_benchmark(name)
    if benchmark is None or not benchmark.sizes:
        raise ValueError(f"--benchmarks: {name} is no benchmark of which the number of images is known")
    return dataset_vocabulary(benchmark.name, cfg.TEST.TEMPLATES, cfg.TEST.CLASS_NAMES), max(benchmark.sizes)


def print_estimate(
    cfg: CfgNode,
    counter: SegmentationCounter,
    words: Vocabulary,
    tests: Sequence[tuple[str, Vocabulary, int]],
    args: argparse.Namespace,
) -> int:
    """Print all tables; returns the exit code."""
    name = Path(args.config_file).stem
    training, evaluation = args.launch_us
    print(
        f"{name}, MODEL.PRECISION {cfg.MODEL.PRECISION}. Assumed: {args.tflops:g} TFLOP/s sustained by a GPU of "
        f"{args.gpu_memory:g} GB, {training:g} us from one operator to the next ({evaluation:g} in evaluation), "
        f"{args.bandwidth:g} GB/s of network for each GPU.\nGB are 10^9 bytes; a multiply-add is two FLOPs."
    )
    cost = counter.training(words)
    print_work(name, cost, len(words.rows))
    refused: list[str] = []
    print_training(cfg, cost, list(plans(cfg, counter, cost, words, args, refused)))
    for reason in refused:
        print(f"\n{reason}")
    print_evaluation(counter, tests, args)
    return 1 if refused else 0


def plans(
    cfg: CfgNode,
    counter: SegmentationCounter,
    cost: TrainingCost,
    words: Vocabulary,
    args: argparse.Namespace,
    refused: list[str],
) -> Iterator[StepPlan]:
    """The plan of each cluster; why one cannot be, or cannot run, is added to `refused`."""
    from escnet.training.config_checks import check_batch
    from escnet.training.estimation.gpus import RESERVE, Cluster
    from escnet.training.estimation.segmentation import StepPlan

    for gpus in args.gpus:
        cluster = Cluster(gpus, args.tflops * 1e12, args.bandwidth * GIGA, args.gpu_memory * GIGA)
        try:
            check_batch(cfg, gpus)
        except ValueError as error:
            refused.append(f"{gpus} GPUs: {error}")
            continue
        images = cfg.SOLVER.IMS_PER_BATCH // gpus
        step = counter.step(words, images)
        plan = StepPlan(cluster, images, cost, step, args.launch_us[0] / 1e6, cfg.SOLVER.MAX_ITER)
        if not plan.fits:
            free = (1 - RESERVE) * args.gpu_memory
            refused.append(f"{gpus} GPUs: {images} images need {plan.memory / GIGA:.1f} GB, and {free:.1f} GB are free")
        yield plan


def print_work(name: str, cost: TrainingCost, words: int) -> None:
    """What a step computes."""
    flops = (cost.text_forward, cost.text_backward, cost.forward, cost.backward, cost.recomputed)
    row = [name, f"{cost.parameters / 1e6:.1f} ({cost.trained / 1e6:.1f})", words]
    header = ["configuration", "M parameters (trained)", "words", "words: forward", "backward", "image: forward"]
    print_table(
        "Work of a training step, in GFLOP: of the words once in each process, and of each image",
        [*header, "backward", "of it computed again"],
        [[*row, *(f"{value / GIGA:.1f}" for value in flops)]],
    )


def print_training(cfg: CfgNode, cost: TrainingCost, planned: Sequence[StepPlan]) -> None:
    """How long a training takes, and what a GPU holds."""
    rows = [
        [plan.cluster.gpus, plan.images, f"{cost.flops(plan.images) / GIGA:.0f}", plan.footprint.operators]
        + [f"{seconds:.3f}" for seconds in (plan.computing, plan.launching, plan.averaging, plan.step)]
        + [f"{plan.hours:.1f}", f"{plan.hours * plan.cluster.gpus:.1f}", f"{plan.memory / GIGA:.1f}"]
        for plan in planned
    ]
    header = ["GPUs", "images of each", "GFLOP", "operators", "computing, s", "launching, s", "averaging, s", "step, s"]
    title = f"Training of {cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images"
    print_table(title, [*header, "hours", "GPU-hours", "memory of a GPU, GB"], rows)


def print_evaluation(
    counter: SegmentationCounter, tests: Sequence[tuple[str, Vocabulary, int]], args: argparse.Namespace
) -> None:
    """What the benchmarks take on one GPU, as whole images and in windows too."""
    rows = []
    for name, words, images in tests:
        row = [name, len(words.rows), images]
        for windows in (False, True):
            work = counter.image(words, windows)
            seconds = work.seconds(args.tflops * 1e12, args.launch_us[1] / 1e6)
            row += [f"{work.flops / GIGA:.0f}", work.operators, f"{seconds:.3f}", f"{images * seconds / 3600:.2f}"]
        rows.append(row)
    parts = ["GFLOP", "operators", "s", "hours"]
    header = ["benchmark", "words", "images", *parts, *(f"windows: {part}" for part in parts)]
    print_table("Evaluation on one GPU, an image at a time, its words embedded already", header, rows)


if __name__ == "__main__":
    sys.exit(run_program(main))
