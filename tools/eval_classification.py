#!/usr/bin/env python3
"""Zero-shot classification and retrieval: name the images of a folder, and let images and captions find each other.

python tools/eval_classification.py --config-file configs/mojiscenes/escnet.yaml --system clip \\
    --images imagenet/val --classes imagenet --output output/imagenet

--images holds a folder for each class, as ImageNet, ImageNet-v2 (0 to 999) and Places365 do, or any images that
--captions names. By default images are read as CLIP is evaluated, and as open_clip does it: the shorter side is resized
to the model's input (bicubic) and the middle square is cut out (--crop none: the model resizes whole images), and the
words of a class stand in CLIP's 80 templates.

It writes results.json, per_class.csv, and embeddings.safetensors, which later calls with the same --output use again
for other classes or captions.
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

    from escnet.evaluation.whole_images import WholeImageTask

# What is imported in functions takes seconds, and --help and mistyped options should not.
PROGRAM = "eval_classification.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.training.failures import run_or_refuse

    return run_or_refuse(PROGRAM, lambda: evaluate(args), (ValueError, KeyError))


def evaluate(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    from detectron2.utils.logger import setup_logger

    from escnet.config import load_usable_config
    from escnet.evaluation.whole_images import evaluate_whole_images
    from escnet.publishing.chosen_models import chosen_config

    setup_logger(name="escnet").setLevel(logging.WARNING)
    # Weights of --system are of another format.
    cfg = chosen_config(args.model, args.config_file, args.opts, None if args.system else args.weights)
    cfg = load_usable_config(cfg)
    table = evaluate_whole_images(cfg, read_task(args, cfg))
    print(f"\n{table}\n\nresults.json is in {args.output}", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_model_options("a checkpoint, or a published model; or weights of --system (else as configured)")
    parser.add_argument("--system", choices=("clip",), help="MODEL.CLIP instead of MODEL.META_ARCHITECTURE")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="of the images")
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="lines folder<TAB>name, synonym; or 'imagenet', the 1000 names of CLIP's authors in the order of the "
        "folders; or 'folders', the names of the folders (default without --captions)",
    )
    parser.add_argument("--captions", type=Path, metavar="JSON", help="of COCO, or Karpathy's of Flickr30k or COCO")
    parser.add_argument("--split", default="test", metavar="NAME", help="of Karpathy's captions (default: test)")
    parser.add_argument(
        "--captions-per-image", type=int, default=0, metavar="K", help="the first K, 5 in the literature (default: all)"
    )
    parser.add_argument(
        "--templates", default="imagenet", metavar="TEXT", help="imagenet (80, default), single, or a text with {}"
    )
    parser.add_argument("--crop", choices=("centre", "none"), default="centre", help="how images are read (see above)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--restart", action="store_true", help="delete the embeddings and results in the output folder")
    parser.add_config_keys()
    options = parser.parse_args(arguments)
    if options.captions_per_image < 0:
        parser.error(f"--captions-per-image is {options.captions_per_image}; give a number, or 0 for all")
    if options.batch_size < 1:
        parser.error(f"--batch-size is {options.batch_size}; at least one image is needed")
    return options


def read_task(args: argparse.Namespace, cfg: CfgNode) -> WholeImageTask:
    """What is to be evaluated."""
    from escnet.evaluation.embeddings import EmbeddingOptions
    from escnet.evaluation.whole_images import FOLDERS, WholeImageTask

    return WholeImageTask(
        images=args.images,
        output=args.output,
        classes=args.classes or (None if args.captions else FOLDERS),
        captions=args.captions,
        split=args.split,
        captions_per_image=args.captions_per_image,
        templates=args.templates,
        system=args.system,
        weights=(args.weights or "") if args.system else "",
        options=EmbeddingOptions(args.crop, args.batch_size, cfg.DATALOADER.NUM_WORKERS),
        restart=args.restart,
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
