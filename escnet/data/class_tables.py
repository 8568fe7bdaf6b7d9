"""Class files: the classes of a dataset in train-id order, with published ids, published names and clean names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from escnet.data.errors import DatasetError

CLASS_FOLDER = Path(__file__).parent / "classes"
_COLUMNS = ["train_id", "raw_id", "original", "name", "synonyms"]


class ClassRow(NamedTuple):
    """One class of a class file.

    Attributes:
        train_id: its id in prepared labels.
        raw_id: its id in the published files.
        original: its name as published, with all its synonyms.
        name: its name in plain English, without underscores, merged words and typing errors.
        synonyms: further plain names of the same thing.
    """

    train_id: int
    raw_id: int
    original: str
    name: str
    synonyms: tuple[str, ...]

    @property
    def first_original(self) -> str:
        """The first of the published synonyms, which is what CAT-Seg and its successors feed to the text encoder."""
        return self.original.split(",")[0].strip()

    @property
    def clean(self) -> str:
        """The plain name and its synonyms, separated by commas, as a `Vocabulary` takes them."""
        return ", ".join((self.name, *self.synonyms))


def load_class_table(file: str | Path) -> tuple[ClassRow, ...]:
    """Read a class file: tab-separated, with the header train_id, raw_id, original, name, synonyms, in train-id order.

    Args:
        file: name of a packaged file such as ``camvid_11.tsv``, or an absolute path.

    Raises:
        DatasetError: the file or a column is missing, the train ids are not 0, 1, 2, ..., an id is not a number, or a
            name or raw id is empty or occurs twice.
    """
    path = CLASS_FOLDER / file
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such class file")
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        if reader.fieldnames != _COLUMNS:
            raise DatasetError(f"{path}: the columns have to be {', '.join(_COLUMNS)}; got {reader.fieldnames}")
        try:
            rows = tuple(_parse(line) for line in reader)
        except (ValueError, AttributeError) as error:  # a short line gives None
            raise DatasetError(f"{path}: a line is cut off or has an id that is not a number ({error})") from error
    if not rows or [row.train_id for row in rows] != list(range(len(rows))):
        raise DatasetError(f"{path}: the train ids have to be 0, 1, 2, ... in this order")
    for column in ("raw_id", "original", "name"):
        values = [getattr(row, column) for row in rows]
        if "" in values or len(set(values)) < len(values):
            raise DatasetError(f"{path}: every class needs a value of its own under {column}")
    return rows


def load_class_names(file: str | Path) -> tuple[str, ...]:
    """The published names of a class file in train-id order; see :func:`load_class_table`."""
    return tuple(row.original for row in load_class_table(file))


def _parse(line: dict[str, str]) -> ClassRow:
    synonyms = tuple(word.strip() for word in line["synonyms"].split(",") if word.strip())
    return ClassRow(
        int(line["train_id"]), int(line["raw_id"]), line["original"].strip(), line["name"].strip(), synonyms
    )
