"""The end of a process in which a picture takes longer than it may, whatever it hangs in, with a note that says so."""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import TextIO


class TimeLimit:
    """Ends this process where pictures take longer than they may; a context, within which it is set and taken back.

    A thread cannot be stopped, be it in a decoder or in the driver of a device. The clock is `faulthandler`'s, which
    runs although the interpreter is held, writes where the threads were, and ends the process.

    Args:
        note: file that has text after such an end, and is gone after any other.
        seconds: that a picture may take; None for no limit.
    """

    def __init__(self, note: Path, seconds: float | None) -> None:
        self._note = note
        self._seconds = seconds
        self._file: TextIO | None = None

    def __enter__(self) -> TimeLimit:
        if self._seconds is not None:
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._note.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()
        if self._file is not None:
            self._file.close()
            self._note.unlink(missing_ok=True)

    def allow(self, pictures: int) -> None:
        """Give so many pictures their time from now on, in place of what was given before."""
        if self._file is not None:
            faulthandler.dump_traceback_later(self._seconds * pictures, file=self._file, exit=True)

    def lift(self) -> None:
        """Let what follows take as long as it takes."""
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
