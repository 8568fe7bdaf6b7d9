"""The plan of a labelling, written once: what its labels depend on, then a line for each unit; read by position."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from escnet.labelling.corpus.inputs import Listing
from escnet.labelling.corpus.units import Unit
from escnet.labelling.pictures import LabellingError
from escnet.pretrained.files import file_sha256
from escnet.pretrained.shipped import resolve_shipped
from escnet.safe_files import replacing
from escnet.vocabulary import Vocabulary

PLAN = "plan.jsonl"
_LOCK = ".lock"
_FORMAT = 1
# Of a configuration: where it runs and trains changes no label; weights stand in the header by their digests.
_WITHOUT = ("MODEL.DEVICE", "MODEL.WEIGHTS", "OUTPUT_DIR", "DATASETS.", "SOLVER.", "DATALOADER.", "VIS_PERIOD", "SEED")


class Place(NamedTuple):
    """Where the line of a unit is: its number, and bytes of the plan. All that is sent of it to a worker."""

    unit: int
    offset: int
    length: int


def header_of(entry: str, listing: Listing, vocabulary: Vocabulary, cfg: Any, settings: Mapping[str, Any]) -> dict:
    """What the labels of an input depend on, as JSON knows it.

    Args:
        entry: the input as it was given.
        listing: what it stands for.
        vocabulary: the words.
        cfg: the configuration, with MODEL.WEIGHTS.
        settings: others of the command, such as the format.

    Raises:
        LabellingError: the file of weights cannot be read.
    """
    values = dict(_flat(yaml.safe_load(cfg.dump())))
    weights = {key: value for key, value in values.items() if key.endswith("WEIGHTS") and value}
    return {
        "format": _FORMAT,
        "input": entry,
        "input_digest": listing.digest,
        "units": len(listing.units),
        "pictures": listing.pictures,
        "class_names": list(vocabulary.class_names),
        "words": [list(row) for row in vocabulary.rows],
        "templates": list(vocabulary.templates),
        "weights": {key: _digest(value) for key, value in weights.items()},
        "settings": dict(settings),
        "config": {key: value for key, value in values.items() if not key.startswith(_WITHOUT)},
    }


def write_plan(output: Path, header: Mapping[str, Any], listing: Listing) -> None:
    """Write a plan. Never half-written.

    Raises:
        DiskFullError: there is no space left.
    """
    with replacing(output / PLAN) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(json.dumps(header, ensure_ascii=False) + "\n")
        file.writelines(unit.line() for unit in listing.units)


def read_header(output: Path) -> dict[str, Any] | None:
    """The header of the plan of a folder; None where there is no plan.

    Raises:
        LabellingError: it is damaged, or of another program.
    """
    try:
        with (output / PLAN).open(encoding="utf-8", errors="surrogateescape") as file:
            header = json.loads(file.readline())
        if header["format"] != _FORMAT:
            raise LabellingError(f"{output / PLAN}: is of format {header['format']}, where this program has {_FORMAT}")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, LabellingError):
            raise
        raise LabellingError(f"{output / PLAN}: is no plan ({error!r}); choose another --output") from None
    return header


def require_same(output: Path, planned: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """See that a command has the plan that an earlier one has written.

    Raises:
        LabellingError: it has another; the message says in what.
    """
    # As JSON knows it: tuples are lists there.
    differing = list(_differences(planned, json.loads(json.dumps(ours))))
    if differing:
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise LabellingError(
            f"{output}: has labels that were made otherwise: {'; '.join(differing[:3])}{more}. Choose another "
            "--output, or give the command as it was"
        )


def places(output: Path) -> Iterator[Place]:
    """Where the lines of the units of a plan are, in order."""
    with (output / PLAN).open("rb") as file:
        offset = len(file.readline())
        for number, line in enumerate(file):
            yield Place(number, offset, len(line))
            offset += len(line)


def unit_at(output: Path, offset: int, length: int) -> Unit:
    """The unit whose line is at a place."""
    with (output / PLAN).open("rb") as file:
        file.seek(offset)
        return Unit.of_line(file.read(length).decode("utf-8", "surrogateescape"))


def units_of(output: Path) -> Iterator[Unit]:
    """The units of a plan, one after the other."""
    with (output / PLAN).open(encoding="utf-8", errors="surrogateescape") as file:
        file.readline()
        yield from map(Unit.of_line, file)


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Keep other commands on this machine out of an output folder, as long as this process lives.

    Raises:
        LabellingError: another one is at work there.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabellingError(f"{output}: another command is labelling into it; wait for it, or end it") from None
        yield


def _differences(before: Any, after: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    elif before != after:
        yield f"{name} was {_shortened(before)}, is {_shortened(after)}"


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _digest(weights: str) -> str:
    """The digest of a file of weights; the name itself of what is no file, such as a tag that is downloaded."""
    path = resolve_shipped(weights)
    try:
        return file_sha256(path) if os.path.isfile(path) else str(weights)
    except OSError as error:
        raise LabellingError(f"{path}: the weights cannot be read ({error.strerror})") from None
