"""The records of finished units, which say that they are finished; and the manifest that sums them up."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from escnet.labelling.corpus.units import unit_name
from escnet.labelling.pictures import LabellingError
from escnet.safe_files import replacing

LABELS, RECORDS, MARKS = "labels", "records", "attempts"
MANIFEST, UNITS, FAILURES = "manifest.json", "units.jsonl", "failures.jsonl"


@dataclass(frozen=True)
class Record:
    """A finished unit.

    Attributes:
        unit: its number.
        file: of its labels, below the output folder.
        labelled: pictures in the file.
        failures: the key of each of the others, and why it failed.
        bytes, sha256: of the file.
        fault: why its archive could not be read to the end; "" for a sound one.
        seconds: that it took.
    """

    unit: int
    file: str
    labelled: int
    failures: list[dict[str, str]] = field(default_factory=list)
    bytes: int = 0
    sha256: str = ""
    fault: str = ""
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The record with the number of failures in their place."""
        return asdict(self) | {"failures": len(self.failures)}


def record_path(output: Path, number: int) -> Path:
    """Of the record of a unit."""
    return output / RECORDS / f"{unit_name(number)}.json"


def write_record(output: Path, record: Record) -> None:
    """Write the record of a unit whose labels are written. Never half-written."""
    with replacing(record_path(output, record.unit)) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_record(output: Path, number: int) -> Record | None:
    """The record of a unit; None where it is not finished, or its file is not the one that the record is of."""
    path = record_path(output, number)
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        is_whole = (output / record.file).stat().st_size == record.bytes
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise LabellingError(f"{path}: is damaged ({error}); remove it, and its unit is labelled again") from None
    return record if is_whole else None


def write_manifest(output: Path, units: int, header: dict[str, Any]) -> dict[str, Any]:
    """Sum up the records of all units: `MANIFEST`, and a line for each unit and for each failure in files beside it.

    Args:
        output: the folder.
        units: how many the plan has.
        header: of the plan.

    Returns:
        the sums.
    """
    sums = {"units": units, "finished": 0, "labelled": 0, "failures": 0, "bytes": 0, "faults": 0, "seconds": 0.0}
    with _lines(output / UNITS) as lines, _lines(output / FAILURES) as failures:
        for record in records_of(output, range(units)):
            lines.write(json.dumps(record.summary(), ensure_ascii=False) + "\n")
            failures.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in record.failures)
            sums["finished"] += 1
            sums["labelled"] += record.labelled
            sums["failures"] += len(record.failures)
            sums["bytes"] += record.bytes
            sums["faults"] += bool(record.fault)
            sums["seconds"] += record.seconds
    sums["seconds"] = round(sums["seconds"], 1)
    with replacing(output / MANIFEST) as temporary:
        text = json.dumps({**sums, "plan": header}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return sums


def records_of(output: Path, numbers: Iterable[int]) -> Iterator[Record]:
    """The records of those units that are finished."""
    yield from (record for record in (read_record(output, number) for number in numbers) if record is not None)


def remove_remains(output: Path) -> int:
    """Remove what killed processes have left under temporary names; returns how many there were.

    Only while no other process writes there.
    """
    remains = [path for folder in (LABELS, RECORDS, MARKS) for path in (output / folder).rglob(".*.tmp")]
    for path in [*remains, *output.glob(".*.tmp")]:
        path.unlink(missing_ok=True)
    return len(remains)


@contextmanager
def _lines(path: Path) -> Iterator[TextIO]:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        yield file
