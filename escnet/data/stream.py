"""The endless stream of training samples, addressed by position so that training resumes anywhere, and the loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from torch.utils.data import DataLoader, Dataset, Sampler

from escnet.data.loading import loader_settings

Record = dict[str, Any]
Sample = dict[str, Any]

# Branches of the seed, so that the order of the records and the augmentation of a sample are independent.
_ORDER, _SAMPLE = 0, 1


class ShuffledStream(Dataset[Sample]):
    """Training samples by position 0, 1, 2, ... without end; each epoch passes every record once, in its own order.

    The sample at a position depends on the records, the mapper, the seed and the position alone: not on what was
    read before, nor on the process that reads it.

    Args:
        records: dataset records in Detectron2's format, at least one.
        mapper: called as ``mapper(record, seed=...)``.
        seed: not negative.

    Raises:
        ValueError: no records, or a negative seed.
    """

    def __init__(self, records: Sequence[Record], mapper: Callable[..., Sample], seed: int) -> None:
        if not records:
            raise ValueError("a training stream needs at least one record, got none")
        if seed < 0:
            raise ValueError(f"the seed of the training stream cannot be negative, got {seed}; set SEED to 0 or more")
        # Serialised, the records are shared by the worker processes instead of being copied into each.
        self._records = DatasetFromList(list(records), copy=False)
        self._mapper = mapper
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> Sample:
        record = self._records[self.record_index(position)]
        (sample_seed,) = self._seed_words(_SAMPLE, position, 1)
        return self._mapper(record, seed=int(sample_seed))

    def record_index(self, position: int) -> int:
        """Which record is read at `position`."""
        epoch, place = divmod(position, len(self._records))
        if epoch != self._epoch:
            # RandomState is frozen by NumPy's compatibility policy: the order survives an upgrade of NumPy.
            shuffler = np.random.RandomState(self._seed_words(_ORDER, epoch, 4))
            self._order, self._epoch = shuffler.permutation(len(self._records)), epoch
        return int(self._order[place])

    def _seed_words(self, branch: int, number: int, words: int) -> np.ndarray:
        return np.random.SeedSequence(self._seed, spawn_key=(branch, number)).generate_state(words)


class _BatchPositions(Sampler[list[int]]):
    """The positions of one rank's share of each batch, from `start_iteration` on, without end."""

    def __init__(self, batch_size: int, start_iteration: int, rank: int, world_size: int) -> None:
        self._batch_size = batch_size
        self._start_iteration = start_iteration
        self._share = batch_size // world_size
        self._offset = rank * self._share

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in count(self._start_iteration):
            first = iteration * self._batch_size + self._offset
            yield list(range(first, first + self._share))


def build_training_loader(
    records: Sequence[Record],
    mapper: Callable[..., Sample],
    *,
    batch_size: int,
    seed: int,
    start_iteration: int = 0,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[list[Sample]]:
    """Build the endless loader of training batches, each a list of ``batch_size / world_size`` samples.

    The batches of all ranks, one after the other, are the batch of a single process. The k-th batch depends on the
    seed and on ``start_iteration + k`` only, so a resumed run reads what an undisturbed one would have, with any
    number of workers. The global random state is neither read nor changed.

    Args:
        batch_size: samples of all ranks together.
        start_iteration: iterations that are already done.

    Raises:
        ValueError: no records, a negative seed, or a batch size that does not divide over the ranks.
    """
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"the total batch size ({batch_size}) has to be a positive multiple of the number of processes "
            f"({world_size}); change SOLVER.IMS_PER_BATCH or --num-gpus"
        )
    return DataLoader(
        ShuffledStream(records, mapper, seed),
        batch_sampler=_BatchPositions(batch_size, start_iteration, rank, world_size),
        **loader_settings(num_workers),
    )


def build_evaluation_loader(
    records: Sequence[Record], mapper: Callable[[Record], Sample], num_workers: int = 0, batch_size: int = 1
) -> DataLoader[list[Sample]]:
    """Build the loader that passes each record once, in order, as lists of samples; the ranks share the records.

    Args:
        batch_size: samples of a list; the last one may be shorter.

    Raises:
        ValueError: no records, or a batch size below 1.
    """
    if not records:
        raise ValueError("there is nothing to evaluate: the dataset has no records")
    if batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; a batch needs at least one image")
    return DataLoader(
        MapDataset(DatasetFromList(list(records), copy=False), mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(records)),
        **loader_settings(num_workers),
    )
