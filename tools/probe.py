r"""Probe a frozen image encoder: train heads on its hidden states and judge them, on segmentation or classification.

    python tools/probe.py --config-file configs/escnet/vitb16.yaml --system clip \
        --train voc_20_train --test voc_20_val --heads linear deeplabv3 pspnet --image-size 448 --output output/probing
    python tools/probe.py --config-file ... --weights model_final.pth --features head \
        --classification imagenet/train imagenet/val --image-size 224 --output output/probing

    python tools/probe.py ... --train folder:streets/train --test folder:streets/val LABELLED.IMAGES 32 LABELLED.SEED -1

Probed is the system of the configuration or, with --system, the CLIP or the SAM that it names. LABELLED takes some of
the training images for segmentation heads, with LABELLED.SEED -1 others for each of --seeds. Features are computed
once and kept in OUTPUT/NAME/features for all heads and seeds; results go to OUTPUT/NAME/results.json after each probe,
and the same command goes on where it was stopped. The table that is printed has a row for each model in OUTPUT.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escnet.command_line import CommandParser, refuse, run_program

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode

    from escnet.evaluation.probing.features import FeatureStore
    from escnet.evaluation.probing.results import ProbeResults

PROGRAM = "probe.py"
# What is imported in functions takes seconds, and --help and mistyped options should not.
HEADS = ("linear", "deeplabv3", "pspnet")
SYSTEMS = ("clip", "sam")
SEGMENTATION, CLASSIFICATION = "segmentation", "classification"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.evaluation.probing.results import probe_table
    from escnet.pretrained.files import WeightsError

    try:
        probe(args)
        print(f"\n{probe_table(args.output)}\n\nresults.json and features are in {args.output / args.name}", flush=True)
    except (ValueError, WeightsError, OSError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        return refuse(f"\n{PROGRAM}", "stopped; the same command goes on from here", code=130)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_model_options("of the system that is probed: a file, or a published model (else as configured)")
    parser.add_argument(
        "--system", choices=SYSTEMS, help="probe the configuration's CLIP or SAM in place of its system"
    )
    parser.add_argument(
        "--features",
        default="backbone",
        metavar="NAME",
        help="hidden state: backbone; of CLIP also text and all; of SAM-CLIP also head, both, text and all",
    )
    parser.add_argument("--train", metavar="DATASET", help="segmentation: a dataset's name, or folder:PATH")
    parser.add_argument("--test", metavar="DATASET", help="segmentation: of the same classes")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS, metavar="HEAD", help=", ".join(HEADS))
    parser.add_argument(
        "--classification", nargs=2, type=Path, metavar=("TRAIN", "TEST"), help="folders with a folder for each class"
    )
    parser.add_argument("--image-size", type=int, default=448, metavar="S", help="pictures become S x S (default 448)")
    parser.add_argument(
        "--label-size", type=int, default=0, metavar="L", help="label maps of the training become L x L (default S)"
    )
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="of a segmentation head (default 20)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="of a segmentation head (default 16)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="X", help="of a segmentation head (1e-3)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="(default 0 1 2)")
    parser.add_argument("--disk-limit", type=float, default=50.0, metavar="GIB", help="of each file of features (50)")
    parser.add_argument("--output", type=Path, default=Path("output/probing"), metavar="DIR", help="of all models")
    parser.add_argument("--name", metavar="NAME", help="of the model in the table and of its folder")
    parser.add_argument("--restart", action="store_true", help="delete the results and features of this model first")
    parser.add_config_keys()
    args = parser.parse_args(arguments)
    if (args.train is None) != (args.test is None):
        parser.error("--train and --test go together")
    if args.train is None and args.classification is None:
        parser.error("there is nothing to do: give --train and --test, or --classification")
    if args.label_size < 0:
        parser.error(f"--label-size is {args.label_size}; give a side in pixels, or 0 for that of the pictures")
    if min(args.seeds) < 0:
        parser.error(f"--seeds has {min(args.seeds)}; a seed is 0 or more")
    if args.name in ("", ".", "..") or "/" in (args.name or ""):
        parser.error(f"--name is {args.name!r}, which is no name of a folder")
    return args


def probe(args: argparse.Namespace) -> None:
    """Build the model, and do all probes that are not done yet.

    Raises:
        ValueError, WeightsError, OSError: something cannot be used, or written.
    """
    import logging

    from detectron2.utils.logger import setup_logger

    from escnet.evaluation.answering_models import load_answering_model
    from escnet.evaluation.probing.features import Encoding, FeatureStore
    from escnet.evaluation.probing.results import ProbeResults, delete_results
    from escnet.evaluation.probing.stored_arrays import GIB, delete_stored
    from escnet.meta_arch.representation import RepresentingModel

    setup_logger(name="escnet").setLevel(logging.WARNING)
    cfg = read_config(args)
    weights = (args.weights or "") if args.system else ""
    model = load_answering_model(cfg, RepresentingModel, args.system, weights).requires_grad_(False)
    name = args.system or type(model).__name__
    args.name = args.name or (name if args.features == "backbone" else f"{name}-{args.features}")
    folder = args.output / args.name
    workers = cfg.DATALOADER.NUM_WORKERS
    limit = args.disk_limit * GIB
    encoding = Encoding(args.features, args.image_size, args.label_size, num_workers=workers, disk_limit=limit)
    store = FeatureStore(model, encoding, folder / "features")
    if args.restart:
        delete_stored(folder / "features")
        delete_results(folder)
    results = ProbeResults(folder, args.name)
    if args.train is not None:
        probe_segmentation(args, cfg, store, results)
    if args.classification is not None:
        probe_classification(args, store, results, cfg.MODEL.DEVICE)


def read_config(args: argparse.Namespace) -> CfgNode:
    """The configuration that the command line asks for.

    Raises:
        ConfigError: a file, key or value is wrong, or a device is asked for and missing.
    """
    from escnet.config import check_device
    from escnet.publishing.chosen_models import chosen_config

    # Weights of --system are of another format.
    cfg = chosen_config(args.model, args.config_file, args.opts, None if args.system else args.weights)
    check_device(cfg)
    return cfg


def probe_segmentation(args: argparse.Namespace, cfg: CfgNode, store: FeatureStore, results: ProbeResults) -> None:
    """Train each head with each seed, and add its mIoU.

    Raises:
        ValueError, OSError: as said of `probe`.
    """
    from escnet.data.benchmarks import full_dataset_name
    from escnet.data.labelled import uses_labelled
    from escnet.evaluation.probing.features import files_identity
    from escnet.evaluation.probing.segmentation import HeadData, HeadRecipe, probe_head
    from escnet.evaluation.runs.evaluation_data import EvaluationData

    recipe = HeadRecipe(args.epochs, args.batch_size, args.learning_rate)
    train, test = (EvaluationData.load(full_dataset_name(name), cfg) for name in (args.train, args.test))
    label_size = args.label_size or args.image_size
    conditions = {"features": store.identity, "recipe": asdict(recipe) | {"label size": label_size}}
    for role, data in (("train", train), ("test", test)):
        files = [record[key] for record in data.records for key in ("file_name", "sem_seg_file_name")]
        conditions[role] = {"name": data.dataset} | files_identity(files)
    if uses_labelled(cfg):
        chosen = cfg.LABELLED
        conditions["labelled"] = {"images": chosen.IMAGES, "seed": chosen.SEED, "validation": chosen.VALIDATION}
    results.begin(SEGMENTATION, conditions)
    missing = [(head, s) for head in args.heads for s in args.seeds if not results.has(SEGMENTATION, head, s)]
    if not missing:
        return
    data = HeadData.load(store, train, test)
    for head, seed in missing:
        metrics = probe_head(head, data.labelled(cfg, train, seed), recipe, seed, cfg.MODEL.DEVICE)
        results.add(SEGMENTATION, head, seed, metrics.miou, pixel_accuracy=metrics.pixel_accuracy)


def probe_classification(
    args: argparse.Namespace, store: FeatureStore, results: ProbeResults, device: torch.device | str
) -> None:
    """Fit a logistic regression with each seed, and add its accuracy.

    Raises:
        ValueError, OSError: as said of `probe`.
    """
    from escnet.data.image_folders import read_image_folder
    from escnet.evaluation.probing import classification as linear
    from escnet.evaluation.probing.features import files_identity

    train, test = map(read_image_folder, args.classification)
    conditions: dict[str, Any] = {"features": store.identity}
    for role, folder in (("train", train), ("test", test)):
        identity = {"name": linear.set_name(folder), "classes": len(folder.folders)}
        conditions[role] = identity | files_identity(linear.image_files(folder))
    results.begin(CLASSIFICATION, conditions)
    missing = [seed for seed in args.seeds if not results.has(CLASSIFICATION, "linear", seed)]
    if not missing:
        return
    data = linear.ClassificationData.load(store, train, test)
    for seed in missing:
        found = linear.probe_classification(data, seed, device)
        held_out = {f"{decay:g}": accuracy for decay, accuracy in found.held_out.items()}
        results.add(CLASSIFICATION, "linear", seed, found.accuracy, weight_decay=found.weight_decay, held_out=held_out)


if __name__ == "__main__":
    sys.exit(run_program(main))
