"""The pictures of a unit, in order: their keys, where they come from, and how their contents are fetched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from escnet.labelling.corpus.inputs import PICTURE_COLUMNS, parquet_library
from escnet.labelling.corpus.storage import is_url, open_file, patiently, read_url, require_file
from escnet.labelling.corpus.units import Unit, UnreadableUnitError

# Rows of a Parquet file that are in memory together.
_ROWS = 32


class Picture(NamedTuple):
    """A picture that has not been read yet.

    Attributes:
        key: its name, which no other picture of the input has.
        source: where it lies.
        fetch: gives its file's path, or contents.
    """

    key: str
    source: str
    fetch: Callable[[], Path | bytes]


class Contents(NamedTuple):
    """What a unit has.

    Attributes:
        pictures: in order.
        fault: why an archive could not be read to its end; "" for a sound one.
    """

    pictures: Iterator[Picture]
    fault: str = ""


def contents_of(unit: Unit) -> Contents:
    """The pictures of a unit. Of an archive all contents are in memory, of a table a few rows, of a folder none.

    Raises:
        UnreadableUnitError: its archive or table is not there, or cannot be fetched.
    """
    if unit.kind == "files":
        return Contents(_of_files(unit))
    require_file(unit.source)
    return _of_shard(unit) if unit.kind == "shard" else Contents(_of_rows(unit))


def keys_of(unit: Unit) -> Iterator[str]:
    """The keys that a unit has to have.

    Raises:
        UnreadableUnitError: its archive is not there.
    """
    if unit.kind == "files":
        yield from map(_as_text, unit.keys)
    elif unit.kind == "rows":
        yield from (_row_key(unit, row) for row in range(unit.count or 0))
    else:
        yield from (picture.key for picture in contents_of(unit).pictures)


def _of_files(unit: Unit) -> Iterator[Picture]:
    for key in unit.keys:
        if is_url(unit.source):
            url = f"{unit.source}/{key}"
            yield Picture(_as_text(key), url, lambda url=url: read_url(url))
        else:
            path = Path(unit.source, key)
            yield Picture(_as_text(key), _as_text(str(path)), lambda path=path: path)


def _as_text(name: str) -> str:
    """A name of a file as UTF-8 can hold it: bytes that are no text stand as \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _of_shard(unit: Unit) -> Contents:
    # Takes seconds to import, which a command that is refused need not wait for.
    from escnet.data.shards.reading import read_shard

    with _LocalCopy(unit.source) as path:
        shard = read_shard(path, with_annotations=False)
    pictures = (
        Picture(f"{unit.label}/{sample.key}", unit.source, lambda sample=sample: sample.image)
        for sample in shard.samples
    )
    return Contents(pictures, shard.fault)


class _LocalCopy:
    """A path as it is, or a copy of what lies elsewhere, removed at the end."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._copy = ""

    def __enter__(self) -> str:
        if not is_url(self._source):
            return self._source

        def fetch() -> str:
            suffix = "".join(Path(self._source).suffixes[-2:])
            with (
                open_file(self._source) as file,
                tempfile.NamedTemporaryFile(prefix="labelling-", suffix=suffix, delete=False) as copy,
            ):
                self._copy = copy.name
                shutil.copyfileobj(file, copy)
            return self._copy

        try:
            return patiently(fetch)
        except OSError as error:
            self.__exit__()
            raise UnreadableUnitError(
                f"{self._source}: cannot be fetched ({error}); run the same command again"
            ) from None

    def __exit__(self, *_: object) -> None:
        if self._copy:
            Path(self._copy).unlink(missing_ok=True)


def _of_rows(unit: Unit) -> Iterator[Picture]:
    pq = parquet_library()
    from pyarrow import ArrowException

    try:
        with open_file(unit.source) as file:
            table = pq.ParquetFile(file)
            columns = [name for name in PICTURE_COLUMNS if name in table.schema_arrow.names]
            row = 0
            for batch in table.iter_batches(_ROWS, row_groups=[unit.group], columns=columns):
                for values in batch.to_pylist():
                    yield _of_row(unit, row, values)
                    row += 1
    except (OSError, ArrowException) as error:
        raise UnreadableUnitError(
            f"{unit.source}: row group {unit.group} cannot be read ({error}); run the same command again"
        ) from None


def _of_row(unit: Unit, row: int, values: dict[str, Any]) -> Picture:
    """A row's picture: the bytes that it has, or what lies at its path."""
    image = values.get("image")
    image = image if isinstance(image, dict) else {"bytes": image}
    data = image.get("bytes") or values.get("bytes")
    path = image.get("path") or values.get("path") or values.get("url")
    key = _row_key(unit, row)
    if isinstance(data, bytes):
        return Picture(key, str(path or unit.source), lambda: data)
    if not isinstance(path, str):

        def refuse() -> bytes:
            raise ValueError("its row has neither bytes nor a path")

        return Picture(key, unit.source, refuse)
    if is_url(path):
        return Picture(key, path, lambda: read_url(path))
    # Beside a table that lies elsewhere, so do its pictures.
    folder = unit.source.rpartition("/")[0]
    beside = f"{folder}/{path}" if is_url(unit.source) else os.path.join(folder, path)
    return Picture(key, beside, (lambda: read_url(beside)) if is_url(beside) else (lambda: Path(beside)))


def _row_key(unit: Unit, row: int) -> str:
    return f"{unit.label}/{unit.first + row}"
