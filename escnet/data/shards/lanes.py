"""The order of the samples in a lane, which is what one worker of one rank reads: a function of position alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from escnet.data.shards.accounting import ShardError
from escnet.data.shards.draws import Branch, random_state
from escnet.data.shards.index import Shard


class Block(NamedTuple):
    """A few shards that are read together, and the order of their samples.

    Attributes:
        shards: which.
        start: the position in the lane of the first sample.
        order: (n,) which of the n samples, counted through the shards as listed, stands at each place.
    """

    shards: tuple[Shard, ...]
    start: int
    order: np.ndarray


class Lane:
    """The endless sequence of samples of one lane; all lanes together pass every sample once per epoch.

    Each epoch deals out the shards anew. A lane goes on to its next epoch by itself, so that lanes with fewer samples
    run ahead of the others.

    Args:
        shards: of all lanes, each with one sample or more.
        lane: which of the lanes.
        lanes: how many there are.
        block: shards whose samples are mixed, and lie in memory together.
        seed: of the order, not negative.

    Raises:
        ShardError: there are fewer shards than lanes.
    """

    def __init__(self, shards: Sequence[Shard], lane: int, lanes: int, block: int, seed: int) -> None:
        if len(shards) < lanes:
            raise ShardError(
                f"{len(shards)} shards cannot be dealt out to {lanes} readers, which is processes times workers of "
                "each; make more shards (a smaller --samples-per-shard of tools/make_shards.py), or take fewer workers"
            )
        self._shards = tuple(shards)
        self._samples = np.array([shard.samples for shard in shards], dtype=np.int64)
        self._lane, self._lanes, self._block, self._seed = lane, lanes, block, seed

    def blocks(self, position: int) -> Iterator[Block]:
        """The blocks from that on which holds a position, without end; nothing is read for it."""
        epoch, start = self._epoch_of(position)
        while True:
            shards = self._own_shards(epoch)
            for number, first in enumerate(range(0, len(shards), self._block)):
                chosen = shards[first : first + self._block]
                length = int(self._samples[chosen].sum())
                if start + length > position:
                    generator = random_state(self._seed, Branch.BLOCK, epoch, self._lane, number)
                    yield Block(tuple(self._shards[i] for i in chosen), start, generator.permutation(length))
                start += length
            epoch += 1

    def _epoch_of(self, position: int) -> tuple[int, int]:
        """The epoch that a position is in, and the position of its first sample."""
        if self._lanes == 1:
            length = int(self._samples.sum())
            return position // length, position // length * length
        epoch, start = 0, 0
        while start + (length := int(self._samples[self._own_shards(epoch)].sum())) <= position:
            epoch, start = epoch + 1, start + length
        return epoch, start

    def _own_shards(self, epoch: int) -> np.ndarray:
        order = random_state(self._seed, Branch.SHARDS, epoch).permutation(len(self._shards))
        return order[self._lane :: self._lanes]
