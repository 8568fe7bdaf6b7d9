"""Marks of what has been begun and not ended, by which a unit that ends its process again and again is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from escnet.labelling.corpus.records import MARKS
from escnet.labelling.corpus.units import Unit
from escnet.safe_files import replacing


class Attempts:
    """How often a unit, and pictures of it, have been begun without end; on the disk, since processes die of them.

    Args:
        output: folder of the outputs.
        unit: that is about to be labelled.
        limit: so many beginnings without end are enough.
    """

    def __init__(self, output: Path, unit: Unit, limit: int) -> None:
        self._path = output / MARKS / f"{unit.name}.json"
        self._limit = limit
        self._marks = self._read()
        self._current: str | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether the unit has been begun so often that its pictures should be labelled one by one."""
        return self._marks["begun"] >= self._limit

    def begin(self) -> None:
        """Mark the unit as begun."""
        self._marks["begun"] += 1
        self._write()

    def excuse(self) -> None:
        """Take back the last mark: the unit has ended with an error that is no fault of its pictures."""
        self._marks["begun"] -= 1
        self._write()

    def begin_picture(self, key: str) -> bool:
        """Mark a picture as begun, and the one before it as ended; False if it has been begun too often."""
        pictures = self._marks["pictures"]
        pictures.pop(self._current, None)
        self._current = None
        if pictures.get(key, 0) >= self._limit:
            return False
        pictures[key] = pictures.get(key, 0) + 1
        self._current = key
        self._write()
        return True

    def end(self) -> None:
        """The unit is finished."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            marks = json.loads(self._path.read_text(encoding="utf-8"))
            return {"begun": int(marks["begun"]), "pictures": dict(marks["pictures"])}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {"begun": 0, "pictures": {}}

    def _write(self) -> None:
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(self._marks, ensure_ascii=False), encoding="utf-8")
