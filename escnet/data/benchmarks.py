"""The table of all benchmark datasets, and its registration in Detectron2's catalogs."""

from __future__ import annotations

import csv
import logging
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

logger = logging.getLogger(__name__)

CLASS_FOLDER = Path(__file__).parent / "classes"
_SLICE = re.compile(r"(?P<dataset>[^\[\]]+)\[(?P<start>\d*):(?P<stop>\d*)\]")


class DatasetError(ValueError):
    """A dataset that is unknown, or not on disk as expected. The message says what was looked for, and the remedy."""


@dataclass(frozen=True)
class Benchmark:
    """One dataset: where its files are below the data root, and how its labels read.

    Attributes:
        image_dir, image_suffix: folder and file ending of the photographs.
        label_dir, label_suffix: folder and file ending of the label maps; the same names as the photographs'.
        classes: class file in ``escnet/data/classes``.
        ignore_label: id of unlabelled pixels in the files.
        source: where the files come from and how they are brought into this form, for error messages.
        size: number of images of the published split, where only the complete split is evaluated.
    """

    name: str
    image_dir: str
    image_suffix: str
    label_dir: str
    label_suffix: str
    classes: str
    ignore_label: int
    source: str
    size: int | None = None


_COCO_STUFF = (
    "the images of COCO 2017, and the PNGs of stuffthingmaps with raw ids replaced by train ids "
    "(escnet/data/classes/coco_stuff_171.tsv), 255 = ignore"
)
_ADE20K_150 = "ADEChallengeData2016, with its annotations (0 = other, 1..150) minus 1 and 255 = ignore"
_CAMVID = "CamVid with 11 classes, brought here by datasets/prepare_camvid.py"

BENCHMARKS = (
    Benchmark(
        "coco_stuff_train", "coco-stuff/images/train2017", ".jpg", "coco-stuff/annotations_detectron2/train2017",
        ".png", "coco_stuff_171.tsv", 255, _COCO_STUFF, 118287,
    ),
    Benchmark(
        "coco_stuff_val", "coco-stuff/images/val2017", ".jpg", "coco-stuff/annotations_detectron2/val2017",
        ".png", "coco_stuff_171.tsv", 255, _COCO_STUFF, 5000,
    ),
    Benchmark(
        "ade20k_150_train", "ADEChallengeData2016/images/training", ".jpg",
        "ADEChallengeData2016/annotations_detectron2/training", ".png", "ade20k_150.tsv", 255, _ADE20K_150, 20210,
    ),
    Benchmark(
        "ade20k_150_val", "ADEChallengeData2016/images/validation", ".jpg",
        "ADEChallengeData2016/annotations_detectron2/validation", ".png", "ade20k_150.tsv", 255, _ADE20K_150, 2000,
    ),
    Benchmark(
        "camvid_train", "camvid/images/train", ".png", "camvid/annotations/train", ".png", "camvid_11.tsv", 11, _CAMVID,
    ),
    Benchmark(
        "camvid_val", "camvid/images/val", ".png", "camvid/annotations/val", ".png", "camvid_11.tsv", 11, _CAMVID,
    ),
)  # fmt: skip


class ClassRow(NamedTuple):
    """One class of a class file; `raw_id` is its id in the published files, None where it equals the train id."""

    train_id: int
    raw_id: int | None
    name: str


