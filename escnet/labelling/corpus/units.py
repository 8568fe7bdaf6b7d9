"""Units of work, the runs of pictures that are labelled and written as one: their names, and their lines in a plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from escnet.labelling.pictures import LabellingError

Kind = Literal["files", "shard", "rows"]


class UnreadableUnitError(LabellingError):
    """The source of a unit cannot be read now: nothing of it is written, and the next run tries it again."""


@dataclass(frozen=True)
class Unit:
    """A run of pictures.

    Attributes:
        number: its place in the plan, from 0.
        kind: "files" of a folder, a "shard", which is a tar archive, or the "rows" of a row group of a Parquet file.
        source: path or URL of the folder, of the archive or of the Parquet file.
        label: what the keys of its pictures start with, for archives and rows; no two sources have the same.
        keys: of the pictures of a folder: their paths below it. Those of others stand in the archive or are counted.
        group: the row group.
        first: number of its first row in the file.
        count: how many pictures it has; None for an archive, which only reading tells.
    """

    number: int
    kind: Kind
    source: str
    label: str = ""
    keys: tuple[str, ...] = ()
    group: int = 0
    first: int = 0
    count: int | None = None

    @property
    def name(self) -> str:
        """Of its files: nine digits."""
        return unit_name(self.number)

    def line(self) -> str:
        """Its line in the plan."""
        content: dict[str, Any] = {"unit": self.number, "kind": self.kind, "source": self.source}
        if self.kind == "files":
            content["keys"] = self.keys
        else:
            content["label"] = self.label
        if self.kind == "rows":
            content |= {"group": self.group, "first": self.first, "count": self.count}
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def of_line(cls, line: str | bytes) -> Unit:
        """The unit of a line.

        Raises:
            LabellingError: it is no line of a plan.
        """
        try:
            content = json.loads(line)
            keys = tuple(content.get("keys", ()))
            return cls(
                content["unit"],
                content["kind"],
                content["source"],
                content.get("label", ""),
                keys,
                content.get("group", 0),
                content.get("first", 0),
                len(keys) if keys else content.get("count"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LabellingError(
                f"a line of the plan is damaged ({error!r}); choose another --output, or remove what is in this one"
            ) from None


def unit_name(number: int) -> str:
    """The name of a unit's files, of which a thousand share a folder: ``000012/000012345``."""
    return f"{number // 1000:06d}/{number:09d}"
