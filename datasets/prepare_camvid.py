"""Check CamVid (11 classes, 11 = ignore) and bring it to where escnet looks for it, as links or copies.

    python datasets/prepare_camvid.py --source DIR --output $DETECTRON2_DATASETS/camvid

DIR holds images/{train,val} and annotations/{train,val}, or train, trainannot, val, valannot as published with SegNet.
Nothing is written unless every image has a label map of its size, with ids 0..11. Running it again changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from escnet.command_line import run_program
from escnet.data.class_tables import load_class_names
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError, read_image, read_labels
from escnet.data.preparation.bringing import bring
from escnet.data.preparation.ending import prepare_or_refuse

SPLITS = ("train", "val")
LAYOUTS = (("images/{split}", "annotations/{split}"), ("{split}", "{split}annot"))
IGNORE_LABEL = 11


def find_split(source: Path, split: str) -> tuple[Path, Path]:
    """The folders of the images and of the label maps of `split`."""
    for layout in LAYOUTS:
        images, labels = (source / folder.format(split=split) for folder in layout)
        if images.is_dir() and labels.is_dir():
            return images, labels
    expected = " or ".join(" and ".join(folder.format(split=split) for folder in layout) for layout in LAYOUTS)
    raise DatasetError(f"{source}: expected the folders {expected}; give the folder that holds them as --source")


def check_split(images: Path, labels: Path) -> tuple[list[str], np.ndarray]:
    """The sorted file names of a split, and its number of pixels of each id.

    Raises:
        DatasetError: no images, or images and label maps that do not pair up.
        ImageError: a file that cannot be read, a label map of another size, or with an unknown id.
    """
    names = sorted(path.name for path in images.glob("*.png") if not path.name.startswith("."))
    label_names = sorted(path.name for path in labels.glob("*.png") if not path.name.startswith("."))
    if not names:
        raise DatasetError(f"{images}: no PNG images found; unpack CamVid there")
    if names != label_names:
        lonely = sorted(set(names) ^ set(label_names))
        raise DatasetError(f"{images} and {labels}: {len(lonely)} files without a partner, such as {lonely[0]}")
    pixels = np.zeros(IGNORE_LABEL + 1, dtype=np.int64)
    for name in names:
        size, ids = read_image(images / name).shape[:2], read_labels(labels / name)
        if ids.shape != size:
            raise ImageError(f"{labels / name}: {ids.shape[0]}x{ids.shape[1]} pixels, its image {size[0]}x{size[1]}")
        if ids.max() > IGNORE_LABEL:
            raise ImageError(
                f"{labels / name}: id {ids.max()}, expected 0..10 and {IGNORE_LABEL} = ignore; "
                f"this is another version of CamVid, take the one with 11 classes"
            )
        pixels += np.bincount(ids.ravel(), minlength=len(pixels))
    return names, pixels


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with CamVid as published")
    parser.add_argument("--output", type=Path, required=True, help="folder camvid below the data root")
    parser.add_argument("--copy", action="store_true", help="copy the files instead of linking to them")
    options = parser.parse_args(arguments)
    return prepare_or_refuse("camvid", lambda: prepare(options))


def prepare(options: argparse.Namespace) -> None:
    """Check both splits, then bring their files.

    Raises:
        DatasetError, ImageError, OSError: a file is missing, not as expected, or cannot be written.
    """
    folders = {split: find_split(options.source, split) for split in SPLITS}
    checked = {split: check_split(*folders[split]) for split in SPLITS}
    for split, (names, _) in checked.items():
        for kind, folder in zip(("images", "annotations"), folders[split], strict=True):
            for name in names:
                bring(folder / name, options.output / kind / split / name, options.copy)

    pixels = sum(counts for _, counts in checked.values())
    shares = ", ".join(
        f"{name} {count / pixels.sum():.1%}"
        for name, count in zip(load_class_names("camvid_11.tsv"), pixels, strict=False)
    )
    counts = ", ".join(f"{len(names)} {split}" for split, (names, _) in checked.items())
    print(f"camvid: {counts} images in {options.output}; ignored {pixels[IGNORE_LABEL] / pixels.sum():.1%}; {shares}")


if __name__ == "__main__":
    sys.exit(run_program(main))
