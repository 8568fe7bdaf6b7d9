"""Whether every picture of an input is labelled or recorded as a failure, exactly once, in files that are whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from escnet.command_line import one_line
from escnet.labelling.corpus.contents import keys_of
from escnet.labelling.corpus.parts import read_sizes
from escnet.labelling.corpus.plan import units_of
from escnet.labelling.corpus.records import LABELS, Record, read_record
from escnet.labelling.corpus.units import Unit, UnreadableUnitError
from escnet.pretrained.files import file_sha256

# Faults that are told; the others are counted.
_TOLD = 20


@dataclass
class Verdict:
    """What was found.

    Attributes:
        expected: keys of the input.
        labelled: of them, those in files of labels.
        failed: of them, those that are recorded as failures.
        faults: the first things that are wrong.
        more: how many others are.
    """

    expected: int = 0
    labelled: int = 0
    failed: int = 0
    faults: list[str] = field(default_factory=list)
    more: int = 0

    def add_fault(self, text: str) -> None:
        """Note that something is wrong."""
        if len(self.faults) < _TOLD:
            self.faults.append(text)
        else:
            self.more += 1


def verify(output: Path) -> Verdict:
    """Read all outputs and compare their keys with those of the input, unit by unit, and with each other.

    Memory holds 8 bytes for each picture.

    Args:
        output: folder of a labelling.

    Raises:
        LabellingError: its plan is damaged.
    """
    verdict = Verdict()
    digests: list[np.ndarray] = []
    planned = set()
    for unit in units_of(output):
        planned.add(unit.name)
        digests.append(np.array([_digest(key) for key in _verify_unit(output, unit, verdict)], np.uint64))
    _find_repeated(digests, verdict)
    for path in sorted((output / LABELS).rglob("*")):
        name = path.relative_to(output / LABELS).with_suffix("").as_posix()
        if path.is_file() and not path.name.startswith(".") and name not in planned:
            verdict.add_fault(f"{path}: is of no unit of the plan")
    return verdict


def _verify_unit(output: Path, unit: Unit, verdict: Verdict) -> Iterator[str]:
    """The keys of a unit's outputs and failures; what is wrong with them goes to the verdict."""
    try:
        expected = Counter(keys_of(unit))
    except UnreadableUnitError as error:
        verdict.add_fault(f"unit {unit.number}: {error}")
        return
    verdict.expected += expected.total()
    record = read_record(output, unit.number)
    if record is None:
        verdict.add_fault(f"unit {unit.number}: is not finished, {expected.total()} pictures; run the command again")
        return
    if record.fault:
        verdict.add_fault(
            f"unit {unit.number}: {unit.source} is damaged ({record.fault}); what follows there is unknown"
        )
    labelled = _labelled_keys(output, unit, record, verdict)
    failed = Counter(entry["key"] for entry in record.failures)
    verdict.labelled += labelled.total()
    verdict.failed += failed.total()
    if labelled.total() != record.labelled:
        verdict.add_fault(f"unit {unit.number}: has {labelled.total()} labels where its record says {record.labelled}")
    found = labelled + failed
    for key, times in (expected - found).items():
        verdict.add_fault(f"unit {unit.number}: {key} is missing ({times})")
    for key, times in (found - expected).items():
        verdict.add_fault(f"unit {unit.number}: {key} is there {times} too often")
    yield from found.elements()


def _labelled_keys(output: Path, unit: Unit, record: Record, verdict: Verdict) -> Counter[str]:
    path = output / record.file
    keys: Counter[str] = Counter()
    try:
        if file_sha256(path) != record.sha256:
            verdict.add_fault(f"{path}: has other bytes than its record says; remove it, and run the command again")
        for key, pixels, area in read_sizes(path):
            keys[key] += 1
            if area != pixels:
                verdict.add_fault(f"{path}: the classes of {key} cover {area} of {pixels} pixels")
    except Exception as error:  # a damaged file may raise anything
        verdict.add_fault(f"{path}: cannot be read ({one_line(error)}); remove it, and run the command again")
    return keys


def _digest(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _find_repeated(digests: list[np.ndarray], verdict: Verdict) -> None:
    """Keys that several units have; of each unit it is known already."""
    all_of_them = np.concatenate([np.unique(of_unit) for of_unit in digests]) if digests else np.zeros(0, np.uint64)
    repeated = len(all_of_them) - len(np.unique(all_of_them))
    if repeated:
        verdict.add_fault(f"{repeated} keys are in several units")
