#!/usr/bin/env python3
"""Judge a model on benchmarks it was not trained for; results go on where an earlier, interrupted call stopped.

python tools/eval_zero_shot.py --config-file configs/escnet/vitb16.yaml --weights model_final.pth \\
    --benchmarks a150 a847 pc59 pc459 pas20 pas20b --baselines --output output/zero_shot

writes table.md, table.csv, table.json and report.html to the output folder, and for each model and benchmark a folder
with scores, per-class tables, confusions, the worst images, and the counts of each image. --protocol oracle tells the
model which classes each image has, as some papers do: numbers of their own, which the tables call oracle.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import (
    POINT_DRAWS,
    CommandParser,
    add_batch_size,
    add_point_draws,
    point_draws_options,
    refuse,
    run_program,
)
from escnet.data.benchmarks import BENCHMARKS, full_dataset_name, split_dataset_name
from escnet.evaluation.protocols import PROMPTS, PROTOCOLS, Protocol

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from escnet.evaluation.zero_shot import ZeroShotTask

# What is imported in functions takes seconds, and --help and mistyped options should not.
CLASS_NAMES = ("original", "clean")
SHORT_NAMES = [benchmark.short for benchmark in BENCHMARKS if benchmark.short]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(description=__doc__)
    parser.add_model_options()
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        required=True,
        metavar="NAME",
        help=f"{', '.join(SHORT_NAMES)}, any dataset name, or folder:PATH",
    )
    parser.add_argument("--baselines", action="store_true", help="also DenseClip and ClipThenSam, training-free")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="ordinary",
        help="oracle: each image is asked only for the classes that it has; not comparable with ordinary",
    )
    parser.add_argument(
        "--prompts", choices=PROMPTS, default="none", help="of the truth, which an oracle evaluation shows the model"
    )
    parser.add_argument("--limit", type=int, metavar="K", help="only the first K images of each benchmark")
    parser.add_argument("--class-names", choices=CLASS_NAMES, help="names as published (default), or plain English")
    parser.add_argument("--output", default="output/zero_shot", type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--name", metavar="NAME", help="of the model in the table (default: its architecture)")
    parser.add_argument("--restart", action="store_true", help="delete the results that are in the output folder")
    add_batch_size(parser)
    add_point_draws(parser)
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes; on a CPU too")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N")
    parser.add_argument("--dist-url", default="auto", metavar="URL")
    parser.add_config_keys()
    return parser.parse_args(arguments)


def read_config(args: argparse.Namespace) -> CfgNode:
    """The configuration that the command line asks for.

    Raises:
        ConfigError: a file, key or value is wrong, or CUDA is asked for and missing.
        WeightsError: a published model cannot be had.
        ValueError: --point-draws for a model that draws no points.
    """
    from escnet.config import check_device
    from escnet.meta_arch.configured import require_key
    from escnet.publishing.chosen_models import chosen_config

    opts = point_draws_options(args.point_draws, args.opts)
    cfg = chosen_config(args.model, args.config_file, opts, args.weights)
    if args.point_draws is not None:
        require_key(cfg, POINT_DRAWS, "--point-draws")
    if args.class_names:
        cfg.TEST.CLASS_NAMES = args.class_names
    check_device(cfg)
    cfg.freeze()
    return cfg


def read_task(args: argparse.Namespace, cfg: CfgNode) -> ZeroShotTask:
    """What is to be evaluated.

    Raises:
        ValueError: a limit that is not positive or stands beside a slice, a benchmark that is named twice, or prompts
            under the ordinary protocol.
    """
    from escnet.evaluation.zero_shot import ZeroShotTask

    datasets = [full_dataset_name(name) for name in args.benchmarks]
    if args.limit is not None:
        if args.limit < 1:
            raise ValueError(f"--limit is {args.limit}; at least one image is needed")
        sliced = [name for name in datasets if split_dataset_name(name)[1] != slice(None)]
        if sliced:
            raise ValueError(f"--limit and the slice of {sliced[0]} contradict each other; leave one out")
        datasets = [f"{name}[:{args.limit}]" for name in datasets]
    twice = [name for name in datasets if datasets.count(name) > 1]
    if twice:
        raise ValueError(f"--benchmarks names {twice[0]} twice")
    name = args.name or cfg.MODEL.META_ARCHITECTURE
    return ZeroShotTask(
        tuple(datasets),
        args.output,
        name,
        args.baselines,
        args.restart,
        batch_size=args.batch_size,
        protocol=Protocol(args.protocol, args.prompts),
    )


def run(cfg: CfgNode, task: ZeroShotTask) -> None:
    """Evaluate, as one process of several; what cannot be used, or written, ends it with exit code 2."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from escnet.evaluation.zero_shot import evaluate_zero_shot
    from escnet.training.failures import explain_failure

    setup_logger(name="escnet", distributed_rank=comm.get_rank()).setLevel(logging.WARNING)
    try:
        table = evaluate_zero_shot(cfg, task)
    except ValueError as error:
        sys.exit(refuse("eval_zero_shot.py", error))
    except Exception as error:
        explanation = explain_failure(error)
        if explanation is None:
            raise
        sys.exit(refuse("eval_zero_shot.py", explanation))
    if table is not None:
        print(f"\n{table}\n\ntables and report.html are in {task.output}", flush=True)


def main() -> None:
    args = parse_arguments()
    from escnet.pretrained.files import WeightsError
    from escnet.training.config_checks import small_memory_warning
    from escnet.training.launch import check_processes, launch

    try:
        cfg = read_config(args)
        task = read_task(args, cfg)
        check_processes(args, cfg.MODEL.DEVICE)
    except (ValueError, WeightsError) as error:
        sys.exit(refuse("eval_zero_shot.py", error))
    warning = small_memory_warning(cfg)
    if warning:
        print(f"eval_zero_shot.py: warning: {warning}", file=sys.stderr, flush=True)
    try:
        launch(run, args, cfg.MODEL.DEVICE, (cfg, task))
    except KeyboardInterrupt:
        sys.exit(refuse("\neval_zero_shot.py", "stopped; the same command goes on from here", code=130))


if __name__ == "__main__":
    sys.exit(run_program(main))
