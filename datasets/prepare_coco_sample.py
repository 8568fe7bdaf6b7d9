"""Make COCO-Stuff training labels (171 classes) from COCO panoptic samples, to try a training on real photographs.

    python datasets/prepare_coco_sample.py --source DIR --output $DETECTRON2_DATASETS/coco-stuff

DIR holds the samples of the panoptic API: input_images/, panoptic_examples/ and panoptic_examples.json.

The labels are an approximation of COCO-Stuff's, not a substitute for them. Exact: the 80 things, and the stuff
categories that both have under one name. Approximate: panoptic categories merged from several of COCO-Stuff
("tree-merged", "wall-other-merged") become the class of their bare name ("tree", "wall-other"), although some of their
pixels belong to others ("bush", "wall-panel"). Where there is no such class ("ceiling-merged"), and where the panoptic
map is void, the pixels are ignored (255). Running it again gives the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from escnet.command_line import run_program
from escnet.data.class_tables import ClassRow, load_class_table
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError, read_image, write_labels
from escnet.data.preparation.ending import prepare_or_refuse
from escnet.data.preparation.label_conversion import panoptic_labels
from escnet.safe_files import replacing

IGNORE_LABEL = 255


def train_ids(categories: list[dict[str, Any]], classes: tuple[ClassRow, ...]) -> dict[int, int]:
    """The COCO-Stuff train id of each panoptic category id, or 255 where there is none.

    Things are matched by id (the raw id is COCO's minus 1), and their name is checked; stuff is matched by name.
    """
    by_raw_id = {row.raw_id: row for row in classes}
    by_name = {row.original: row for row in classes}
    mapping = {}
    for category in categories:
        number, name = category["id"], category["name"]
        if category["isthing"]:
            row = by_raw_id.get(number - 1)
            if row is None or row.original != name:
                raise DatasetError(f"thing {number} '{name}' is not a thing of COCO-Stuff; expected COCO's categories")
        else:
            row = by_name.get(name.removesuffix("-merged"))
        mapping[number] = IGNORE_LABEL if row is None else row.train_id
    return mapping


def convert(source: Path, output: Path, split: str) -> np.ndarray:
    """Convert every annotated sample; returns the number of pixels per train id (256 counts).

    Raises:
        DatasetError, ImageError: the samples are incomplete, or contradict each other.
    """
    index = source / "panoptic_examples.json"
    if not index.is_file():
        raise DatasetError(f"{index}: does not exist; give the folder of the panoptic API's samples as --source")
    contents = json.loads(index.read_text(encoding="utf-8"))
    if not contents.get("annotations"):
        raise DatasetError(f"{index}: has no annotations")
    mapping = train_ids(contents["categories"], load_class_table("coco_stuff_171.tsv"))
    image_names = {image["id"]: image["file_name"] for image in contents["images"]}

    pixels = np.zeros(256, dtype=np.int64)
    for annotation in contents["annotations"]:
        if annotation["image_id"] not in image_names:
            raise DatasetError(
                f"{index}: the image {annotation['image_id']} of an annotation is not in its list of images"
            )
        image_path = source / "input_images" / image_names[annotation["image_id"]]
        panoptic_path = source / "panoptic_examples" / annotation["file_name"]
        image, panoptic = read_image(image_path), read_image(panoptic_path)
        if image.shape != panoptic.shape:
            raise ImageError(f"{panoptic_path}: {panoptic.shape[:2]} pixels, its image {image.shape[:2]}")
        try:
            segments = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
            labels = panoptic_labels(panoptic, segments, mapping, IGNORE_LABEL)
        except DatasetError as error:
            raise DatasetError(f"{panoptic_path}: {error}; take PNG and json of the same release") from error
        write_labels(output / "annotations_detectron2" / split / f"{image_path.stem}.png", labels)
        with replacing(output / "images" / split / image_path.name) as temporary:
            shutil.copyfile(image_path, temporary)
        pixels += np.bincount(labels.ravel(), minlength=256)
    return pixels


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the panoptic API's samples")
    parser.add_argument("--output", type=Path, required=True, help="folder coco-stuff below the data root")
    parser.add_argument("--split", default="train2017", choices=("train2017", "val2017"))
    options = parser.parse_args(arguments)
    return prepare_or_refuse("coco sample", lambda: prepare(options))


def prepare(options: argparse.Namespace) -> None:
    """Convert all samples, and tell what is in them.

    Raises:
        DatasetError, ImageError, OSError: the samples are not as expected, or cannot be written.
    """
    pixels = convert(options.source, options.output, options.split)
    images = len(os.listdir(options.output / "images" / options.split))
    print(
        f"coco sample: {images} images in {options.output} ({options.split}); {np.count_nonzero(pixels[:171])} of 171 "
        f"classes occur; ignored {pixels[IGNORE_LABEL] / pixels.sum():.1%}"
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
