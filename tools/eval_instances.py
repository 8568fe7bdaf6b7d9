#!/usr/bin/env python3
"""Instance segmentation from boxes: a promptable model draws the mask of each box; mask AP of COCO or LVIS.

python tools/eval_instances.py --config-file configs/escnet/vitb16.yaml --system sam --padded \\
    --images coco/val2017 --annotations instances_val2017.json --boxes vitdet_boxes.json --output output/coco_masks

--annotations is in COCO's format, of COCO or of LVIS; LVIS's files are scored by LVIS's own definition of AP, found by
their neg_category_ids. --boxes gt takes the boxes of the annotated objects, a file those of a detector, in COCO's
format of results (image_id, category_id, bbox, score), as SAM and SAM-CLIP are evaluated with ViTDet's.

It writes results.json, per_class.csv, masks.json (COCO's format of results) and the masks of each image, from which the
same command goes on where an earlier, interrupted call stopped.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import CommandParser, run_program

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from escnet.evaluation.instance_run import InstanceTask

# What is imported in functions takes seconds, and --help and mistyped options should not.
PROGRAM = "eval_instances.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.training.failures import run_or_refuse

    return run_or_refuse(PROGRAM, lambda: evaluate(args), (ValueError, KeyError))


def evaluate(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    from detectron2.utils.logger import setup_logger

    from escnet.config import load_usable_config
    from escnet.evaluation.instance_run import run_instances
    from escnet.publishing.chosen_models import chosen_config

    setup_logger(name="escnet").setLevel(logging.WARNING)
    # Weights of --system are of another format.
    cfg = chosen_config(args.model, args.config_file, args.opts, None if args.system else args.weights)
    cfg = load_usable_config(cfg)
    table = run_instances(cfg, read_task(args, cfg))
    print(f"\n{table}\n\nresults.json is in {args.output}", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_model_options("a checkpoint, or a published model; or weights of --system (else as configured)")
    parser.add_argument("--system", choices=("sam",), help="MODEL.SAM instead of MODEL.META_ARCHITECTURE")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="of the images")
    parser.add_argument("--annotations", required=True, type=Path, metavar="JSON", help="the objects, COCO's format")
    parser.add_argument("--boxes", default="gt", metavar="JSON", help="of a detector, or gt (default), the annotated")
    parser.add_argument(
        "--padded",
        action="store_true",
        help="keep the aspect ratio and pad to a square, as SAM does (default: both axes are scaled)",
    )
    parser.add_argument(
        "--score",
        choices=("quality", "one"),
        default="quality",
        help="of masks of annotated boxes: the IoU that the model expects (default), or 1",
    )
    parser.add_argument("--chunk", type=int, default=32, metavar="N", help="boxes at a time (default: 32)")
    parser.add_argument("--limit", type=int, metavar="K", help="only the first K images")
    parser.add_argument(
        "--library",
        choices=("pycocotools", "faster-coco-eval"),
        help="that counts AP, with equal results (default: faster-coco-eval for COCO where it is installed)",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--restart", action="store_true", help="delete the results that are in the output folder")
    parser.add_config_keys()
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit is {options.limit}; at least one image is needed")
    if options.chunk < 1:
        parser.error(f"--chunk is {options.chunk}; at least one box is needed")
    return options


def read_task(args: argparse.Namespace, cfg: CfgNode) -> InstanceTask:
    """What is to be evaluated."""
    from escnet.evaluation.instance import BoxOptions
    from escnet.evaluation.instance_run import InstanceTask

    return InstanceTask(
        images=args.images,
        annotations=args.annotations,
        output=args.output,
        boxes=args.boxes,
        system=args.system,
        weights=(args.weights or "") if args.system else "",
        options=BoxOptions(args.padded, args.score, args.chunk, cfg.DATALOADER.NUM_WORKERS),
        limit=args.limit,
        library=args.library,
        restart=args.restart,
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
