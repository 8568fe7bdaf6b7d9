"""The making of a folder of shards as it is written down: what is finished is kept, and nothing else is mixed in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from escnet.data.shards.accounting import ShardError
from escnet.data.shards.index import INDEX, SHARD_SUFFIXES, Shard, write_index
from escnet.safe_files import replacing

# The settings, then a line for each shard that is finished.
JOURNAL = "making.jsonl"
_REMEDY = "choose an empty folder, or remove what is in it"


class Finished(NamedTuple):
    """A shard that is made.

    Attributes:
        name: of its file, which is not there if it has no samples.
        samples: how many are in it.
        size: of the file, in bytes.
        skipped: the path of each picture that cannot serve, and why.
    """

    name: str
    samples: int
    size: int
    skipped: list[tuple[str, str]]


class Journal:
    """What is finished of the shards of a folder.

    The journal stays beside the index when all is done, so that the same command finds nothing left to do. One without
    a shard that is there, such as that of a run that was stopped at once, counts for nothing.

    Args:
        output: the folder, made if it is missing.
        settings: of the shards, as JSON knows them.

    Attributes:
        finished: the shards that are there, from the first on without a gap.

    Raises:
        ShardError: the folder has shards that were made with other settings, or in another way.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self._output = output
        self._path = output / JOURNAL
        self._settings = dict(settings)
        self.finished: list[Finished] = []
        if self._path.is_file():
            self.finished = self._read()
        else:
            self._refuse_strangers()
        with replacing(self._path) as temporary:
            lines = [self._settings, *(shard._asdict() for shard in self.finished)]
            temporary.write_text("".join(map(_line, lines)), encoding="utf-8")

    def add(self, shard: Finished) -> None:
        """Write down that a shard is finished."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(shard._asdict()))
        self.finished.append(shard)

    def close(self, shards: Sequence[Shard], kind: str) -> None:
        """Write the index, with which the shards can be used."""
        write_index(self._output, shards, kind)

    def discard(self) -> None:
        """Remove the journal, since there is no shard."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> list[Finished]:
        """The shards that were finished, up to the first that is not there as it was written down."""
        lines = self._path.read_text(encoding="utf-8").splitlines()
        try:
            before = json.loads(lines[0])
        except (IndexError, ValueError) as error:
            raise ShardError(f"{self._path}: is damaged; {_REMEDY}") from error
        finished = self._find(lines[1:])
        has_shards = any(shard.samples for shard in finished)
        if before != self._settings and (has_shards or self._strangers()):
            told = ", ".join(
                f"{key} {before.get(key)!r}, not {value!r}"
                for key, value in self._settings.items()
                if before.get(key) != value
            )
            raise ShardError(f"{self._output}: has shards that were made with other settings ({told}); {_REMEDY}")
        return finished if has_shards else []

    def _find(self, lines: Sequence[str]) -> list[Finished]:
        finished = []
        for line in lines:
            try:
                shard = Finished(**json.loads(line))
            except (ValueError, TypeError):  # the line at which the power went out
                break
            path = self._output / shard.name
            if shard.samples and not (path.is_file() and path.stat().st_size == shard.size):
                break
            finished.append(shard._replace(skipped=[(path, reason) for path, reason in shard.skipped]))
        return finished

    def _strangers(self) -> list[str]:
        """The files of the folder that are of shards."""
        names = sorted(path.name for path in self._output.iterdir()) if self._output.is_dir() else []
        return [name for name in names if name == INDEX or name.endswith(SHARD_SUFFIXES)]

    def _refuse_strangers(self) -> None:
        if strangers := self._strangers():
            raise ShardError(f"{self._output}: has shards that were not made here, such as {strangers[0]}; {_REMEDY}")


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
