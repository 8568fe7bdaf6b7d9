"""Making shards of the pictures of folders: planned, made one after the other, continued where it was cut off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from webdataset import TarWriter

from escnet.data.shards.accounting import ShardError
from escnet.data.shards.index import Shard
from escnet.data.shards.journal import Finished, Journal
from escnet.data.shards.pictures import Picture
from escnet.data.shards.storing import Stored, Storing, store
from escnet.safe_files import replacing

# Pictures that are handed to a worker at a time.
_CHUNK = 8


@dataclass(frozen=True)
class Making:
    """Shards to be made.

    Attributes:
        pictures: in the order in which they go into shards.
        output: the folder for the shards.
        samples_per_shard: pictures of a shard; those that cannot serve are missing in it.
        storing: how each is stored.
        seed: of the order.
    """

    pictures: Sequence[Picture]
    output: Path
    samples_per_shard: int
    storing: Storing
    seed: int

    @property
    def kind(self) -> str:
        """What the index calls the shards."""
        return "masks" if self.storing.masks else "images"

    def settings(self) -> dict[str, Any]:
        """What shards that are there must have been made with to be kept."""
        keys = hashlib.sha256("\n".join(sorted(picture.key for picture in self.pictures)).encode()).hexdigest()
        return {
            "pictures": len(self.pictures),
            "keys_sha256": keys,
            "samples_per_shard": self.samples_per_shard,
            "masks": self.storing.masks,
            "ignore": None if self.storing.ignore is None else list(self.storing.ignore),
            "size": self.storing.size,
            "quality": self.storing.quality,
            "seed": self.seed,
        }


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
        shards: number of files.
        samples: in all of them.
        size: of all of them, in bytes.
        skipped: the path of each picture that cannot serve, and why.
        before: pictures that an earlier run had dealt with.
    """

    shards: int
    samples: int
    size: int
    skipped: list[tuple[str, str]]
    before: int


def make_shards(
    making: Making, pool: ProcessPoolExecutor | None = None, tell: Callable[[int], object] = lambda pictures: None
) -> Outcome:
    """Make all shards that are not there yet, and the index at last.

    Args:
        making: what.
        pool: worker processes; None for this one.
        tell: called with a number of pictures that are done, again and again.

    Raises:
        ShardError: the output folder has shards of something else; or no picture at all can serve, and nothing is kept.
        DiskFullError: there is no space left; what is finished is kept.
    """
    journal = Journal(making.output, making.settings())
    finished = journal.finished
    step = making.samples_per_shard
    before = min(len(finished) * step, len(making.pictures))
    tell(before)
    for number in range(len(finished), -(-len(making.pictures) // step)):
        pictures = making.pictures[number * step : (number + 1) * step]
        journal.add(_make_shard(making.output, f"{number:06d}.tar", _store_all(pictures, making.storing, pool)))
        tell(len(pictures))
    skipped = [picture for shard in finished for picture in shard.skipped]
    shards = [Shard(str(making.output / shard.name), shard.samples, shard.size, making.kind) for shard in finished]
    shards = [shard for shard in shards if shard.samples]
    if not shards:
        journal.discard()
        raise ShardError(f"none of {len(making.pictures)} pictures can serve; the first: {': '.join(skipped[0])}")
    journal.close(shards, making.kind)
    return Outcome(len(shards), sum(s.samples for s in shards), sum(s.size for s in shards), skipped, before)


def _store_all(pictures: Sequence[Picture], storing: Storing, pool: ProcessPoolExecutor | None) -> Iterable[Stored]:
    """The pictures as they are stored, in their order."""
    one = partial(store, storing=storing)
    return map(one, pictures) if pool is None else pool.map(one, pictures, chunksize=_CHUNK)


def _make_shard(output: Path, name: str, contents: Iterable[Stored]) -> Finished:
    """Write a shard of the pictures that can serve. Never half-written; no file where there are none."""
    samples, skipped = 0, []
    with replacing(output / name) as temporary:
        # Without times and users, so that the same pictures give the same bytes.
        with (
            temporary.open("wb") as file,
            TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False, format="PAX_FORMAT") as tar,
        ):
            for stored in contents:
                if stored.members:
                    tar.write({"__key__": stored.picture.key, **stored.members})
                    samples += 1
                else:
                    skipped.append((stored.picture.path, stored.reason))
        size = temporary.stat().st_size
    if not samples:
        (output / name).unlink()
    return Finished(name, samples, size, skipped)
