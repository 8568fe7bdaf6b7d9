"""A file of JSON lines that only grows: each line is written in one piece, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


class LineFile:
    """Results that are added one by one while an evaluation runs.

    Args:
        path: of the file; made, with its folder, when the first line is added.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stream: BinaryIO | None = None

    def repair(self) -> None:
        """Remove a last line that a kill cut off. To be called by one process, before any reads or adds."""
        if not self.path.exists():
            return
        contents = self.path.read_bytes()
        whole = contents.rfind(b"\n") + 1
        if whole < len(contents):
            os.truncate(self.path, whole)

    def is_empty(self) -> bool:
        """Whether there is no line, or no file."""
        return not self.path.exists() or self.path.stat().st_size == 0

    def add(self, entry: Any, image: object) -> None:
        """Append one line.

        Args:
            entry: what JSON can hold.
            image: whose result it is, for the message.

        Raises:
            OSError: it could not be written, for want of space as a rule; what was written of it is removed again.
        """
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that after an error nothing is left that closing the file would try to write again.
            self._stream = open(self.path, "ab", buffering=0)  # noqa: SIM115
        contents = (json.dumps(entry, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
        start = self._stream.seek(0, os.SEEK_END)
        try:
            while contents:
                # Where space runs out in the middle of a line, a part of it is written, and only the rest is an error.
                contents = contents[self._stream.write(contents) :]
        except OSError as error:
            self._stream.truncate(start)
            raise OSError(
                f"{self._stream.name}: the result of the image '{image}' was not written ({error.strerror}); "
                "those of the images before it stand. Free some space, and the same command goes on from there"
            ) from error

    def close(self) -> None:
        """Close the file; a further line opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Each line, and its place for messages: the file and the number."""
        if self.path.exists():
            with open(self.path, encoding="utf-8") as stream:
                for number, line in enumerate(stream, start=1):
                    yield line, f"{self.path}, line {number}"
