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
        self._note_of_time()

    @property
    def note(self) -> Path:
        """File in which `TimeLimit` says that it has ended the process."""
        return self._path.with_suffix(".late")

    @property
    def is_suspect(self) -> bool:
        """Whether its pictures should be labelled one by one: it was begun so often, or has once taken too long."""
        return self._marks["begun"] >= self._limit or bool(self._marks["late"])

    def begin(self) -> None:
        """Mark the unit as begun."""
        self._marks["begun"] += 1
        self._write()
        # What it says is marked now, and is not to be read again where no limit is set any more.
        self.note.unlink(missing_ok=True)

    def excuse(self) -> None:
        """Take back the last mark: the unit has ended with an error that is no fault of its pictures."""
        self._marks["begun"] -= 1
        self._write()

    def begin_picture(self, key: str) -> bool:
        """Mark a picture as begun, and the one before it as ended; False if it has been begun too often."""
        pictures = self._marks["pictures"]
        pictures.pop(self._marks["current"], None)
        self._marks["current"] = None
        if pictures.get(key, 0) >= self._limit:
            return False
        pictures[key] = pictures.get(key, 0) + 1
        self._marks["current"] = key
        self._write()
        return True

    def was_late(self, key: str) -> bool:
        """Whether a picture that was begun too often has once taken longer than it may."""
        return key in self._marks["late"]

    def end(self) -> None:
        """The unit is finished."""
        self._path.unlink(missing_ok=True)

    def _note_of_time(self) -> None:
        """Mark the picture that was begun last, or the whole unit, as late, if the process was ended for that."""
        current, self._marks["current"] = self._marks["current"], None
        if self.note.is_file() and self.note.stat().st_size:
            self._marks["late"].append(current or "")

    def _read(self) -> dict[str, Any]:
        marks: dict[str, Any] = {"begun": 0, "pictures": {}, "late": [], "current": None}
        try:
            return marks | json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, TypeError):
            return marks

    def _write(self) -> None:
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(self._marks, ensure_ascii=False), encoding="utf-8")
