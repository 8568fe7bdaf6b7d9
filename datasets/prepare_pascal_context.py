"""Make label maps of Pascal Context with 59 and with 459 classes, from the annotations as published.

    python datasets/prepare_pascal_context.py [--root $DETECTRON2_DATASETS/VOCdevkit/VOC2010] [--classes 59]

reads   JPEGImages/*.jpg of VOC 2010, and
        trainval_merged.json   for the 59 classes and the split; without it the 59 are derived from trainval/*.mat
        trainval/*.mat         for the 459 classes (LabelMap, ids 1..459)
writes  annotations_detectron2/pc59_{train,val}/*.png (255 = ignored) and pc459_{train,val}/*.tif (65535 = ignored)

Without trainval_merged.json the split is that of pascalcontext_{train,val}.txt beside it, else that of VOC 2010
(ImageSets/Main) among the images that have a .mat file. What is there already is kept, so that a run that was cut off
can be continued.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from escnet.command_line import run_program
from escnet.data.class_tables import load_class_table
from escnet.data.errors import DatasetError
from escnet.data.pairing import files_by_name, pair, read_list
from escnet.data.preparation.label_conversion import IdTable, read_context_masks, read_context_mat, train_ids_by_raw_id
from escnet.data.preparation.script import LabelSet, run_script

FOLDER = "VOCdevkit/VOC2010"
SPLITS = ("train", "val")
UNLABELLED = 0
RAW_IDS = range(460)
JSON, MAT_FOLDER, VOC_LISTS = "trainval_merged.json", "trainval", "ImageSets/Main"
# Of an image: its phase, and its (H,W) with the (category id, run lengths) of its masks.
Annotation = tuple[str, tuple[tuple[int, int], list[tuple[int, Any]]]]


@lru_cache(maxsize=1)
def read_annotations(path: Path) -> dict[str, Annotation]:
    """The phase and the masks of each image by its name.

    Raises:
        DatasetError: the json is another one, or has masks of images that it does not list.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        images = {
            image["image_id"]: (
                Path(image["file_name"]).stem,
                (image["phase"], ((int(image["height"]), int(image["width"])), [])),
            )
            for image in contents["images"]
        }
        for mask in contents["annos_segmentation"]:
            _, (_, (_, masks)) = images[mask["image_id"]]
            masks.append((int(mask["category_id"]), mask["segmentation"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: is not the json of Pascal Context, or is cut off ({type(error).__name__}: {error}); expected are "
            f"images with phase, and annos_segmentation of these images; download {JSON} again"
        ) from error
    return dict(images.values())


def split_names(
    root: Path, split: str, annotations: Mapping[str, Annotation], mats: Mapping[str, str]
) -> tuple[list[str], str]:
    """The names of the images of a split, and what says so."""
    if annotations:
        return [name for name, (phase, _) in annotations.items() if phase == split], JSON
    own = root / f"pascalcontext_{split}.txt"
    if own.is_file():
        return read_list(own), own.name
    voc = read_list(root / VOC_LISTS / f"{split}.txt")
    return [name for name in voc if name in mats], f"{VOC_LISTS}/{split}.txt, of which {MAT_FOLDER} has a .mat"


def plan(options: Namespace, split: str) -> list[LabelSet]:
    """The label maps of a split, and what they are made of."""
    root = options.root
    mats = files_by_name(root / MAT_FOLDER, ".mat")
    annotations = read_annotations(root / JSON) if (root / JSON).is_file() else {}
    images = files_by_name(root / "JPEGImages", ".jpg")
    expected = f"{root}/JPEGImages/*.jpg from VOCtrainval_03-May-2010.tar, "
    from_mat, from_json = f"{root}/{MAT_FOLDER}/*.mat from trainval.tar.gz", f"{root}/{JSON}"
    if not mats and (459 in options.classes or not annotations):
        with_json = "" if 459 in options.classes else f" or {from_json}"
        advice = "; --classes 59 does without the .mat files" if annotations else ""
        raise DatasetError(f"no label files found; expected are {expected}{from_mat}{with_json}{advice}")
    names, decided = split_names(root, split, annotations, mats)
    if not names:
        raise DatasetError(f"{decided} names no image of the split; expected are {expected}{from_mat} or {from_json}")

    label_sets = []
    for classes in sorted(set(options.classes)):
        train_ids = train_ids_by_raw_id(load_class_table(f"pascal_context_{classes}.tsv"))
        ignored, ignore_label = (RAW_IDS, 255) if classes == 59 else ([UNLABELLED], 65535)
        use_json = classes == 59 and bool(annotations)
        source = from_json if use_json else from_mat
        table = IdTable.of(train_ids, ignored, ignore_label, f"the ids 0..459, {source}")
        with_masks = {name: str(root / JSON) for name, (_, (_, masks)) in annotations.items() if masks}
        sources = pair(images, with_masks if use_json else mats, f"{expected}{source}", names)
        if use_json:
            sources = {name: item._replace(detail=annotations[name][1]) for name, item in sources.items()}
        label_sets.append(
            LabelSet(
                f"pascal_context_{classes}_{split}",
                root,
                FOLDER,
                partial(read_context_masks if use_json else read_context_mat, table=table),
                sources,
                settings={"labels_from": JSON if use_json else MAT_FOLDER},
                notes=(f"labels from {JSON if use_json else MAT_FOLDER}; split from {decided}",),
            )
        )
    return label_sets


def add_options(parser: ArgumentParser) -> None:
    """What this script has besides the options of all."""
    parser.add_argument("--classes", nargs="+", type=int, choices=(59, 459), default=[59, 459], help="default: both")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run_script(__doc__, FOLDER, SPLITS, plan, arguments, add_options)


if __name__ == "__main__":
    sys.exit(run_program(main))
