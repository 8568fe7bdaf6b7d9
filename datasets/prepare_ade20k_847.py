"""Make photographs and label maps of ADE20K with 847 train ids, 65535 = ignored, from ADE20K_2021_17_01.

    python datasets/prepare_ade20k_847.py [--root $DETECTRON2_DATASETS/ADE20K_2021_17_01] [--splits validation]

reads   images/ADE/{training,validation}/**/ADE_*.jpg and, beside them, *_seg.png (RGB, id = R // 10 * 256 + G)
writes  images_detectron2/{training,validation}/*.jpg and annotations_detectron2/{training,validation}/*.tif (16-bit)

Photographs whose shorter side exceeds 512 pixels are shrunk to that, and all are saved with JPEG quality 75, as in
the preparation of MaskFormer, on which published numbers rest; --short-side 0 keeps the size and links to the
originals. The other 2000 or so classes of the full ADE20K are ignored. The index of the archive, a pickle, is not read.
What is there already is kept, so that a run that was cut off can be continued.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from escnet.command_line import run_program
from escnet.data.class_tables import load_class_table
from escnet.data.errors import DatasetError, listed
from escnet.data.pairing import pair
from escnet.data.preparation.label_conversion import IdTable, read_ade20k_full, train_ids_by_raw_id
from escnet.data.preparation.script import LabelSet, run_script

FOLDER = "ADE20K_2021_17_01"
DATASETS = {"training": "ade20k_847_train", "validation": "ade20k_847_val"}
LABEL_SUFFIX = "_seg.png"
IGNORE_LABEL = 65535


def find_files(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The photographs and the label files below a folder, by the name of the photograph.

    Raises:
        DatasetError: two photographs have the same name.
    """
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    twice = []
    for place, folders, files in os.walk(folder):
        # Beside each photograph is a folder of its name with one mask for each object.
        folders[:] = sorted(name for name in folders if not name.startswith("ADE_"))
        for file in files:
            if file.startswith("ADE_") and file.endswith((".jpg", LABEL_SUFFIX)):
                found, suffix = (images, ".jpg") if file.endswith(".jpg") else (labels, LABEL_SUFFIX)
                name = file.removesuffix(suffix)
                twice += [name] if name in found else []
                found[name] = os.path.join(place, file)
    if twice:
        raise DatasetError(f"{folder}: {listed(twice, 5)} more than once; unpack the archive again in an empty folder")
    return images, labels


def plan(options: Namespace, split: str) -> list[LabelSet]:
    """The label maps of a split, and what they are made of."""
    root = options.root
    if options.short_side < 0:
        raise DatasetError(f"--short-side is {options.short_side}; it is a number of pixels, 0 = keep the size")
    if not (root / "images/ADE").is_dir():
        if (root / "annotations").is_dir():
            raise DatasetError(
                f"{root / 'annotations'}: this is ADEChallengeData2016.zip, for which there is prepare_ade20k_150.py; "
                f"the 847 classes need the full ADE20K, ADE20K_2021_17_01.zip, with {root / 'images/ADE'}"
            )
        if (root / "images").is_dir():
            raise DatasetError(
                f"{root / 'images'}: has no folder ADE, so this is another release of ADE20K (that of 2016 has other "
                f"ids); needed is ADE20K_2021_17_01.zip"
            )
    folder = root / "images/ADE" / split
    images, labels = find_files(folder)
    expected = f"{folder}/**/ADE_*.jpg with {LABEL_SUFFIX} beside, from ADE20K_2021_17_01.zip"
    table = IdTable.of(
        train_ids_by_raw_id(load_class_table("ade20k_847.tsv")),
        [],
        IGNORE_LABEL,
        f"class ids as colours, {expected}",
        others=IGNORE_LABEL,
    )
    return [
        LabelSet(
            DATASETS[split],
            root,
            FOLDER,
            partial(read_ade20k_full, table=table),
            pair(images, labels, expected),
            short_side=options.short_side,
            settings={"short_side": options.short_side},
        )
    ]


def add_options(parser: ArgumentParser) -> None:
    """What this script has besides the options of all."""
    parser.add_argument("--short-side", type=int, default=512, help="shrink to this; 0 = keep the size; default: 512")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run_script(__doc__, FOLDER, tuple(DATASETS), plan, arguments, add_options)


if __name__ == "__main__":
    sys.exit(run_program(main))
