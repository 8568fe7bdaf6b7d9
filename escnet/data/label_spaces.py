"""What the ids in a dataset's label files mean, and by which words its classes are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from escnet.data.benchmarks import find_benchmark, split_dataset_name
from escnet.data.class_tables import ClassRow, load_class_table
from escnet.data.errors import DatasetError, listed
from escnet.data.images import ImageError, read_labels
from escnet.data.registration import dataset_metadata
from escnet.ignore_label import IGNORE_LABEL
from escnet.vocabulary import Vocabulary

CLASS_NAMES = ("original", "clean")
_UNKNOWN = -2
_IDS = 1 << 16


@dataclass(frozen=True)
class LabelSpace:
    """What the label files of a dataset hold.

    Attributes:
        vocabulary: the classes of the ids 0..N-1.
        ignore_label: the id of ignored pixels.
        bits: of a pixel, 8 or 16; None if the dataset does not say.
    """

    vocabulary: Vocabulary
    ignore_label: int
    bits: int | None = None


def label_spaces(
    datasets: Sequence[str], templates: str | Sequence[str] = "single", class_names: str = "original"
) -> dict[str, LabelSpace]:
    """The label space of each dataset, by its name without slice, which is the ``dataset`` of its records.

    Args:
        datasets: registered datasets, or ``folder:PATH``.
        templates, class_names: as for `dataset_vocabulary`.

    Raises:
        DatasetError: a dataset is unknown, lacks classes or an ignored id, or has label_bits other than 8 and 16.
    """
    spaces = {}
    for dataset in datasets:
        vocabulary = dataset_vocabulary(dataset, templates, class_names)
        metadata = dataset_metadata(dataset)
        ignore_label, bits = metadata.get("ignore_label"), metadata.get("label_bits")
        if ignore_label is None:
            raise DatasetError(f"'{dataset}': set ignore_label in its MetadataCatalog entry")
        if bits not in (None, 8, 16):
            raise DatasetError(
                f"'{dataset}': label_bits in its MetadataCatalog entry is {bits!r}; it has to be 8 or 16"
            )
        name, _ = split_dataset_name(dataset)
        spaces[name] = LabelSpace(vocabulary, ignore_label, bits)
    return spaces


def dataset_vocabulary(
    dataset: str, templates: str | Sequence[str] = "single", class_names: str = "original"
) -> Vocabulary:
    """The words by which the classes of a dataset are looked for, in the order of its ids.

    Args:
        dataset: a registered dataset, or ``folder:PATH``.
        templates: text templates.
        class_names: ``original``, as published, and of several synonyms the first, as in the literature's numbers; or
            ``clean``, plain English with synonyms. Datasets that are not in the table have one list of names, which
            serves for both, with all its synonyms.

    Raises:
        DatasetError: the dataset is unknown, or has no class names.
        ValueError: another value of `class_names`.
    """
    if class_names not in CLASS_NAMES:
        raise ValueError(f"the class names '{class_names}' are unknown; choose {' or '.join(CLASS_NAMES)}")
    benchmark = find_benchmark(dataset)
    if benchmark is None:
        names = dataset_metadata(dataset).get("stuff_classes")
        if not names:
            raise DatasetError(f"'{dataset}': set stuff_classes in its MetadataCatalog entry")
        return Vocabulary(names, templates=templates)
    rows = benchmark.class_table
    background: list[ClassRow] = []
    if benchmark.background:
        own = {row.original for row in rows}
        background = [row for row in load_class_table(benchmark.background) if row.original not in own]
    # Nine first words of ADE20K-847 name more than one class; the literature's numbers include that.
    return Vocabulary(
        [_words(row, class_names) for row in rows],
        [_words(row, class_names) for row in background],
        templates=templates,
        allow_duplicates=class_names == "original",
    )


def read_training_labels(path: str, space: LabelSpace) -> np.ndarray:
    """Read a label file as (H,W) int32 train ids, with :data:`IGNORE_LABEL` at ignored pixels.

    Raises:
        ImageError: the file cannot be read, has not the bits of the dataset, or holds an id that is neither a class nor
            the ignored one.
    """
    labels, num_classes = read_labels(path, space.bits), space.vocabulary.num_classes
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= _IDS:
        raise ImageError(f"{path}: has ids {lowest}..{highest}; a label map holds ids 0..{_IDS - 1}")
    # A table of all ids is several times as fast as comparing every pixel.
    ids = np.arange(highest + 1)
    table = np.where(is_unknown(ids, num_classes, space.ignore_label), _UNKNOWN, ids).astype(np.int32)
    table[ids == space.ignore_label] = IGNORE_LABEL
    train_ids = table.take(labels)
    if (table == _UNKNOWN).any() and (train_ids == _UNKNOWN).any():
        unknown = np.unique(labels[train_ids == _UNKNOWN])
        raise ImageError(
            f"{path}: the ids {listed(unknown, 10)} are not among the {num_classes} classes (0..{num_classes - 1}) "
            f"nor the ignored id {space.ignore_label}; prepare the labels with the prepare script of the dataset"
        )
    return train_ids


def is_unknown(ids: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """Which ids of label files neither training nor evaluation takes: no class, and not ignored; or not of 16 bits."""
    named = (ids >= 0) & (ids < num_classes) | (ids == ignore_label)
    return ~named | (ids < 0) | (ids >= _IDS)


def _words(row: ClassRow, class_names: str) -> str:
    return row.first_original if class_names == "original" else row.clean
