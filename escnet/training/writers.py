"""Metrics of a run on disk: when they are written, and their repair after a kill."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter

from escnet.safe_files import replacing

logger = logging.getLogger(__name__)


class TimedWriter(HookBase):
    """Writes metrics every `period` iterations, but also when `seconds` have passed: on a CPU an iteration takes long.

    Args:
        writers: Detectron2's writers.
        period: iterations.
        seconds: longest time without news.
        validation_period: also after so many iterations each, since of a metric the last value alone is written; 0 for
            no such.
    """

    def __init__(
        self, writers: Sequence[EventWriter], period: int = 20, seconds: float = 20.0, validation_period: int = 0
    ) -> None:
        self._writers = writers
        self._periods = [period, validation_period] if validation_period else [period]
        self._seconds = seconds
        self._written = time.monotonic()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        overdue = time.monotonic() - self._written >= self._seconds
        due = any(done % period == 0 for period in self._periods)
        if overdue or due or done >= self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        self._write()
        for writer in self._writers:
            writer.close()

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()
        self._written = time.monotonic()


def repair_metrics(path: str | Path, start_iteration: int | None = None) -> None:
    """Make a file of JSON lines whole again: drop what a kill left of a line, with a warning.

    Args:
        path: the file; it may be missing.
        start_iteration: also drop the lines from this iteration on, which the resumed run will write again.
    """
    path = Path(path)
    if not path.exists():
        return
    kept = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            iteration = json.loads(line)["iteration"]
        except (ValueError, TypeError, KeyError):
            logger.warning(f"{path}: dropped line {number}, which was being written when the run was stopped")
            continue
        if start_iteration is None or iteration < start_iteration:
            kept.append(f"{line}\n")
    with replacing(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
