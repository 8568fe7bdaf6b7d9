"""The files of a comparison: table.md, table.csv and systems.json; and the table for the terminal."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from escnet.evaluation.report import result_table
from escnet.evaluation.report.result_table import protocol_notes, words_note
from escnet.evaluation.runs.comparison import Comparison
from escnet.evaluation.runs.conditions import versions
from escnet.evaluation.runs.run_folder import write_json
from escnet.evaluation.systems.comparison import ComparedSystem, ComparedSystems, differing_conditions
from escnet.evaluation.systems.plan import ComparedData
from escnet.safe_files import replacing

_COSTS = ("parameters M", "trainable M", "GFLOPs", "s / image", "encode s", "words s", "peak MiB", "weights MB")
_TEXT_COSTS = ("text GFLOPs", "text s")
_COLUMNS = (
    "GFLOPs (one multiply-add is one FLOP) and seconds are of an image whose words are known: encode s from its pixels "
    "to what is kept of it, words s from there to the label of each pixel. The text encoder, once for all words, "
    "stands apart. peak MiB: of the whole process, libraries and weights included (on a GPU, of its memory), while "
    "images are segmented; in brackets, how much more than before the first image."
)
# A checkpoint that is so many times as large as its model holds more than this, such as an optimizer's state.
_MORE_THAN_MODEL = 1.1


def write_tables(found: ComparedSystems) -> str:
    """Write the files into the output folder.

    Returns:
        The tables for the terminal.
    """
    output = found.task.output
    _write(output / "table.md", _markdown(found))
    _write(output / "table.csv", _csv(found))
    if found.differences:
        _write(output / "differences.csv", _differences_csv(found.differences))
    write_json(output / "systems.json", _contents(found))
    tables = [_systems_table(found, "simple"), *([_differences_table(found, "simple")] if found.differences else [])]
    return "\n\n".join([*tables, *_notes(found)])


def column_title(data: ComparedData) -> str:
    """The heading of a column of mIoU: the benchmark and the protocol, and whether its classes were seen."""
    return result_table.column_title(data.column) + (f" ({data.role})" if data.role else "")


def _systems_table(found: ComparedSystems, kind: str) -> str:
    data = () if found.task.costs_only else found.task.plan.data
    lines = [
        [s.system.name, *(_score(s, entry) for entry in data), *_cost_cells(s), *_text_cells(s)] for s in found.systems
    ]
    header = ["system", *map(column_title, data), *_COSTS, *_TEXT_COSTS]
    align = ("left", *["right"] * (len(header) - 1))
    return tabulate(lines, header, kind, colalign=align, disable_numparse=True)


def _score(system: ComparedSystem, data: ComparedData) -> str:
    scores = system.row.scores[data.column.key]
    if scores["miou"] is None:
        return "-"
    text = f"{100 * scores['miou']:.2f}"
    return text if scores["of"] is None else f"{text} ({scores['images']}/{scores['of']})"


def _cost_cells(system: ComparedSystem) -> list[str]:
    costs = system.costs
    encode, words = (statistics.median(part) for part in (costs.encode_seconds, costs.words_seconds))
    return [
        f"{costs.parameters / 1e6:.2f}",
        f"{costs.trainable / 1e6:.2f}",
        f"{costs.flops / 1e9:.2f}",
        *(_seconds(part) for part in (costs.seconds, encode, words)),
        f"{costs.memory:.0f} (+{costs.memory - costs.memory_before:.0f})",
        f"{costs.disk_bytes / 1e6:.1f}",
    ]


def _text_cells(system: ComparedSystem) -> list[str]:
    return [f"{system.costs.text_flops / 1e9:.2f}", _seconds(statistics.median(system.costs.text_seconds))]


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"


def _differences_table(found: ComparedSystems, kind: str) -> str:
    """A row for each pair of systems, a column for each dataset: B - A in points of mIoU, and its interval."""
    rows: dict[tuple[str, str], list[str]] = {}
    for compared in found.differences:
        miou = compared.scores[0]
        clear = " *" if compared.is_clear(miou) else ""
        cell = f"{100 * miou.difference:+.2f} [{100 * miou.low:+.2f}, {100 * miou.high:+.2f}]{clear}"
        rows.setdefault((compared.a.model, compared.b.model), []).append(cell)
    lines = [[a, b, *cells] for (a, b), cells in rows.items()]
    header = ["A", "B", *(f"B - A, {column_title(data)}" for data in found.task.plan.data)]
    return tabulate(lines, header, kind, disable_numparse=True)


def _notes(found: ComparedSystems) -> list[str]:
    """What has to be said of the columns and of single systems."""
    notes = [_costs_note(found)]
    if found.task.costs_only:
        notes.append("What a system does in proportion to what it finds is here what random weights find.")
    else:
        notes += _scores_notes(found)
    if found.differences:
        first = found.differences[0]
        notes.append(
            f"Differences: points of mIoU, in brackets the {100 * first.confidence:g} % interval of {first.samples} "
            f"paired bootstrap resamples of the images; * the interval excludes 0, and there are at least "
            f"{first.least_images} images."
        )
    for system in found.systems:
        size, own = sum(system.costs.files.values()), system.costs.state_bytes
        if size > _MORE_THAN_MODEL * own:
            notes.append(
                f"{system.system.name}: of its {size / 1e6:.1f} MB, {own / 1e6:.1f} MB are tensors of the model."
            )
    for title, a, b, key, of_a, of_b in differing_conditions(found.differences):
        notes.append(f"{title}: {a} and {b} were judged under other conditions: {key} is {of_a} and {of_b}.")
    return notes


def _costs_note(found: ComparedSystems) -> str:
    sample, is_random = found.sample, found.task.costs_only
    height, width = sample.pictures[0].shape[:2]
    pictures = f"{len(sample.pictures)} pictures" if len(sample.pictures) > 1 else "a picture"
    source = "random weights, noise and numbered words" if is_random else found.task.plan.costs.data
    on_disk = "of all tensors" if is_random else "of the files that a system is built from"
    return (
        f"Costs: {len(sample.vocabulary.rows)} words, {pictures} of {height}x{width} ({source}), on {found.processor}, "
        f"threads: {sample.threads}; medians of {sample.repeats} repeats. {_COLUMNS} weights MB: {on_disk}."
    )


def _scores_notes(found: ComparedSystems) -> list[str]:
    """The columns of another protocol, or whose mIoU is over a part of the classes; the systems that left out words."""
    columns = [data.column for data in found.task.plan.data]
    notes = protocol_notes(columns)
    for data, column in zip(found.task.plan.data, columns, strict=True):
        of_column = (system.row.scores[column.key] for system in found.systems)
        scored = {scores["scored"] for scores in of_column if "scored" in scores}
        notes += [f"{column_title(data)}: mIoU is over {words}." for words in sorted(scored)]
    keys, titles = [column.key for column in columns], list(map(result_table.column_title, columns))
    return notes + [note for system in found.systems if (note := words_note(system.row, keys, titles))]


def _markdown(found: ComparedSystems) -> str:
    parts = []
    if not found.task.costs_only:
        only_oracle = all(data.column.protocol.is_oracle for data in found.task.plan.data)
        parts.append(
            f"{'Oracle ' * only_oracle}mIoU in percent: mean of IoU over the scored classes that are "
            f"{'asked for' if only_oracle else 'present in the ground truth'}. (3/2000): of 2000 images, only 3 were "
            "evaluated.\n"
        )
    parts.append(_systems_table(found, "pipe") + "\n")
    if found.differences:
        parts.append(_differences_table(found, "pipe") + "\n")
    parts += [note + "\n" for note in _notes(found)]
    parts.append("GFLOPs by part, of an image, and of all words for the text encoder:\n")
    parts.append(_parts_table(found.systems) + "\n")
    parts.append("How each system was built:\n")
    parts.append("\n".join(f"- {system.system.name}: {_how(system)}" for system in found.systems) + "\n")
    return "\n".join(parts)


def _parts_table(systems: Sequence[ComparedSystem]) -> str:
    names = list(dict.fromkeys(part["name"] for system in systems for part in system.costs.parts))
    lines = []
    for system in systems:
        flops = {part["name"]: part["flops"] for part in system.costs.parts}
        cells = [f"{flops[name] / 1e9:.2f}" if name in flops else "" for name in names]
        lines.append([system.system.name, *cells])
    align = ("left", *["right"] * len(names))
    return tabulate(lines, ["", *names], "pipe", disable_numparse=True, colalign=align)


def _how(system: ComparedSystem) -> str:
    entry = system.system
    set_keys = entry.options | (entry.random_options if system.row is None else {})
    options = [f"{key} {value}" for key, value in set_keys.items()]
    measured = "random weights" if system.row is None else system.row.how
    return "; ".join([entry.config, *([", ".join(options)] if options else []), measured])


def _csv(found: ComparedSystems) -> str:
    """One line for each system; fractions, numbers, seconds and bytes as they are."""
    data = () if found.task.costs_only else found.task.plan.data
    header = ["system", *(f"{score} {entry.column.key}" for entry in data for score in ("miou", "images"))]
    header += ["parameters", "trainable", "flops", "text_flops", "seconds", "encode_seconds", "words_seconds"]
    header += ["text_seconds", "peak_mib", "mib_before", "weights_bytes", "state_bytes"]
    rows = []
    for system in found.systems:
        costs = system.costs
        scores = [system.row.scores[entry.column.key][score] for entry in data for score in ("miou", "images")]
        medians = map(statistics.median, (costs.encode_seconds, costs.words_seconds, costs.text_seconds))
        numbers = [costs.parameters, costs.trainable, costs.flops, costs.text_flops, costs.seconds, *medians]
        memory = [round(costs.memory, 1), round(costs.memory_before, 1)]
        rows.append([system.system.name, *scores, *numbers, *memory, costs.disk_bytes, costs.state_bytes])
    return _csv_text([header, *rows])


def _differences_csv(differences: Iterable[Comparison]) -> str:
    header = ["dataset", "system_a", "system_b", "miou_a", "miou_b", "difference", "low", "high", "share_b_higher"]
    rows = []
    for compared in differences:
        miou = compared.scores[0]
        values = (miou.a, miou.b, miou.difference, miou.low, miou.high, miou.share_b_higher)
        numbers = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
        models = (compared.b.key, compared.a.model, compared.b.model)
        rows.append([*models, *numbers, miou.images, compared.is_clear(miou)])
    return _csv_text([[*header, "images", "clear"], *rows])


def _contents(found: ComparedSystems) -> dict[str, Any]:
    """All of it, for programs."""
    sample, plan = found.sample, found.task.plan
    return {
        "data": [] if found.task.costs_only else [_data(data) for data in plan.data],
        "measured": {
            "words": len(sample.vocabulary.rows),
            "pictures": [list(picture.shape[:2]) for picture in sample.pictures],
            "random weights": found.task.costs_only,
            "repeats": sample.repeats,
            "threads": sample.threads,
            "processor": found.processor,
            "versions": versions(),
        },
        "systems": [
            {
                **asdict(system.system),
                "scores": {} if system.row is None else system.row.scores,
                "how": _how(system),
                "costs": {"seconds": system.costs.seconds, "disk_bytes": system.costs.disk_bytes}
                | asdict(system.costs),
            }
            for system in found.systems
        ],
        "differences": [_difference(compared) for compared in found.differences],
        "notes": _notes(found),
    }


def _data(data: ComparedData) -> dict[str, str]:
    """A column of data; what names its protocol is there only if that is not the ordinary one."""
    return asdict(data) if data.column.protocol.is_oracle else {"name": data.name, "role": data.role}


def _difference(compared: Comparison) -> dict[str, Any]:
    values = {key: None if value != value else value for key, value in asdict(compared.scores[0]).items()}
    runs = {"dataset": compared.b.key, "a": compared.a.model, "b": compared.b.model}
    return {"runs": runs, "clear": compared.is_clear(compared.scores[0]), "samples": compared.samples} | values


def _csv_text(rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
