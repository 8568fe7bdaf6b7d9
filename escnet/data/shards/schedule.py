"""Batches of several image sizes at one cost (SAM-CLIP, sec. A "Training": the variable batch sampler)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from escnet.data.shards.draws import Branch, random_state

# Sizes that are drawn at a time; part of what the draws depend on.
_DRAWN = 4096


class BatchSchedule:
    """The image size of each batch, drawn from a few, and the number of images that makes its cost constant.

    A rank has batch_size / world_size images of the smallest size in a batch, and (smallest / size)² times as many of
    another, rounded, but at least one. All ranks draw the same size for a batch.

    Args:
        sizes: sides of the square images, in pixels.
        batch_size: images of the smallest size, of all ranks together.
        world_size: number of ranks.
        seed: of the draws, not negative.

    Raises:
        ValueError: no sizes, one that is below 2 or is there twice, a negative seed, or a batch size that does
            not divide over the ranks.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, world_size: int, seed: int) -> None:
        if not sizes or min(sizes) < 2 or len(set(sizes)) < len(sizes):
            raise ValueError(f"image sizes have to be different numbers of pixels, 2 or more, got {list(sizes)}")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"the total batch size ({batch_size}) has to be a positive multiple of the number of processes "
                f"({world_size})"
            )
        if seed < 0:
            raise ValueError(f"the seed of a stream of shards cannot be negative, got {seed}; set it to 0 or more")
        share, smallest = batch_size // world_size, min(sizes)
        self._sizes = np.array(sizes)
        self._counts = np.array([max(1, round(share * (smallest / size) ** 2)) for size in sizes])
        self._seed = seed
        self._number, self._draws = -1, np.empty(0, dtype=np.int64)

    @property
    def counts(self) -> dict[int, int]:
        """How many images of a batch one rank has, by the side of its images; all sides are as likely."""
        return dict(zip(self._sizes.tolist(), self._counts.tolist(), strict=True))

    def size(self, batch: int) -> int:
        """The side of the images of a batch."""
        return int(self._sizes[self._draw(batch)])

    def count(self, batch: int) -> int:
        """How many images of a batch one rank has."""
        return int(self._counts[self._draw(batch)])

    def images_before(self, batch: int, step: int) -> int:
        """The images that a rank has in those batches before `batch` that are a multiple of `step` away from it."""
        first = batch % step
        if len(self._sizes) == 1:
            return int(self._counts[0]) * ((batch - first) // step)
        total = 0
        for number in range(batch // _DRAWN + 1):
            start = number * _DRAWN
            offset = (first - start) % step
            total += int(self._counts[self._drawn(number)[offset : max(0, batch - start) : step]].sum())
        return total

    def _draw(self, batch: int) -> int:
        return 0 if len(self._sizes) == 1 else int(self._drawn(batch // _DRAWN)[batch % _DRAWN])

    def _drawn(self, number: int) -> np.ndarray:
        if number != self._number:
            generator = random_state(self._seed, Branch.SIZES, number)
            self._number, self._draws = number, generator.randint(len(self._sizes), size=_DRAWN)
        return self._draws
