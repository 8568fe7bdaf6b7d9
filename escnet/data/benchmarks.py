"""The table of all benchmark datasets, and their names with slices."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from escnet.data.class_tables import ClassRow, load_class_table
from escnet.data.folder import FOLDER_PREFIX
from escnet.vocabulary import BACKGROUND

_CONTEXT = "brought here by datasets/prepare_pascal_context.py from VOC2010 and the annotations of Pascal Context"
_VOC = "brought here by datasets/prepare_voc.py from VOC2012"
_SLICE = re.compile(r"(?P<dataset>[^\[\]]+)\[(?P<start>\d*):(?P<stop>\d*)\]")


@dataclass(frozen=True)
class Benchmark:
    """One dataset: where its files are below the data root, and how its labels read.

    Attributes:
        name: under which it is registered.
        images, labels: folder of the photographs and of the label maps, with file ending; the names are the same.
        bits: of the label maps, 8 or 16.
        classes: class file in ``escnet/data/classes``.
        rows: the part of the class file that the labels use, as (first, end); default: all of it.
        scored: the classes that mIoU is the mean of, as (first id, end); default: all. The others compete with them, so
            that a pixel which is mistaken for one of these counts as wrong.
        source: where the files come from and how they are brought into this form, for error messages.
        sizes: number of images of the published split; the literature uses more than one of some.
        short, title: name on the command line and in tables, where the dataset is a benchmark of zero-shot models.
        background: class file whose names, except those of `classes`, are the words of a last class "background".
        labels_select: the photographs of several splits share a folder; those with a label map count.
        ignore_label: id of unlabelled pixels in the files; default: the highest of the bits.
    """

    name: str
    images: str
    labels: str
    bits: int
    classes: str
    source: str
    sizes: tuple[int, ...] = ()
    short: str = ""
    title: str = ""
    background: str = ""
    labels_select: bool = False
    ignore_label: int | None = None
    rows: tuple[int, int | None] = (0, None)
    scored: tuple[int, int] | None = None

    @property
    def ignored(self) -> int:
        """The id of unlabelled pixels."""
        return 2**self.bits - 1 if self.ignore_label is None else self.ignore_label

    @property
    def class_names(self) -> list[str]:
        """The published name of each class of the labels, the background included."""
        return [*(row.original for row in self.class_table), *([BACKGROUND] if self.background else [])]

    @property
    def class_table(self) -> tuple[ClassRow, ...]:
        """The rows of the class file that the labels use, without the background."""
        return load_class_table(self.classes)[slice(*self.rows)]


def _dataset(
    name: str,
    images: str,
    labels: str,
    bits: int,
    classes: str,
    source: str,
    *,
    train: tuple[str, tuple[int, ...]],
    val: tuple[str, tuple[int, ...]],
    short: str = "",
    title: str = "",
    **common: Any,
) -> tuple[Benchmark, Benchmark]:
    """Training and validation split of a dataset: of each its folder, for the {} in the paths, and its sizes."""

    def split(suffix: str, folder: str, sizes: tuple[int, ...], **own: str) -> Benchmark:
        paths = (pattern.format(folder) for pattern in (images, labels))
        return Benchmark(f"{name}_{suffix}", *paths, bits, classes, source, sizes, **own, **common)

    return split("train", *train), split("val", *val, short=short, title=title)


def _mojiscenes(split: str, images: str = "", bits: int = 8, **own: Any) -> Benchmark:
    """A split of the miniature world; `images` is the split whose pictures it shares."""
    return Benchmark(
        f"mojiscenes_{split}", f"mojiscenes/images/{images or split}/*.jpg", f"mojiscenes/annotations/{split}/*.png",
        bits, "mojiscenes_847.tsv", "drawn by datasets/prepare_mojiscenes.py", **own,
    )  # fmt: skip


# Rows of the class file: 80 base things, 12 kinds of ground, 40 novel things, then words of which no picture has masks.
_BASE = {"rows": (0, 92), "scored": (0, 80)}
_NOVEL = {"rows": (80, 132), "scored": (12, 52)}

BENCHMARKS = (
    *_dataset(
        "coco_stuff", "coco-stuff/images/{}/*.jpg", "coco-stuff/annotations_detectron2/{}/*.png",
        8, "coco_stuff_171.tsv",
        "brought here by datasets/prepare_coco_stuff.py from COCO's images and stuffthingmaps",
        train=("train2017", (118287,)), val=("val2017", (5000,)), short="stuff171", title="COCO-Stuff",
    ),
    *_dataset(
        "ade20k_150", "ADEChallengeData2016/images/{}/*.jpg", "ADEChallengeData2016/annotations_detectron2/{}/*.png",
        8, "ade20k_150.tsv", "brought here by datasets/prepare_ade20k_150.py from ADEChallengeData2016.zip",
        train=("training", (20210,)), val=("validation", (2000,)), short="a150", title="A-150",
    ),
    *_dataset(
        "ade20k_847", "ADE20K_2021_17_01/images_detectron2/{}/*.jpg",
        "ADE20K_2021_17_01/annotations_detectron2/{}/*.tif",
        16, "ade20k_847.tsv", "brought here by datasets/prepare_ade20k_847.py from ADE20K_2021_17_01.zip",
        train=("training", (25574,)), val=("validation", (2000,)), short="a847", title="A-847",
    ),
    *_dataset(
        "pascal_context_59", "VOCdevkit/VOC2010/JPEGImages/*.jpg", "VOCdevkit/VOC2010/annotations_detectron2/{}/*.png",
        8, "pascal_context_59.tsv", _CONTEXT, labels_select=True,
        train=("pc59_train", (4998, 4996)), val=("pc59_val", (5104, 5105)), short="pc59", title="PC-59",
    ),
    *_dataset(
        "pascal_context_459", "VOCdevkit/VOC2010/JPEGImages/*.jpg", "VOCdevkit/VOC2010/annotations_detectron2/{}/*.tif",
        16, "pascal_context_459.tsv", _CONTEXT, labels_select=True,
        train=("pc459_train", (4998, 4996)), val=("pc459_val", (5104, 5105)), short="pc459", title="PC-459",
    ),
    *_dataset(
        "voc_20", "VOCdevkit/VOC2012/JPEGImages/*.jpg", "VOCdevkit/VOC2012/annotations_detectron2/{}/*.png",
        8, "pascal_voc_20.tsv", _VOC, labels_select=True,
        train=("train", (1464,)), val=("val", (1449,)), short="pas20", title="PAS-20",
    ),
    *_dataset(
        "voc_20b", "VOCdevkit/VOC2012/JPEGImages/*.jpg", "VOCdevkit/VOC2012/annotations_detectron2_bg/{}/*.png",
        8, "pascal_voc_20.tsv", _VOC, background="pascal_context_59.tsv", labels_select=True,
        train=("train", (1464,)), val=("val", (1449,)), short="pas20b", title="PAS-20b",
    ),
    *_dataset(
        "coco_panoptic", "coco/{}/*.jpg", "coco/panoptic_semseg_{}/*.png", 8, "coco_panoptic_133.tsv",
        "brought here by datasets/prepare_coco_panoptic.py from COCO's panoptic annotations",
        train=("train2017", (118287,)), val=("val2017", (5000,)), short="panoptic133", title="COCO-Panoptic",
    ),
    *_dataset(
        "camvid", "camvid/images/{}/*.png", "camvid/annotations/{}/*.png", 8, "camvid_11.tsv",
        "CamVid with 11 classes, brought here by datasets/prepare_camvid.py",
        train=("train", ()), val=("val", ()), ignore_label=11,
    ),
    _mojiscenes("train", rows=_BASE["rows"]),
    _mojiscenes("val_base", **_BASE, short="moji_base", title="Moji-base"),
    _mojiscenes("val_novel", **_NOVEL, short="moji_novel", title="Moji-novel"),
    _mojiscenes("val_many", **_NOVEL, short="moji_many", title="Moji-many"),
    _mojiscenes("val_all", rows=(0, 132), short="moji_all", title="Moji-all"),
    _mojiscenes("val_847", images="val_all", bits=16, short="moji_847", title="Moji-847"),
)  # fmt: skip


def data_root() -> Path:
    """The folder that holds all datasets: the environment variable DETECTRON2_DATASETS, by default ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def find_benchmark(name: str) -> Benchmark | None:
    """The row of the table with this name or short name, a slice accepted; None for other datasets."""
    name, _ = split_dataset_name(name)
    return next((row for row in BENCHMARKS if name == row.name or (row.short and name == row.short)), None)


def full_dataset_name(name: str) -> str:
    """``a150[:8]`` to ``ade20k_150_val[:8]``; other names are left as they are."""
    plain, _ = split_dataset_name(name)
    benchmark = find_benchmark(plain)
    return name if benchmark is None else benchmark.name + name[len(plain) :]


def split_dataset_name(name: str) -> tuple[str, slice]:
    """Take ``camvid_train[:8]`` apart into ``camvid_train`` and ``slice(None, 8)``; a plain name has the full slice."""
    match = _SLICE.fullmatch(name)
    if match is None:
        return name, slice(None)
    start, stop = (int(match[bound]) if match[bound] else None for bound in ("start", "stop"))
    return match["dataset"], slice(start, stop)


def dataset_folder_name(name: str) -> str:
    """A dataset's name as the name of a folder: ``folder:/data/mine`` becomes ``folder_data_mine``."""
    return re.sub(r"[^\w.\[\]:-]+", "_", name.replace(FOLDER_PREFIX, "folder/"))
