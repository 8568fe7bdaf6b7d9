r"""Judge the models between SAM and a SAM that was tuned to CLIP: accuracy and mask AP for each share of the second.

    python tools/wise_ft.py --config-file configs/sam_clip/base.yaml --sam-weights sam_vit_b_01ec64.pth \
        --tuned tuned.pth --classification imagenet/val --classes imagenet --classification-size 224 \
        --images coco/val2017 --annotations coco/annotations/instances_val2017.json --instance-size 1024 \
        --output output/wise_ft

For each ALPHA the weights are (1 - ALPHA) SAM + ALPHA tuned (Wise-FT); what SAM has not, the CLIP head, stays tuned.
OUTPUT gets wise_ft.json, after each ALPHA, and wise_ft.png, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escnet.command_line import CommandParser, refuse, run_program

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import Tensor, nn

    from escnet.evaluation.wise_ft import SweepPoint

PROGRAM = "wise_ft.py"
ACCURACY, AP = "zero-shot accuracy", "mask AP from boxes"
# What is imported in functions takes seconds, and --help and mistyped options should not.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.pretrained.files import WeightsError

    try:
        points = judge_all(args)
        draw(args, points)
    except (ValueError, WeightsError, OSError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        return refuse(f"\n{PROGRAM}", "stopped; the same command goes on from here", code=130)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="of a SAM-CLIP")
    parser.add_argument("--sam-weights", metavar="FILE", help="alpha 0: a SAM or a SAM-CLIP (else MODEL.SAM.WEIGHTS)")
    parser.add_argument("--tuned", required=True, metavar="FILE", help="alpha 1: a checkpoint of the SAM-CLIP")
    parser.add_argument(
        "--alphas",
        nargs="+",
        type=float,
        default=[i / 10 for i in range(11)],
        metavar="X",
        help="(default 0 0.1 ... 1)",
    )
    parser.add_argument("--classification", required=True, type=Path, metavar="FOLDER", help="a folder for each class")
    parser.add_argument("--classes", metavar="FILE", help="as for eval_classification.py (default: the folders' names)")
    parser.add_argument("--templates", default="imagenet", metavar="TEXT", help="imagenet (80, default), single ...")
    parser.add_argument("--crop", choices=("centre", "none"), default="centre", help="of pictures that are classified")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="of the annotated objects")
    parser.add_argument("--annotations", required=True, type=Path, metavar="JSON", help="the objects, COCO's format")
    parser.add_argument("--padded", action="store_true", help="keep the aspect ratio and pad to a square, as SAM does")
    parser.add_argument("--limit", type=int, metavar="K", help="only the first K of the annotated images")
    parser.add_argument(
        "--classification-size", type=int, default=0, metavar="S", help="input side (default MODEL.SAM_CLIP.IMAGE_SIZE)"
    )
    parser.add_argument("--instance-size", type=int, default=0, metavar="S", help="input side, likewise")
    parser.add_argument("--teacher-accuracy", type=float, metavar="X", help="in percent; drawn as a line")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--restart", action="store_true", help="delete the results that are in the output folder")
    parser.add_config_keys()
    args = parser.parse_args(arguments)
    for alpha in args.alphas:
        if not 0 <= alpha <= 1:
            parser.error(f"--alphas has {alpha:g}; each has to be between 0, SAM alone, and 1, the tuned model")
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit is {args.limit}; at least one image is needed")
    if args.classification_size < 0 or args.instance_size < 0:
        parser.error(
            "--classification-size and --instance-size are sides in pixels, or 0 for that of the configuration"
        )
    return args


def judge_all(args: argparse.Namespace) -> list[SweepPoint]:
    """Judge each alpha that has no result yet; all results.

    Raises:
        ValueError, WeightsError, OSError: something cannot be used, or written.
    """
    from escnet.config import check_device, load_config
    from escnet.evaluation.runs.run_folder import read_conditions, read_json, require_same_conditions, write_json
    from escnet.evaluation.wise_ft import SweepPoint, sweep
    from escnet.safe_files import check_writable

    cfg = load_config(args.config_file, args.opts)
    check_device(cfg)
    check_sizes(args, cfg)
    check_writable(args.output / "wise_ft.json")
    judge, data = build_judge(args, cfg)
    model, first, second = load_models(args, cfg)
    conditions = data | {"model": model_conditions(cfg, model, first)}
    path, known = args.output / "wise_ft.json", {}
    if args.restart:
        path.unlink(missing_ok=True)
    if path.is_file():
        require_same_conditions(path, read_conditions(path), conditions)
        known = {point["alpha"]: point["scores"] for point in read_json(path)["points"]}
    missing = [alpha for alpha in dict.fromkeys(args.alphas) if alpha not in known]
    for alpha, scores in sweep(model, first, second, missing, judge):
        known[alpha] = scores
        points = [{"alpha": a, "scores": known[a]} for a in sorted(known)]
        write_json(path, {"conditions": conditions, "points": points})
        print(
            f"alpha {alpha:g}: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in scores.items()), flush=True
        )
    return [SweepPoint(alpha, known[alpha]) for alpha in sorted(known)]


def check_sizes(args: argparse.Namespace, cfg: CfgNode) -> None:
    """See that the patches divide the images that the command line or else the configuration asks for.

    Raises:
        ValueError, WeightsError: they do not, or the SAM is unknown.
    """
    from escnet.meta_arch.image_size import fitting_size
    from escnet.pretrained.sam import sam_size

    patch = sam_size(cfg.MODEL.SAM.NAME).patch_size
    sides = {"--classification-size": args.classification_size, "--instance-size": args.instance_size}
    for option, side in sides.items():
        size = (side, side) if side else cfg.MODEL.SAM_CLIP.IMAGE_SIZE
        fitting_size(option if side else "MODEL.SAM_CLIP.IMAGE_SIZE", size, patch)


def load_models(args: argparse.Namespace, cfg: CfgNode) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """The tuned model, and the weights of alpha 0 and alpha 1 by its names.

    Raises:
        ValueError: the configuration's model does not name images and draw masks.
        WeightsError: weights that are missing or do not fit.
    """
    from escnet.evaluation.answering_models import load_answering_model
    from escnet.meta_arch.interfaces import ClassifyingModel, PromptableModel
    from escnet.pretrained.common_parts import is_sam, sam_as_sam_clip
    from escnet.pretrained.reading import read_weights
    from escnet.pretrained.sam import read_sam

    if args.sam_weights is not None:
        start = read_weights(args.sam_weights)
    else:
        start = read_sam(cfg.MODEL.SAM.NAME, cfg.MODEL.SAM.WEIGHTS).tensors
    model = load_answering_model(cfg, PromptableModel, weights=args.tuned)
    if not isinstance(model, ClassifyingModel):
        raise ValueError(f"{type(model).__name__} names no images; take a configuration of a SAM-CLIP")
    tuned = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    return model, sam_as_sam_clip(start, tuned) if is_sam(start) else start, tuned


def model_conditions(cfg: CfgNode, model: nn.Module, first: dict[str, Tensor]) -> dict[str, Any]:
    """Which models are at the two ends."""
    from escnet.evaluation.runs.conditions import model_identity, tensors_sha256

    return model_identity(cfg, model) | {"first weights sha256": tensors_sha256(first)}


def build_judge(
    args: argparse.Namespace, cfg: CfgNode
) -> tuple[Callable[[nn.Module], dict[str, float]], dict[str, Any]]:
    """What scores a model, and the conditions of its scores.

    Raises:
        DatasetError: pictures, classes or objects are not as expected.
    """
    from escnet.data.coco_instances import image_file, read_instances
    from escnet.data.errors import DatasetError
    from escnet.data.image_folders import name_classes, read_image_folder
    from escnet.evaluation.embeddings import EmbeddingOptions
    from escnet.evaluation.instance import BoxOptions, evaluate_instances
    from escnet.evaluation.probing.classification import image_files
    from escnet.evaluation.probing.features import files_identity
    from escnet.evaluation.wise_ft import input_side
    from escnet.evaluation.zero_shot_classification import evaluate_classification
    from escnet.pretrained.files import file_sha256

    folder, data = read_image_folder(args.classification), read_instances(args.annotations, args.limit)
    # The photographs come last, after all pictures that are classified.
    if not any(image_file(args.images, image).is_file() for image in data.images):
        raise DatasetError(
            f"{args.images}: has none of the {len(data.images)} images of {args.annotations}; give their folder as "
            "--images"
        )
    classes = name_classes(folder, None if args.classes == "folders" else args.classes)
    workers = cfg.DATALOADER.NUM_WORKERS
    embedding, boxes = EmbeddingOptions(args.crop, num_workers=workers), BoxOptions(args.padded, num_workers=workers)

    def judge(model: nn.Module) -> dict[str, float]:
        with input_side(model, args.classification_size):
            accuracy = evaluate_classification(model, folder, classes, args.templates, embedding).top1
        with input_side(model, args.instance_size):
            ap = evaluate_instances(model, args.images, data, options=boxes).ap.scores["AP"]
        if ap is None:
            raise DatasetError(f"{args.annotations}: no object counts, so there is no average precision")
        return {ACCURACY: accuracy, AP: ap}

    words = {"words sha256": hashlib.sha256(json.dumps(classes.words).encode()).hexdigest()}
    return judge, {
        "classification": files_identity(image_files(folder)) | words,
        "templates": args.templates,
        "crop": args.crop,
        "annotations sha256": file_sha256(args.annotations),
        "annotated images": len(data.images),
        "padded": args.padded,
        "sizes": [args.classification_size, args.instance_size],
    }


def draw(args: argparse.Namespace, points: list[SweepPoint]) -> None:
    """Write the plot, and print the table."""
    from tabulate import tabulate

    from escnet.evaluation.wise_ft import save_sweep_plot, sweep_plot

    teacher = None if args.teacher_accuracy is None else ("CLIP, the teacher", args.teacher_accuracy / 100)
    title = "Wise-FT from SAM (α = 0) to the tuned model (α = 1)"
    save_sweep_plot(args.output / "wise_ft.png", sweep_plot(points, AP, ACCURACY, title, teacher))
    rows = [[point.alpha, *(100 * point.scores[name] for name in (ACCURACY, AP))] for point in points]
    print("\n" + tabulate(rows, headers=["alpha", ACCURACY, AP], tablefmt="pipe", floatfmt=("g", ".1f", ".1f")))
    print(f"\nwise_ft.json and wise_ft.png are in {args.output}", flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
