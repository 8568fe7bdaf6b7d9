"""Samples that cannot serve: named, counted, and too many of them refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.utils import comm

from escnet.data.errors import DatasetError

_log = logging.getLogger(__name__)
# Names that are kept, and logged, so that neither a checkpoint nor a log grows with all that is broken.
_NAMED = 1000


class ShardError(DatasetError):
    """Shards, their index or what lies beside them cannot be used. The message names the file and the remedy."""


class TooManyBrokenError(ShardError):
    """More samples of a run are broken than is allowed."""


class UnusableSampleError(ValueError):
    """One sample cannot serve; the message says why. Never leaves a stream."""


class BrokenSample(NamedTuple):
    """A sample that was skipped.

    Attributes:
        shard: path or URL of its shard.
        key: of the sample in the shard.
        reason: why it cannot serve.
    """

    shard: str
    key: str
    reason: str


class SampleCount:
    """Counts the samples of a run and those that are broken; names each of them once, and stops at too many.

    All processes of a run have the counts of all, so that all of them stop at once; each names its own.

    Args:
        limit: the largest share of broken samples, 0..1.
        samples: how many there are in all: damage comes in whole shards, so that the share is of these as long as fewer
            were seen.
        least: samples that have to be seen before a share is judged.

    Attributes:
        seen: samples whose turn has come, broken ones included.
        broken: of these, those that were skipped.

    Raises:
        ValueError: a limit that is not a share, or a negative number.
    """

    def __init__(self, limit: float = 0.01, samples: int = 0, least: int = 1000) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"the limit of broken samples is a share of 0 to 1, got {limit}")
        if least < 0 or samples < 0:
            raise ValueError(f"numbers of samples cannot be negative, got least {least} and samples {samples}")
        self.limit = limit
        self.samples = samples
        self.least = least
        self.seen = 0
        self.broken = 0
        self._named: dict[tuple[str, str], None] = {}

    def add(self, seen: int, broken: Sequence[BrokenSample]) -> None:
        """Count the samples of a batch; every process has to do it, each with its own.

        Args:
            seen: how many had their turn, broken ones included: the size of the batch.
            broken: those of them that were skipped.

        Raises:
            TooManyBrokenError: the share of broken samples is above the limit.
        """
        for of_process in comm.all_gather((seen, len(broken))):
            self.seen += of_process[0]
            self.broken += of_process[1]
        for sample in broken:
            self._name(sample)
        whole = max(self.seen, self.samples)
        if self.seen >= self.least and self.broken > self.limit * whole:
            last = f"; the last: {broken[-1].shard}, {broken[-1].key}: {broken[-1].reason}" if broken else ""
            raise TooManyBrokenError(
                f"{self.broken} of {self.seen} samples are broken, a share of {self.broken / whole:.2%} of {whole} "
                f"where {self.limit:.2%} are allowed{last}; repair the shards, which the log names, or allow more "
                "(DISTILL.BROKEN_SHARE)"
            )

    def state_dict(self) -> dict[str, Any]:
        """The counts, for a checkpoint."""
        return {"seen": self.seen, "broken": self.broken, "named": [list(pair) for pair in self._named]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the counts of a checkpoint.

        Raises:
            KeyError: it is the state of something else.
        """
        self.seen, self.broken = int(state["seen"]), int(state["broken"])
        self._named = {(str(shard), str(key)): None for shard, key in state["named"]}

    def _name(self, sample: BrokenSample) -> None:
        place = (sample.shard, sample.key)
        if place in self._named or len(self._named) >= _NAMED:
            return
        self._named[place] = None
        _log.warning("skipped %s, %s: %s", *sample)
        if len(self._named) == _NAMED:
            _log.warning("%d broken samples were named; those that follow are only counted", _NAMED)
