"""Progress of long work: a bar on a terminal; elsewhere, as in the log of a batch job, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
# Seconds from one line to the next where standard error is no terminal.
LINE_PERIOD = 30.0
_LINE = "{desc}{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def progress_bar(
    items: Iterable[Item] = (), *, total: int, desc: str = "", unit: str = "it", disable: bool = False
) -> tqdm | ProgressLines:
    """Show on standard error how far some work is.

    Args:
        items: what is passed on when the result is iterated over; none where the caller tells with `update`.
        total: how many there are.
        desc: what the work is.
        unit: what is counted.
        disable: show nothing, as in all processes but the first.

    Returns:
        A bar that moves, or `ProgressLines` where standard error is no terminal. Both are iterables and context
        managers, and have `update` and `set_postfix`.
    """
    if disable or sys.stderr.isatty():
        return tqdm(items, total=total, desc=desc, unit=unit, disable=disable, mininterval=0.5, dynamic_ncols=True)
    return ProgressLines(items, total=total, desc=desc, unit=unit)


class ProgressLines(Generic[Item]):
    """A line at most every `LINE_PERIOD` seconds, and one at the end; each ends with a line feed.

    Args:
        items, total, desc, unit: as for `progress_bar`.
    """

    def __init__(self, items: Iterable[Item], *, total: int, desc: str, unit: str) -> None:
        self._items = items
        self._format = {"total": total, "prefix": f"{desc}: " if desc else "", "unit": unit, "bar_format": _LINE}
        self._postfix = ""
        self._count = 0
        self._is_closed = False
        self._start = self._told = time.monotonic()

    def __iter__(self) -> Iterator[Item]:
        with self:
            for item in self._items:
                yield item
                self.update()

    def __enter__(self) -> ProgressLines[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """Tell that so many more are done."""
        self._count += count
        if time.monotonic() - self._told >= LINE_PERIOD:
            self._tell()

    def set_postfix(self, refresh: bool = False, **values: Any) -> None:
        """Set what each line ends with, ``loss=0.1``; as of tqdm, but a line is never written for its sake."""
        self._postfix = ", ".join(f"{name}={value}" for name, value in values.items())

    def close(self) -> None:
        """Write the last line, once."""
        if not self._is_closed:
            self._is_closed = True
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        elapsed = self._told - self._start
        line = tqdm.format_meter(self._count, elapsed=elapsed, postfix=self._postfix, **self._format)
        print(line, file=sys.stderr, flush=True)
