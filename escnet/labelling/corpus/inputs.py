"""What an input stands for, listed in a fixed order and cut into units: pictures, tar archives, Parquet files."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from braceexpand import UnbalancedBracesError, braceexpand

from escnet.data.errors import listed
from escnet.data.shards.index import SHARD_SUFFIXES
from escnet.labelling.corpus.storage import file_system, is_url, open_file
from escnet.labelling.corpus.units import Unit
from escnet.labelling.pictures import LabellingError, find_pictures, readable_suffixes

_PARQUET = ".parquet"
# Of a row's picture: its bytes, Hugging Face's struct of bytes and path, or where it lies.
PICTURE_COLUMNS = ("image", "bytes", "path", "url")


class Listing(NamedTuple):
    """What an input stands for.

    Attributes:
        units: all of it, in order.
        digest: SHA-256 of the names and sizes of all files, which says whether the input has changed.
        pictures: how many; None where only reading the archives tells.
    """

    units: list[Unit]
    digest: str
    pictures: int | None


class _File(NamedTuple):
    """A file, its path or URL, and its size in bytes."""

    name: str
    size: int


def list_input(entry: str, per_unit: int, output: Path | None = None) -> Listing:
    """List an input and cut it into units.

    Args:
        entry: a folder, with the folders in it; a path or pattern of tar archives or Parquet files, in which braces
            stand for several; the URL of one of these.
        per_unit: pictures of a folder that make a unit.
        output: a folder that is not looked into.

    Raises:
        LabellingError: nothing is there, or nothing that can be labelled.
    """
    # A folder may have braces in its name, a tar archive not.
    entry = entry if is_url(entry) else os.path.expanduser(entry)
    if not is_url(entry) and os.path.isdir(entry):
        return _of_folder(entry, list(_local_pictures(entry, output)), per_unit)
    if is_url(entry) and not entry.endswith((*SHARD_SUFFIXES, _PARQUET)) and "*" not in entry:
        return _of_folder(entry.rstrip("/"), _remote_pictures(entry), per_unit)
    files = [file for pattern in _expanded(entry) for file in _matches(pattern)]
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LabellingError(f"--input {entry}: names {twice} twice; name each file once")
    if all(name.endswith(_PARQUET) for name in names):
        return _of_tables(files)
    if all(name.endswith(SHARD_SUFFIXES) for name in names):
        units = [Unit(n, "shard", name, label) for n, (name, label) in enumerate(_labelled(names))]
        return Listing(units, _digest(files), None)
    raise LabellingError(
        f"--input {entry}: has to be a folder, or tar archives ({', '.join(SHARD_SUFFIXES)}) or Parquet "
        f"files ({_PARQUET}), all of one kind; it stands for {listed(names, 3)}"
    )


def _of_folder(folder: str, files: Sequence[_File], per_unit: int) -> Listing:
    keys = [file.name for file in files]
    units = []
    for start in range(0, len(keys), per_unit):
        part = tuple(keys[start : start + per_unit])
        units.append(Unit(len(units), "files", folder, keys=part, count=len(part)))
    return Listing(units, _digest(files), len(keys))


def _local_pictures(folder: str, output: Path | None) -> Iterator[_File]:
    for path in find_pictures([folder], recursive=True, output=output).files:
        try:
            yield _File(path.relative_to(folder).as_posix(), path.stat().st_size)
        except OSError:  # a link that leads nowhere is found again as a failure
            yield _File(path.relative_to(folder).as_posix(), -1)


def _remote_pictures(url: str) -> list[_File]:
    system, folder = file_system(url)
    readable = readable_suffixes()
    try:
        found = system.find(folder, detail=True)
    except OSError as error:
        raise LabellingError(f"--input {url}: cannot be listed ({error or type(error).__name__})") from None
    prefix = folder.rstrip("/") + "/"
    files = [_File(path.removeprefix(prefix), info.get("size") or 0) for path, info in sorted(found.items())]
    files = [
        file
        for file in files
        if os.path.splitext(file.name)[1].lower() in readable
        and not any(part.startswith(".") for part in file.name.split("/"))
    ]
    if not files:
        raise LabellingError(f"--input {url}: has no image; for archives name them: {url.rstrip('/')}/*.tar")
    return files


def _expanded(entry: str) -> list[str]:
    if not is_url(entry) and os.path.exists(entry):
        return [entry]
    try:
        return list(braceexpand(entry))
    except (UnbalancedBracesError, ValueError) as error:
        raise LabellingError(f"--input {entry}: its braces cannot be expanded ({error})") from None


def _matches(pattern: str) -> list[_File]:
    """The files of a path, a URL or a pattern, in the order of their names."""
    if not is_url(pattern):
        names = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        files = [_File(name, os.stat(name).st_size) for name in names if os.path.isfile(name)]
    else:
        system, path = file_system(pattern)
        try:
            paths = sorted(system.glob(path)) if "*" in path else [path]
            files = [_File(system.unstrip_protocol(name), system.info(name)["size"] or 0) for name in paths]
        except FileNotFoundError:
            files = []
        except OSError as error:
            raise LabellingError(f"--input {pattern}: cannot be read ({error})") from None
    if not files:
        raise LabellingError(f"--input {pattern}: there is no such file; give a folder, archives or Parquet files")
    return files


def _of_tables(files: Sequence[_File]) -> Listing:
    units: list[Unit] = []
    for name, label in _labelled([file.name for file in files]):
        first = 0
        for group, count in enumerate(_row_groups(name)):
            units.append(Unit(len(units), "rows", name, label, group=group, first=first, count=count))
            first += count
    return Listing(units, _digest(files), sum(unit.count or 0 for unit in units))


def _row_groups(name: str) -> list[int]:
    """The rows of each row group of a Parquet file, which has to have pictures."""
    pq = parquet_library()
    from pyarrow import ArrowException

    try:
        with open_file(name) as file:
            table = pq.ParquetFile(file)
            columns = table.schema_arrow.names
            counts = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
    except (OSError, ArrowException) as error:
        raise LabellingError(f"{name}: cannot be read as Parquet ({error})") from None
    if not set(PICTURE_COLUMNS) & set(columns):
        raise LabellingError(
            f"{name}: has the columns {', '.join(columns)}; pictures are looked for in {', '.join(PICTURE_COLUMNS)}"
        )
    return counts


def parquet_library() -> ModuleType:
    """pyarrow.parquet.

    Raises:
        LabellingError: it is not installed.
    """
    try:
        import pyarrow.parquet as library
    except ImportError:
        raise LabellingError("Parquet needs pyarrow: pip install 'escnet[scale]'") from None
    return library


def _labelled(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each file with its path below the folder that all share."""
    parts = [name.split("/") for name in names]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return [(name, "/".join(part[shared:])) for name, part in zip(names, parts, strict=True)]


def _digest(files: Sequence[_File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\t{file.size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
