"""One pass over shards: each sample once, in the order of the archives, at one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from escnet.data.loading import loader_settings
from escnet.data.shards.accounting import BrokenSample, UnusableSampleError
from escnet.data.shards.decoding import decode_image, to_square
from escnet.data.shards.index import Shard
from escnet.data.shards.reading import read_shard


class Portion(NamedTuple):
    """A few images of a shard.

    Attributes:
        shard: which.
        keys: of the images.
        images: (B,3,S,S) uint8 RGB, B may be 0.
        broken: samples that were skipped.
        is_last: the shard has no more.
    """

    shard: Shard
    keys: list[str]
    images: Tensor
    broken: list[BrokenSample]
    is_last: bool


def pass_over(
    shards: Sequence[Shard], size: int, batch_size: int, least_side: int = 16, num_workers: int = 0
) -> Iterator[Portion]:
    """All images of shards as a stream without augmentation shows them; portions of several shards take turns.

    Args:
        shards: each is read by one worker.
        size: side of the images, in pixels, 2 or more.
        batch_size: most images of a portion.
        least_side: an image with a shorter side, in pixels, is a broken sample.
        num_workers: processes that read.
    """
    portions = _Portions(shards, size, batch_size, least_side)
    return iter(DataLoader(portions, batch_size=None, **loader_settings(min(num_workers, len(shards)))))


class _Portions(IterableDataset[Portion]):
    def __init__(self, shards: Sequence[Shard], size: int, batch_size: int, least_side: int) -> None:
        self._shards = list(shards)
        self._size, self._batch_size, self._least_side = size, batch_size, least_side

    def __iter__(self) -> Iterator[Portion]:
        worker = get_worker_info()
        own = self._shards[worker.id :: worker.num_workers] if worker else self._shards
        for shard in own:
            yield from self._portions(shard)

    def _portions(self, shard: Shard) -> Iterator[Portion]:
        samples, fault, _ = read_shard(shard.url, with_annotations=False)
        broken: list[BrokenSample] = []
        if len(samples) < shard.samples:
            reason = f"only {len(samples)} of {shard.samples} samples can be read{f' ({fault})' if fault else ''}"
            broken = [BrokenSample(shard.url, f"sample {n + 1}", reason) for n in range(len(samples), shard.samples)]
        for first in range(0, max(1, len(samples)), self._batch_size):
            keys, images = [], [torch.empty(0, 3, self._size, self._size, dtype=torch.uint8)]
            for sample in samples[first : first + self._batch_size]:
                try:
                    pixels, _ = decode_image(sample.image, self._size, self._least_side)
                except UnusableSampleError as error:
                    broken.append(BrokenSample(shard.url, sample.key, str(error)))
                    continue
                keys.append(sample.key)
                images.append(to_square(pixels, self._size)[None])
            yield Portion(shard, keys, torch.cat(images), broken, first + self._batch_size >= len(samples))
            broken = []
