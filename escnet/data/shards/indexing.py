"""The index of shards that are there already, from whoever: each is read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from escnet.data.shards.accounting import ShardError, UnusableSampleError
from escnet.data.shards.index import INDEX, SHARD_SUFFIXES, Shard, write_index
from escnet.data.shards.journal import JOURNAL
from escnet.data.shards.masks import read_annotations
from escnet.data.shards.reading import ShardContents, read_shard


class Indexed(NamedTuple):
    """What was found in a folder.

    Attributes:
        shards: all of it.
        kind: "masks" where a JSON of the first shard with samples has SA-1B's annotations, else "images".
        damaged: name of each shard that breaks off, and why.
        others: number of members that are not used, by suffix.
    """

    shards: list[Shard]
    kind: str
    damaged: list[tuple[str, str]]
    others: Counter[str]


def list_shards(folder: Path) -> list[Path]:
    """The shards of a folder by name.

    Raises:
        ShardError: there are none, or `make_shards` has not finished there.
    """
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(SHARD_SUFFIXES)) if folder.is_dir() else []
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise ShardError(f"{folder}: no shards there; those are looked for that end in {', '.join(SHARD_SUFFIXES)}")
    if (folder / JOURNAL).is_file() and not (folder / INDEX).is_file():
        raise ShardError(f"{folder}: its shards are not finished; run the command that makes them again")
    return paths


def index_folder(folder: Path, tell: Callable[[int], object] = lambda shards: None) -> Indexed:
    """Count the samples of the shards of a folder, and write its index.

    Args:
        folder: with shards.
        tell: called with a number of shards that are done, again and again.

    Raises:
        ShardError: there are no shards, or no samples in them.
    """
    kind = ""
    shards: list[Shard] = []
    damaged: list[tuple[str, str]] = []
    others: Counter[str] = Counter()
    for path in list_shards(folder):
        contents = read_shard(str(path), with_annotations=not kind)
        kind = kind or (_kind(contents) if contents.samples else "")
        shards.append(Shard(str(path), len(contents.samples), path.stat().st_size, kind))
        damaged += [(path.name, contents.fault)] if contents.fault else []
        others += contents.others
        tell(1)
    if not kind:
        raise ShardError(f"{folder}: no images in its {len(shards)} shards; are they of another kind of data?")
    shards = [shard._replace(kind=kind) for shard in shards]
    write_index(folder, shards, kind)
    return Indexed(shards, kind, damaged, others)


def _kind(contents: ShardContents) -> str:
    for sample in contents.samples:
        try:
            read_annotations(sample.annotations)
        except UnusableSampleError:
            continue
        return "masks"
    return "images"
