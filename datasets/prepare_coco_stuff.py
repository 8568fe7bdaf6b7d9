"""Make label maps of COCO-Stuff with 171 train ids, 255 = ignored, from the stuffthingmaps as published.

    python datasets/prepare_coco_stuff.py [--root $DETECTRON2_DATASETS/coco-stuff] [--splits val2017]

reads   images/{train,val}2017/*.jpg and annotations/{train,val}2017/*.png (8-bit, raw ids 0..181, 255 = unlabelled)
writes  annotations_detectron2/{train,val}2017/*.png

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

FOLDER = "coco-stuff"
DATASETS = {"train2017": "coco_stuff_train", "val2017": "coco_stuff_val"}
IGNORE_LABEL = 255
# mmsegmentation leaves its own label maps beside the published ones.
MMSEGMENTATION = "_labelTrainIds"


def plan(options: Namespace, split: str) -> list[LabelSet]:
    """The label maps of a split, and what they are made of."""
    images, labels = options.root / "images" / split, options.root / "annotations" / split
    pixelmaps = sorted((options.root / "annotations").glob("stuff_*_pixelmaps*"))
    if pixelmaps and not labels.is_dir():
        raise DatasetError(
            f"{pixelmaps[0]}: comes from stuff_trainval2017.zip, where all things are one class; "
            f"needed is stuffthingmaps_trainval2017.zip, unpacked in {options.root / 'annotations'}"
        )
    found = files_by_name(labels, ".png")
    sources = pair(
        files_by_name(images, ".jpg"),
        {name: path for name, path in found.items() if not name.endswith(MMSEGMENTATION)},
        f"{images}/*.jpg from {split}.zip and {labels}/*.png from stuffthingmaps_trainval2017.zip",
    )
    table = IdTable.of(
        train_ids_by_raw_id(load_class_table("coco_stuff_171.tsv")),
        [255],
        IGNORE_LABEL,
        "the ids 0..181 except 11 unused ones, and 255, of stuffthingmaps_trainval2017.zip (ids up to 183 are those of "
        "stuff_trainval2017.zip, the pixelmaps, where all things are one class: they do not serve)",
    )
    return [LabelSet(DATASETS[split], options.root, FOLDER, partial(read_grey, table=table), sources)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run_script(__doc__, FOLDER, tuple(DATASETS), plan, arguments)


if __name__ == "__main__":
    sys.exit(run_program(main))
