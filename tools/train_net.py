"""Train or evaluate a model of a config, in one process or many, also under torchrun.

    python tools/train_net.py --config-file configs/camvid/escnet.yaml [--resume] [--eval-only] [KEY VALUE ...]

On several machines, on each with its own rank:

    python tools/train_net.py --config-file ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:29500
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from escnet.command_line import CommandParser, refuse, run_program

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# What is imported in functions takes seconds, and --help and mistyped options should not.


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, whose options are those of Detectron2's own tools."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="configuration of the model")
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT_DIR, if there is one")
    parser.add_argument("--eval-only", action="store_true", help="evaluate on DATASETS.TEST, and train nothing")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on a machine; on a CPU too")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", metavar="URL", help="of machine 0, if there are several")
    parser.add_config_keys()
    return parser.parse_args(arguments)


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of the command line.

    Raises:
        ConfigError: a file, key or value is wrong, or a device is asked for and missing.
        WeightsError: MODEL.WEIGHTS names a published model that cannot be had.
    """
    from escnet.config import load_usable_config
    from escnet.publishing.chosen_models import chosen_config

    return load_usable_config(chosen_config(None, args.config_file, args.opts))


def check_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Check, before any process is started, what a run needs of them and of the machine.

    Raises:
        ValueError: it cannot be started.
    """
    from escnet.training.config_checks import check_batch, check_shared_memory, small_memory_warning
    from escnet.training.launch import check_processes, count_processes

    check_processes(args, cfg.MODEL.DEVICE)
    if not args.eval_only:
        processes, local_processes = count_processes(args)
        check_batch(cfg, processes)
        check_shared_memory(cfg, processes, local_processes)
    warning = small_memory_warning(cfg) if cfg.DATASETS.TEST else None
    if warning:
        print(f"train_net.py: warning: {warning}", file=sys.stderr, flush=True)


def run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Train or evaluate, as one process of the run; what cannot be used, or written, ends it with exit code 2."""
    from escnet.pretrained.files import WeightsError
    from escnet.training.failures import explain_failure

    try:
        _start_log(cfg, args)
        try:
            work = _prepare(cfg, args)
        except (ValueError, WeightsError) as error:
            sys.exit(refuse("train_net.py", error))
        work()
    except Exception as error:
        explanation = explain_failure(error)
        if explanation is None:
            raise
        sys.exit(refuse("train_net.py", explanation))


def _start_log(cfg: CfgNode, args: argparse.Namespace) -> None:
    import torch
    from detectron2.engine import default_setup
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from escnet.training.failures import leave_tracebacks_to_python

    default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="escnet")
    leave_tracebacks_to_python()
    if cfg.MODEL.DEVICE == "cpu":
        logger.warning(
            f"Running on the CPU: {comm.get_world_size()} process(es), {torch.get_num_threads()} thread(s) each"
        )


def _prepare(cfg: CfgNode, args: argparse.Namespace) -> Callable[[], object]:
    """Build and load everything; returns what is then to be done.

    Raises:
        ValueError, WeightsError: something cannot be used.
    """
    import escnet.meta_arch  # noqa: F401  registers the systems
    from escnet.evaluation.loop import evaluate_datasets
    from escnet.training.tasks.build import build_trainer
    from escnet.training.tasks.segmentation import check_config

    if not args.eval_only:
        trainer = build_trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train
    from detectron2.modeling import build_model

    from escnet.training.checkpoint import SafeCheckpointer

    check_config(cfg, training=False)
    model = build_model(cfg)
    SafeCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    return partial(evaluate_datasets, cfg, model)


def main() -> None:
    args = parse_arguments()
    from escnet.config import find_config
    from escnet.pretrained.files import WeightsError
    from escnet.training.launch import launch

    try:
        # Detectron2 copies the file to the output folder, and knows of none that ships with the package.
        args.config_file = str(find_config(args.config_file))
        cfg = read_config(args)
        check_run(cfg, args)
    except (ValueError, WeightsError) as error:
        sys.exit(refuse("train_net.py", error))
    try:
        launch(run, args, cfg.MODEL.DEVICE, (cfg, args))
    except KeyboardInterrupt:
        remedy = "" if args.eval_only else "; the same command with --resume goes on from the last checkpoint"
        sys.exit(refuse("\ntrain_net.py", f"stopped{remedy}", code=130))


if __name__ == "__main__":
    sys.exit(run_program(main))
