"""The index of a folder of shards, and the lists of shards that users write: folders, braces, URLs."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from braceexpand import UnbalancedBracesError, braceexpand

from escnet.data.errors import listed
from escnet.data.shards.accounting import ShardError
from escnet.data.shards.reading import open_shard
from escnet.safe_files import replacing

INDEX = "index.json"
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
KINDS = ("images", "masks")
_FORMAT = 1
_REMEDY = "tools/make_shards.py --index FOLDER writes it for the shards of a folder"


class Shard(NamedTuple):
    """A shard and what its index says of it.

    Attributes:
        url: path or URL.
        samples: how many it has.
        size: of the file, in bytes.
        kind: "images", or "masks" where each image has annotations beside it.
    """

    url: str
    samples: int
    size: int
    kind: str


def find_shards(sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Shard]:
    """The shards that are meant, in the order in which they are listed; those without samples are left out.

    Args:
        sources: one or several of: a folder, or the URL of one that ends in "/", which stands for all shards of its
            index; a path or a URL, in which braces stand for several: ``shards/{000..123}.tar``.

    Raises:
        ShardError: nothing is listed, a shard or an index is missing or damaged, a shard is listed twice, or is longer
            than its index says.
    """
    entries = (
        [os.fspath(sources)] if isinstance(sources, str | os.PathLike) else [os.fspath(entry) for entry in sources]
    )
    indices: dict[str, dict[str, Shard]] = {}
    shards: list[Shard] = []
    for url in (url for entry in entries for url in _expanded(entry)):
        folder, name = _split(url)
        if folder not in indices:
            indices[folder] = read_index(folder)
        index = indices[folder]
        if name and name not in index:
            raise ShardError(f"{url}: is not in {_join(folder, INDEX)}; {_REMEDY} anew")
        shards += [index[name]] if name else index.values()
    twice = [url for url, times in Counter(shard.url for shard in shards).items() if times > 1]
    if twice:
        raise ShardError(f"{listed(twice, 3)}: listed twice; name each shard once")
    for shard in shards:
        _check_file(shard)
    found = [shard for shard in shards if shard.samples]
    if not found:
        raise ShardError(
            f"no samples in the shards of {listed(entries, 3) or 'an empty list'}; make_shards.py makes some"
        )
    return found


def read_index(folder: str) -> dict[str, Shard]:
    """The shards of a folder, or of the URL of one, by name.

    Raises:
        ShardError: the index is missing or is not one.
    """
    path = _join(folder, INDEX)
    try:
        with open_shard(path) as stream:
            content = json.loads(stream.read())
    except OSError as error:
        reason = error.strerror or str(error)
        raise ShardError(
            f"{path}: cannot be read ({reason}); without an index a stream cannot resume: {_REMEDY}"
        ) from None
    except ValueError as error:
        raise ShardError(f"{path}: is no JSON ({error}); {_REMEDY}") from error
    return _parse(content, folder, path)


def write_index(folder: Path, shards: Sequence[Shard], kind: str) -> None:
    """Write the index of a folder. Never half-written.

    Args:
        shards: all of the folder.
        kind: of all of them.
    """
    rows = [{"name": _split(shard.url)[1], "samples": shard.samples, "bytes": shard.size} for shard in shards]
    content = {"format": _FORMAT, "kind": kind, "shards": rows}
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def is_url(path: str) -> bool:
    """Whether it is not a local path."""
    return "://" in path


def _expanded(entry: str) -> list[str]:
    """The paths and URLs that an entry stands for; those of folders end in a slash."""
    if is_url(entry):
        return _braces(entry)
    path = os.path.expanduser(entry)
    paths = [path] if os.path.exists(path) else _braces(path)
    for path in paths:
        if not os.path.exists(path):
            raise ShardError(
                f"{path}: there is no such folder or shard; check the list of shards. tools/make_shards.py makes them "
                "of your images, datasets/prepare_mojireplay.py those of the miniature world"
            )
    return [os.path.join(path, "") if os.path.isdir(path) else path for path in paths]


def _braces(entry: str) -> list[str]:
    try:
        return list(braceexpand(entry))
    except (UnbalancedBracesError, ValueError) as error:
        raise ShardError(f"{entry}: its braces cannot be expanded ({error}); write shards/{{000..123}}.tar") from error


def _split(url: str) -> tuple[str, str]:
    """The folder of a shard, and its name."""
    if not is_url(url):
        return os.path.split(url)
    folder, slash, name = url.rpartition("/")
    return folder + slash, name


def _join(folder: str, name: str) -> str:
    return folder + name if is_url(folder) else os.path.join(folder, name)


def _parse(content: Any, folder: str, path: str) -> dict[str, Shard]:
    try:
        if content["format"] != _FORMAT:
            raise ShardError(f"{path}: is of format {content['format']!r}, this program reads {_FORMAT}; {_REMEDY}")
        kind = content["kind"]
        rows = [(row["name"], row["samples"], row["bytes"]) for row in content["shards"]]
    except (KeyError, TypeError) as error:
        raise ShardError(f"{path}: is not an index of shards ({type(error).__name__}: {error}); {_REMEDY}") from error
    if kind not in KINDS:
        raise ShardError(f"{path}: is of the kind {kind!r}, not {' or '.join(KINDS)}; {_REMEDY}")
    for name, samples, size in rows:
        # A name is joined to the folder, so it must not lead out of it, nor be a URL of its own.
        is_plain = isinstance(name, str) and name == os.path.basename(name) and ":" not in name and name[:1] != "."
        if not is_plain or not name.endswith(SHARD_SUFFIXES):
            raise ShardError(f"{path}: {name!r} is not the name of a shard, NAME.tar; {_REMEDY}")
        if type(samples) is not int or type(size) is not int or samples < 0 or size < 0:
            raise ShardError(f"{path}: {name} has {samples!r} samples and {size!r} bytes; {_REMEDY}")
    if len({name for name, *_ in rows}) < len(rows):
        raise ShardError(f"{path}: lists a shard twice; {_REMEDY}")
    return {name: Shard(_join(folder, name), samples, size, kind) for name, samples, size in rows}


def _check_file(shard: Shard) -> None:
    if is_url(shard.url):
        return
    try:
        size = os.stat(shard.url).st_size
    except OSError as error:
        raise ShardError(
            f"{shard.url}: is in the index, but cannot be read ({error.strerror}); bring it back"
        ) from None
    # A shorter one has lost samples, which count as broken; a longer one is another file.
    if size > shard.size:
        raise ShardError(f"{shard.url}: has {size} bytes where its index says {shard.size}; {_REMEDY} anew")
