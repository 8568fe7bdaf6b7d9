"""Make label maps of Pascal VOC 2012, without and with the background as a class, 255 = ignored.

    python datasets/prepare_voc.py [--root $DETECTRON2_DATASETS/VOCdevkit/VOC2012] [--splits val]

reads   ImageSets/Segmentation/{train,val}.txt, JPEGImages/*.jpg and SegmentationClass/*.png (palette, 0 = background,
        1..20, 255 = border)
writes  annotations_detectron2/{train,val}/*.png      PAS-20: the background is ignored
        annotations_detectron2_bg/{train,val}/*.png   PAS-20b: the background is class 20

What is there already is kept, so that a run that was cut off can be continued.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from escnet.command_line import run_program
from escnet.data.class_tables import load_class_table
from escnet.data.pairing import files_by_name, pair, read_list
from escnet.data.preparation.label_conversion import IdTable, read_grey, train_ids_by_raw_id
from escnet.data.preparation.script import LabelSet, run_script

FOLDER = "VOCdevkit/VOC2012"
SPLITS = ("train", "val")
BACKGROUND, BORDER = 0, 255
IGNORE_LABEL = 255


def plan(options: Namespace, split: str) -> list[LabelSet]:
    """The label maps of a split, and what they are made of."""
    root = options.root
    sources = pair(
        files_by_name(root / "JPEGImages", ".jpg"),
        files_by_name(root / "SegmentationClass", ".png"),
        f"{root}/JPEGImages/*.jpg and {root}/SegmentationClass/*.png for each name in "
        f"{root}/ImageSets/Segmentation/{split}.txt, from VOCtrainval_11-May-2012.tar",
        read_list(root / "ImageSets/Segmentation" / f"{split}.txt"),
    )
    classes = train_ids_by_raw_id(load_class_table("pascal_voc_20.tsv"))
    expected = "0..20 and 255 as indices of a palette PNG, from SegmentationClass of VOCtrainval_11-May-2012.tar"
    without = IdTable.of(classes, [BACKGROUND, BORDER], IGNORE_LABEL, expected)
    with_background = IdTable.of({**classes, BACKGROUND: len(classes)}, [BORDER], IGNORE_LABEL, expected)
    return [
        LabelSet(dataset, root, FOLDER, partial(read_grey, table=table), sources)
        for dataset, table in ((f"voc_20_{split}", without), (f"voc_20b_{split}", with_background))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run_script(__doc__, FOLDER, SPLITS, plan, arguments)


if __name__ == "__main__":
    sys.exit(run_program(main))
