"""Make label maps of COCO's 133 panoptic categories, 255 = void, from the panoptic PNGs and their json.

    python datasets/prepare_coco_panoptic.py [--root $DETECTRON2_DATASETS/coco] [--splits val2017]

reads   {train,val}2017/*.jpg, panoptic_{train,val}2017/*.png (RGB, segment id = R + 256 G + 65536 B) and
        annotations/panoptic_{train,val}2017.json
writes  panoptic_semseg_{train,val}2017/*.png

What is there already is kept, so that a run that was cut off can be continued.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from escnet.command_line import run_program
from escnet.data.class_tables import load_class_table
from escnet.data.errors import DatasetError, listed
from escnet.data.pairing import files_by_name, pair
from escnet.data.preparation.label_conversion import read_panoptic, train_ids_by_raw_id
from escnet.data.preparation.script import LabelSet, run_script

FOLDER = "coco"
DATASETS = {"train2017": "coco_panoptic_train", "val2017": "coco_panoptic_val"}
IGNORE_LABEL = 255


def read_segments(path: Path) -> dict[str, dict[int, int]]:
    """The category id by segment id, of each image by its name.

    Raises:
        DatasetError: the json is missing, or is another one.
    """
    expected = "expected is that of panoptic_annotations_trainval2017.zip"
    if not path.is_file():
        raise DatasetError(f"{path}: does not exist; {expected}")
    try:
        return {
            Path(annotation["file_name"]).stem: {
                segment["id"]: segment["category_id"] for segment in annotation["segments_info"]
            }
            for annotation in json.loads(path.read_text(encoding="utf-8"))["annotations"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: is not a panoptic json ({type(error).__name__}: {error}); {expected}") from error


def plan(options: Namespace, split: str) -> list[LabelSet]:
    """The label maps of a split, and what they are made of."""
    images, labels = options.root / split, options.root / f"panoptic_{split}"
    index = options.root / "annotations" / f"panoptic_{split}.json"
    expected = f"{images}/*.jpg from {split}.zip, and {labels}/*.png from panoptic_annotations_trainval2017.zip"
    sources = pair(files_by_name(images, ".jpg"), files_by_name(labels, ".png"), expected)
    segments = read_segments(index)
    if lonely := sorted(segments.keys() ^ sources.keys()):
        raise DatasetError(
            f"{index} and {labels}: {len(lonely)} label maps are only in one of them: {listed(lonely, 5)}; "
            f"take both from panoptic_annotations_trainval2017.zip"
        )
    train_ids = train_ids_by_raw_id(load_class_table("coco_panoptic_133.tsv"))
    read = partial(read_panoptic, train_ids=train_ids, ignore_label=IGNORE_LABEL, expected=expected)
    sources = {name: source._replace(detail=segments[name]) for name, source in sources.items()}
    return [LabelSet(DATASETS[split], options.root, FOLDER, read, sources)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    return run_script(__doc__, FOLDER, tuple(DATASETS), plan, arguments)


if __name__ == "__main__":
    sys.exit(run_program(main))
