"""Batches of one lane after the other: blocks read when their turn comes, broken samples replaced, resumed anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from escnet.data.loading import loader_settings
from escnet.data.shards.accounting import BrokenSample, ShardError, UnusableSampleError
from escnet.data.shards.draws import Branch, random_state
from escnet.data.shards.index import Shard
from escnet.data.shards.lanes import Block, Lane
from escnet.data.shards.reading import RawSample, read_shard
from escnet.data.shards.schedule import BatchSchedule

Batch = TypeVar("Batch")
# Blocks that are looked through for a sample to stand for one of a block that is all broken.
_FURTHER_BLOCKS = 4


class Slot(NamedTuple):
    """The place of one sample of a shard.

    Attributes:
        shard: path or URL.
        key: of the sample.
        content: what is decoded; None for one that could not be read.
        reason: why it could not be read.
    """

    shard: str
    key: str
    content: Any
    reason: str = ""


@dataclass(frozen=True)
class Sharing:
    """How a stream is shared out, and where it starts.

    Attributes:
        seed: of order, sizes and augmentation, not negative.
        start_iteration: batches of each rank that are done.
        num_workers: processes that read for each rank; 0 for this one.
        rank, world_size: which of how many processes train.
        block: shards whose samples are mixed.
    """

    seed: int
    start_iteration: int = 0
    num_workers: int = 0
    rank: int = 0
    world_size: int = 1
    block: int = 2

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"a block has at least one shard, got {self.block}")
        if self.start_iteration < 0 or self.num_workers < 0:
            raise ValueError(
                f"iterations and workers cannot be negative, got {self.start_iteration} and {self.num_workers}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"there is no rank {self.rank} of {self.world_size} processes")

    @property
    def lanes_of_rank(self) -> int:
        """Readers of one rank."""
        return max(1, self.num_workers)


class ShardStream(IterableDataset[Batch], ABC):
    """The batches of one rank, without end.

    Batch k depends on the shards, the schedule, the sharing without its start, and k alone. The workers of a rank read
    lanes of their own, and make the batches in turn.

    Args:
        shards: of all ranks.
        schedule: sizes of images and batches.
        sharing: what part of it is wanted.
        with_annotations: the JSON of the samples is read.

    Raises:
        ShardError: fewer shards than readers.
    """

    def __init__(
        self, shards: Sequence[Shard], schedule: BatchSchedule, sharing: Sharing, with_annotations: bool
    ) -> None:
        self.schedule = schedule
        self.sharing = sharing
        self._with_annotations = with_annotations
        lanes = sharing.lanes_of_rank * sharing.world_size
        first = sharing.rank * sharing.lanes_of_rank
        self._lanes = [
            Lane(shards, first + own, lanes, sharing.block, sharing.seed) for own in range(sharing.lanes_of_rank)
        ]

    @abstractmethod
    def decode(self, content: Any, size: int, generator: np.random.RandomState) -> Any:
        """Make an example of what `slots` has read.

        Raises:
            UnusableSampleError: it cannot serve.
        """

    @abstractmethod
    def join(self, keys: list[str], examples: list[Any], broken: list[BrokenSample]) -> Batch:
        """Make a batch of examples."""

    def slots(self, shard: Shard) -> list[Slot]:
        """Read a shard: as many places as its index says.

        Raises:
            ShardError: there are more samples than that.
        """
        samples, fault, _ = read_shard(shard.url, self._with_annotations)
        if len(samples) > shard.samples:
            raise ShardError(
                f"{shard.url}: has {len(samples)} samples where its index says {shard.samples}; "
                f"tools/make_shards.py --index FOLDER writes the index anew"
            )
        reason = f"the shard ends after {len(samples)} of {shard.samples} samples{f' ({fault})' if fault else ''}"
        missing = range(len(samples), shard.samples)
        return [
            *(self.slot(shard, sample) for sample in samples),
            *(Slot(shard.url, f"sample {number + 1}", None, reason) for number in missing),
        ]

    def slot(self, shard: Shard, sample: RawSample) -> Slot:
        """The place of a sample that was read."""
        return Slot(shard.url, sample.key, sample)

    def loader(self) -> DataLoader[Batch]:
        """The loader of the batches of this rank, from the start that its sharing names."""
        return DataLoader(self, batch_size=None, **loader_settings(self.sharing.num_workers))

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        step = self.sharing.lanes_of_rank
        # The loader asks its first worker for the first batch, whatever iteration that is.
        first = self.sharing.start_iteration + (worker.id if worker else 0)
        reader = _Reader(self, first % step, self.schedule.images_before(first, step))
        for batch in count(first, step):
            size = self.schedule.size(batch)
            yield self._batch(reader, size, self.schedule.count(batch))

    def _batch(self, reader: _Reader[Batch], size: int, length: int) -> Batch:
        keys: list[str] = []
        examples: list[Any] = []
        broken: list[BrokenSample] = []
        for _ in range(length):
            slot, example, skipped = reader.next(size)
            keys.append(slot.key)
            examples.append(example)
            broken += skipped
        return self.join(keys, examples, broken)


class _Reader(Generic[Batch]):
    """Reads a lane from a position on; holds one block at a time, and a second one where the first is all broken.

    Args:
        stream: whose lane it is.
        own: which of the lanes of its rank.
        position: in the lane, of the next sample.
    """

    def __init__(self, stream: ShardStream[Batch], own: int, position: int) -> None:
        self._stream = stream
        self._own = own
        self._position = position
        self._blocks = stream._lanes[own].blocks(position)
        self._block: Block | None = None
        self._slots: list[Slot] = []
        self._spare: list[Slot] | None = None

    def next(self, size: int) -> tuple[Slot, Any, list[BrokenSample]]:
        """The next sample: its place, the example, and the sample itself if it is broken and another stands for it.

        Raises:
            ShardError: neither the block nor those that follow have a sample that can serve.
        """
        block = self._open_block()
        turn = self._slots[self._position - block.start]
        reason = ""
        for slot in self._candidates(block):
            try:
                example = self._decode(slot, size)
            except UnusableSampleError as error:
                reason = reason or str(error)
                continue
            self._position += 1
            return slot, example, [BrokenSample(turn.shard, turn.key, reason)] if reason else []
        raise ShardError(
            f"none of the {len(block.order)} samples of {', '.join(shard.url for shard in block.shards)} can be used, "
            f"nor of the {_FURTHER_BLOCKS} blocks that follow; of one of them: {reason}; leave these shards out, or "
            "make them anew"
        )

    def _candidates(self, block: Block) -> Iterator[Slot]:
        """The sample whose turn it is, and those that may stand for it, in order: of its block, then of later ones."""
        place = self._position - block.start
        yield from _rotated(self._slots, place)
        if self._spare is not None:
            yield from _rotated(self._spare, place)
            return
        # What serves once will serve again, so that the first of these blocks that does is kept.
        for later in islice(self._stream._lanes[self._own].blocks(block.start + len(block.order)), _FURTHER_BLOCKS):
            self._spare = self._read(later)
            yield from _rotated(self._spare, place)

    def _decode(self, slot: Slot, size: int) -> Any:
        if slot.content is None:
            raise UnusableSampleError(slot.reason)
        sharing = self._stream.sharing
        lane = sharing.rank * sharing.lanes_of_rank + self._own
        generator = random_state(sharing.seed, Branch.SAMPLE, lane, self._position)
        return self._stream.decode(slot.content, size, generator)

    def _open_block(self) -> Block:
        if self._block is None or self._position >= self._block.start + len(self._block.order):
            self._slots, self._spare = [], None  # before the next ones are read
            self._block = next(self._blocks)
            self._slots = self._read(self._block)
        return self._block

    def _read(self, block: Block) -> list[Slot]:
        """The samples of a block in their order."""
        slots = [slot for shard in block.shards for slot in self._stream.slots(shard)]
        return [slots[number] for number in block.order]


def _rotated(slots: list[Slot], place: int) -> Iterator[Slot]:
    """All of them, the one at a place first."""
    yield from (slots[(place + further) % len(slots)] for further in range(len(slots)))
