"""Make label maps of ADE20K with 150 train ids, 255 = ignored, from ADEChallengeData2016.

    python datasets/prepare_ade20k_150.py [--root $DETECTRON2_DATASETS/ADEChallengeData2016] [--splits validation]

reads   images/{training,validation}/*.jpg and annotations/{training,validation}/*.png (8-bit, 0 = other, 1..150)
writes  annotations_detectron2/{training,validation}/*.png

What is there already is kept, so that a run that was cut off can be continued.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from escnet.command_line import run_program
from escnet.data.class_tables import load_class_table
from escnet.data.errors import DatasetError
from escnet.data.pairing import files_by_name, pair
from escnet.data.preparation.label_conversion import IdTable, read_grey, train_ids_by_raw_id
from escnet.data.preparation.script import LabelSet, run_script

FOLDER = "ADEChallengeData2016"
DATASETS = {"training": "ade20k_150_train", "validation": "ade20k_150_val"}
OTHER = 0
IGNORE_LABEL = 255


def plan(options: Namespace, split: str) -> list[LabelSet]:
    """The label maps of a split, and what they are made of."""
    if (options.root / "images/ADE").is_dir():
        raise DatasetError(
            f"{options.root / 'images/ADE'}: this is the full ADE20K (ADE20K_2021_17_01.zip), for which there is "
            f"prepare_ade20k_847.py; the 150 classes need ADEChallengeData2016.zip"
        )
    images, labels = options.root / "images" / split, options.root / "annotations" / split
    expected = f"{images}/*.jpg and {labels}/*.png, both from ADEChallengeData2016.zip"
    sources = pair(files_by_name(images, ".jpg"), files_by_name(labels, ".png"), expected)
    table = IdTable.of(
        train_ids_by_raw_id(load_class_table("ade20k_150.tsv")),
        [OTHER],
        IGNORE_LABEL,
        "the ids 0..150 of the folder annotations in ADEChallengeData2016.zip",
    )
    return [LabelSet(DATASETS[split], options.root, FOLDER, partial(read_grey, table=table), sources)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run_script(__doc__, FOLDER, tuple(DATASETS), plan, arguments)


if __name__ == "__main__":
    sys.exit(run_program(main))
