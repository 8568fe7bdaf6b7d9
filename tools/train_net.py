"""Train or evaluate a model of a config, in one process or many, also under torchrun.

python tools/train_net.py --config-file configs/camvid/escnet.yaml [--resume] [--eval-only] [KEY VALUE ...]
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import escnet.meta_arch  # noqa: F401  registers the systems
from escnet.config import check_device, load_config
from escnet.pretrained.files import WeightsError
from escnet.training.checkpoint import SafeCheckpointer
from escnet.training.launch import check_processes, launch
from escnet.training.tasks.segmentation import check_config, evaluate, segmentation_trainer


def read_config(args: Namespace) -> CfgNode:
    """The config of the command line.

    Raises:
        ConfigError: a file, key or value is wrong, or CUDA is asked for and missing.
    """
    cfg = load_config(args.config_file, args.opts)
    check_device(cfg)
    cfg.freeze()
    return cfg


def run(cfg: CfgNode, args: Namespace) -> None:
    """Train or evaluate, as one process of the run; a configuration that cannot be used ends it with exit code 2."""
    default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="escnet")
    if cfg.MODEL.DEVICE == "cpu":
        logger.warning(
            f"Running on the CPU: {comm.get_world_size()} process(es), {torch.get_num_threads()} thread(s) each"
        )
    try:
        if args.eval_only:
            check_config(cfg, training=False)
            model = build_model(cfg)
            SafeCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        else:
            trainer = segmentation_trainer(cfg)
            trainer.resume_or_load(resume=args.resume)
    except (ValueError, WeightsError) as error:
        refuse(error)
    if args.eval_only:
        evaluate(cfg, model)
    else:
        trainer.train()


def refuse(error: Exception) -> None:
    """Say what is wrong and exit with code 2."""
    print(f"{os.path.basename(__file__)}: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


def main() -> None:
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    args = parser.parse_args()
    try:
        cfg = read_config(args)
        check_processes(args, cfg.MODEL.DEVICE)
    except ValueError as error:
        refuse(error)
    launch(run, args, cfg.MODEL.DEVICE, (cfg, args))


if __name__ == "__main__":
    main()
