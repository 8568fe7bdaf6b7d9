"""Datasets in Detectron2's catalogs: the benchmarks of the table, users' folders, and slices of both."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils.logger import log_first_n

from escnet.data.benchmarks import BENCHMARKS, Benchmark, data_root, split_dataset_name
from escnet.data.errors import DatasetError
from escnet.data.folder import FOLDER_PREFIX, read_folder
from escnet.data.pairing import Pair, pair_files

Record = TypeVar("Record")


def dataset_records(name: str) -> list[dict[str, Any]]:
    """The records of a dataset, sorted by image, in Detectron2's format.

    Each has ``file_name``, ``sem_seg_file_name``, ``image_id`` and ``dataset``, the name without the slice.

    Args:
        name: a registered dataset or ``folder:PATH``, optionally with a slice of its sorted records: ``[:8]``.

    Raises:
        DatasetError: the dataset is unknown, not on disk as expected, or the slice holds no record.
    """
    ensure_registered(name)
    return DatasetCatalog.get(name)


def dataset_metadata(name: str) -> Metadata:
    """The metadata of a dataset (`stuff_classes`, `ignore_label`, ...), names accepted as by `dataset_records`."""
    ensure_registered(name)
    return MetadataCatalog.get(name)


def ensure_registered(name: str) -> None:
    """Make `name`, which may carry a slice, known to Detectron2's catalogs, so that its own functions accept it too.

    Raises:
        DatasetError: there is no such dataset.
    """
    dataset, _ = split_dataset_name(name)
    if dataset not in DatasetCatalog:
        _register(dataset)
    if dataset not in DatasetCatalog:
        known = ", ".join(benchmark.name for benchmark in BENCHMARKS)
        raise DatasetError(
            f"unknown dataset '{name}'; escnet has {known}, each optionally with a slice such as [:8], and "
            f"{FOLDER_PREFIX}PATH; others have to be registered in Detectron2's DatasetCatalog first"
        )
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, partial(_load_slice, name))
        whole = MetadataCatalog.get(dataset).as_dict()
        MetadataCatalog.get(name).set(**{key: value for key, value in whole.items() if key != "name"})


def spread(records: Sequence[Record], count: int) -> list[Record]:
    """`count` records, or all if there are fewer, evenly spread."""
    places = np.linspace(0, len(records) - 1, min(count, len(records)))
    return [records[int(place)] for place in places]


def _register(name: str) -> None:
    """Register a benchmark of the table or a user's folder; nothing is done for a name that is neither."""
    if name.startswith(FOLDER_PREFIX):
        folder = read_folder(name)
        DatasetCatalog.register(name, partial(_load_folder, name))
        MetadataCatalog.get(name).set(
            stuff_classes=list(folder.classes),
            ignore_label=folder.ignore_label,
            label_bits=folder.bits,
            evaluator_type="sem_seg",
        )
    for benchmark in BENCHMARKS:
        if name == benchmark.name:
            DatasetCatalog.register(name, partial(_load_benchmark, benchmark))
            MetadataCatalog.get(name).set(
                stuff_classes=benchmark.class_names,
                ignore_label=benchmark.ignored,
                label_bits=benchmark.bits,
                evaluator_type="sem_seg",
                scored_classes=benchmark.scored,
            )


def _load_folder(name: str) -> list[dict[str, Any]]:
    folder = read_folder(name)
    _set_roots(name, image_root=str(folder.image_root), sem_seg_root=str(folder.label_root))
    return _records(name, folder.pairs)


def _load_slice(name: str) -> list[dict[str, Any]]:
    dataset, part = split_dataset_name(name)
    records = DatasetCatalog.get(dataset)
    if not records[part]:
        raise DatasetError(f"'{name}' holds no image: '{dataset}' has {len(records)}")
    _set_roots(name, **{key: MetadataCatalog.get(dataset).get(key) for key in ("image_root", "sem_seg_root")})
    return records[part]


def _load_benchmark(benchmark: Benchmark) -> list[dict[str, Any]]:
    images, labels = data_root() / benchmark.images, data_root() / benchmark.labels
    expected = (
        f"expected are {images} and, with the same names, {labels}: {benchmark.source}; see datasets/README.md. "
        f"The data root is DETECTRON2_DATASETS={os.environ.get('DETECTRON2_DATASETS', '(unset: ./datasets)')}"
    )
    pairs = pair_files(
        benchmark.name,
        images.parent,
        [images.suffix],
        labels.parent,
        [labels.suffix],
        expected,
        benchmark.labels_select,
    )
    if benchmark.sizes and len(pairs) not in benchmark.sizes:
        published = " or ".join(map(str, benchmark.sizes))
        message = f"{benchmark.name}: {len(pairs)} images in {labels.parent}, the published split: {published}"
        log_first_n(logging.WARNING, message, name=__name__, key="message")
    _set_roots(benchmark.name, image_root=str(images.parent), sem_seg_root=str(labels.parent))
    return _records(benchmark.name, pairs)


def _records(name: str, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {"file_name": str(pair.image), "sem_seg_file_name": str(pair.labels), "image_id": pair.key, "dataset": name}
        for pair in pairs
    ]


def _set_roots(name: str, **roots: str | None) -> None:
    """Note in the metadata where the files were found; the data root may change between two loads of one process."""
    # Metadata forbids a second value for an attribute, so the attributes are set past its guard.
    vars(MetadataCatalog.get(name)).update(roots)
