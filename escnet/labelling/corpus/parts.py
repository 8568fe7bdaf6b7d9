"""The file of a unit's labels, Parquet or a WebDataset tar: written as answers come, renamed when it is complete."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from escnet.data.run_lengths import encode_mask
from escnet.labelling.corpus.inputs import parquet_library
from escnet.safe_files import replacing
from escnet.segmentation_result import SegmentationResult

FORMATS = {"parquet": ".parquet", "webdataset": ".tar"}
# Rows that wait in memory until they are written as a row group.
_WAITING = 256


class Part(Protocol):
    """The file of a unit while it is written."""

    def add(self, key: str, source: str, result: SegmentationResult) -> None:
        """Write the labels of a picture."""

    def copy(self, path: Path) -> None:
        """Write all that a finished file of the same format has."""


@contextmanager
def writing_part(path: Path, kind: str, class_names: tuple[str, ...], record: Path) -> Iterator[Part]:
    """Yield the file of a unit, which takes its name, flushed to the disk, once the block ends without error.

    Args:
        path: of the file, whose folder is made.
        kind: one of `FORMATS`.
        class_names: what the ids of classes stand for.
        record: that of a file which is replaced; it goes before that does, as both may have the same size.

    Raises:
        DiskFullError: there is no space left.
    """
    with replacing(path) as temporary:
        part = _ParquetPart(temporary, class_names) if kind == "parquet" else _TarPart(temporary, path.stem)
        try:
            yield part
        finally:
            part.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        record.unlink(missing_ok=True)


def row_of(key: str, source: str, result: SegmentationResult) -> dict[str, Any]:
    """The labels of a picture as a row: its size; of each class that is there id, run lengths, area and score."""
    summary = result.summary()
    classes = [
        {
            "id": entry["id"],
            "name": entry["name"],
            "counts": encode_mask(result.labels == entry["id"])["counts"],
            "area": entry["pixels"],
            "mean_score": entry["mean_score"],
        }
        for entry in summary["classes"]
    ]
    return {
        "key": key,
        "source": source,
        "width": summary["width"],
        "height": summary["height"],
        "words": summary["words"],
        "words_considered": summary["words_considered"],
        "classes": classes,
    }


def read_sizes(path: Path) -> Iterator[tuple[str, int, int]]:
    """The key of each picture of a finished file, its pixels, and those that its classes have together.

    Raises:
        Exception: whatever the readers raise of a damaged file.
    """
    if path.suffix == FORMATS["parquet"]:
        table = parquet_library().ParquetFile(path)
        for batch in table.iter_batches(_WAITING, columns=["key", "width", "height", "classes"]):
            for row in batch.to_pylist():
                yield row["key"], row["width"] * row["height"], sum(entry["area"] for entry in row["classes"])
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".json"):
                row = json.loads(archive.extractfile(member).read())
                yield row["key"], row["width"] * row["height"], sum(entry["area"] for entry in row["classes"])


class _ParquetPart:
    """A row for each picture."""

    def __init__(self, path: Path, class_names: tuple[str, ...]) -> None:
        import pyarrow as pa

        entry = pa.struct(
            [
                ("id", pa.int32()),
                ("name", pa.string()),
                ("counts", pa.string()),
                ("area", pa.int64()),
                ("mean_score", pa.float32()),
            ]
        )
        numbers = [(name, pa.int32()) for name in ("width", "height", "words", "words_considered")]
        fields = [("key", pa.string()), ("source", pa.string()), *numbers, ("classes", pa.list_(entry))]
        named = {"class_names": json.dumps(class_names, ensure_ascii=False)}
        self._schema = pa.schema(fields, metadata=named)
        self._table = pa.Table
        self._writer = parquet_library().ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, key: str, source: str, result: SegmentationResult) -> None:
        self._rows.append(row_of(key, source, result))
        if len(self._rows) >= _WAITING:
            self._flush()

    def copy(self, path: Path) -> None:
        for batch in parquet_library().ParquetFile(path).iter_batches(_WAITING):
            self._writer.write_batch(batch)

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, self._schema))
            self._rows.clear()


class _TarPart:
    """NUMBER.png, the label map, and NUMBER.json, the row without run lengths, of each picture.

    Keys have dots and slashes, with which WebDataset would cut them; so members have the numbers of unit and picture.
    """

    def __init__(self, path: Path, name: str) -> None:
        from webdataset import TarWriter

        self._writer = TarWriter(str(path), user="", group="", mtime=0)
        self._name = name
        self._count = 0

    def add(self, key: str, source: str, result: SegmentationResult) -> None:
        row = row_of(key, source, result)
        for entry in row["classes"]:
            del entry["counts"]
        picture = io.BytesIO()
        # As `save_labels`: 8 bits hold the ids of 256 classes.
        kind = np.uint8 if len(result.class_names) <= 256 else np.uint16
        Image.fromarray(result.labels.astype(kind)).save(picture, format="PNG")
        self._write(picture.getvalue(), json.dumps(row, ensure_ascii=False).encode())

    def copy(self, path: Path) -> None:
        with tarfile.open(path) as archive:
            contents: dict[str, bytes] = {}
            for member in archive:
                contents[Path(member.name).suffix] = archive.extractfile(member).read()
                if len(contents) == 2:
                    self._write(contents[".png"], contents[".json"])
                    contents.clear()

    def _write(self, picture: bytes, text: bytes) -> None:
        self._writer.write({"__key__": f"{self._name}-{self._count:06d}", "png": picture, "json": text})
        self._count += 1

    def close(self) -> None:
        self._writer.close()