def data_root() -> Path:
    """The folder that holds all datasets: the environment variable DETECTRON2_DATASETS, by default ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def load_class_table(file: str | Path) -> tuple[ClassRow, ...]:
    """Read a class file: tab-separated with a header, columns train_id, name and optionally raw_id, in train-id order.

    Args:
        file: name of a packaged file such as ``camvid_11.tsv``, or an absolute path.

    Raises:
        DatasetError: a column is missing, the train ids are not 0, 1, 2, ..., or a name is empty or occurs twice.
    """
    path = CLASS_FOLDER / file
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"train_id", "name"} <= set(reader.fieldnames or ()):
            raise DatasetError(f"{path}: the header needs the columns train_id and name, got {reader.fieldnames}")
        lines = list(reader)
    rows = tuple(
        ClassRow(int(line["train_id"]), int(line["raw_id"]) if "raw_id" in line else None, line["name"].strip())
        for line in lines
    )
    if [row.train_id for row in rows] != list(range(len(rows))):
        raise DatasetError(f"{path}: the train ids have to be 0, 1, 2, ... in this order")
    names = [row.name for row in rows]
    if not all(names) or len(set(names)) < len(names):
        raise DatasetError(f"{path}: every class needs a name of its own")
    return rows


def load_class_names(file: str | Path) -> tuple[str, ...]:
    """The class names of a class file in train-id order; see :func:`load_class_table`."""
    return tuple(row.name for row in load_class_table(file))


def split_dataset_name(name: str) -> tuple[str, slice]:
    """Take ``camvid_train[:8]`` apart into ``camvid_train`` and ``slice(None, 8)``; a plain name has the full slice."""
    match = _SLICE.fullmatch(name)
    if match is None:
        return name, slice(None)
    start, stop = (int(match[bound]) if match[bound] else None for bound in ("start", "stop"))
    return match["dataset"], slice(start, stop)


def dataset_records(name: str) -> list[dict[str, Any]]:
    """The records of a dataset, sorted by image, in Detectron2's format.

    Each has ``file_name``, ``sem_seg_file_name``, ``image_id`` and ``dataset``, the name without the slice.

    Args:
        name: a registered dataset, optionally with a slice of its sorted records: ``camvid_train[:8]``.

    Raises:
        DatasetError: the dataset is unknown, not on disk as expected, or the slice holds no record.
    """
    ensure_registered(name)
    return DatasetCatalog.get(name)


def dataset_metadata(name: str) -> Metadata:
    """The metadata of a dataset (`stuff_classes`, `ignore_label`, ...), a slice accepted as by `dataset_records`."""
    ensure_registered(name)
    return MetadataCatalog.get(name)


def ensure_registered(name: str) -> None:
    """Make `name`, which may carry a slice, known to Detectron2's catalogs, so that its own functions accept it too.

    Raises:
        DatasetError: there is no such dataset.
    """
    dataset, _ = split_dataset_name(name)
    if dataset not in DatasetCatalog:
        known = ", ".join(benchmark.name for benchmark in BENCHMARKS)
        raise DatasetError(
            f"unknown dataset '{name}'; escnet has {known}, each optionally with a slice such as [:8]; "
            f"others have to be registered in Detectron2's DatasetCatalog first"
        )
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, partial(_load_slice, name))
        whole = MetadataCatalog.get(dataset).as_dict()
        MetadataCatalog.get(name).set(**{key: value for key, value in whole.items() if key != "name"})


def register_benchmarks() -> None:
    """Register every row of the table in Detectron2's catalogs. Nothing is read from disk; calling it again is safe."""
    for benchmark in BENCHMARKS:
        if benchmark.name in DatasetCatalog:
            continue
        DatasetCatalog.register(benchmark.name, partial(_load_benchmark, benchmark))
        MetadataCatalog.get(benchmark.name).set(
            stuff_classes=list(load_class_names(benchmark.classes)),
            ignore_label=benchmark.ignore_label,
            evaluator_type="sem_seg",
        )


def _load_slice(name: str) -> list[dict[str, Any]]:
    dataset, part = split_dataset_name(name)
    records = DatasetCatalog.get(dataset)
    if not records[part]:
        raise DatasetError(f"'{name}' holds no image: '{dataset}' has {len(records)}")
    _set_roots(name, **{key: MetadataCatalog.get(dataset).get(key) for key in ("image_root", "sem_seg_root")})
    return records[part]


def _load_benchmark(benchmark: Benchmark) -> list[dict[str, Any]]:
    image_root, label_root = data_root() / benchmark.image_dir, data_root() / benchmark.label_dir
    images = _files_by_key(image_root, benchmark.image_suffix)
    labels = _files_by_key(label_root, benchmark.label_suffix)
    _check_pairs(benchmark, image_root, label_root, images, labels)
    if benchmark.size is not None and len(images) != benchmark.size:
        logger.warning(f"{benchmark.name}: {len(images)} images in {image_root}, the published split: {benchmark.size}")
    _set_roots(benchmark.name, image_root=str(image_root), sem_seg_root=str(label_root))
    return [
        {
            "file_name": str(images[key]),
            "sem_seg_file_name": str(labels[key]),
            "image_id": key,
            "dataset": benchmark.name,
        }
        for key in sorted(images)
    ]


def _files_by_key(folder: Path, suffix: str) -> dict[str, Path]:
    """The files below `folder` that end in `suffix`, by their path in it without the suffix; hidden files are left."""
    paths = (path for path in folder.rglob(f"*{suffix}") if not path.name.startswith("."))
    return {path.relative_to(folder).as_posix().removesuffix(suffix): path for path in paths}


def _check_pairs(
    benchmark: Benchmark, image_root: Path, label_root: Path, images: dict[str, Path], labels: dict[str, Path]
) -> None:
    expected = (
        f"expected are {image_root}/*{benchmark.image_suffix} and, with the same names, "
        f"{label_root}/*{benchmark.label_suffix}: {benchmark.source}. "
        f"The data root is DETECTRON2_DATASETS={os.environ.get('DETECTRON2_DATASETS', '(unset: ./datasets)')}"
    )
    for kind, found in (("image", images), ("label map", labels)):
        if not found:
            raise DatasetError(f"{benchmark.name}: no {kind} found; {expected}")
    for kind, other, lonely in (
        ("image", "label map", sorted(images.keys() - labels.keys())),
        ("label map", "image", sorted(labels.keys() - images.keys())),
    ):
        if lonely:
            shown = ", ".join(lonely[:5]) + (", ..." if len(lonely) > 5 else "")
            raise DatasetError(f"{benchmark.name}: {len(lonely)} {kind}(s) without a {other}: {shown}; {expected}")


def _set_roots(name: str, **roots: str | None) -> None:
    """Note in the metadata where the files were found; the data root may change between two loads of one process."""
    # Metadata forbids a second value for an attribute, so the attributes are set past its guard.
    vars(MetadataCatalog.get(name)).update(roots)


register_benchmarks()
