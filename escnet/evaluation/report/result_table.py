"""The table of an evaluation: measured rows beside published ones, for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from tabulate import tabulate

from escnet.data.benchmarks import find_benchmark
from escnet.evaluation.confusion import SCORES
from escnet.evaluation.protocols import Column, Protocol
from escnet.evaluation.runs.conditions import Conditions
from escnet.evaluation.runs.evaluation_data import dataset_title
from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.runs.run_folder import Run, read_json, read_run
from escnet.evaluation.scored_classes import scored_words
from escnet.safe_files import replacing

# Of a model that cannot say which of its settings matter, all are known, more than a line can hold.
_LISTED_SETTINGS = 30
# How many words there are, and how many of them were looked at in an image, on average.
_WORDS = ("words", "words_considered")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        model: its name.
        source: ``measured`` or ``published``.
        how: how it was measured.
        scores: per column, by its key, `miou` and, where it was measured here, all that the table needs; see
            `measured_row`.
    """

    model: str
    source: str
    how: str
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)


def measured_row(model: str, runs: Sequence[Run]) -> Row:
    """The row of a model from the files of its finished runs.

    Raises:
        ResultsError: a run is not finished, or the runs were made with different weights.
    """
    scores = {}
    for run in runs:
        metrics = read_json(run.folder / "metrics.json")
        found = scores[run.data.key] = {
            **{name: metrics[name] for name in SCORES},
            "images": metrics["images"],
            "of": metrics["of"],
            "folder": run.folder.relative_to(run.output).as_posix(),
        }
        if "scored_classes" in metrics:
            found["scored"] = scored_words(metrics["scored_classes"], len(metrics["classes"]))
        if "words_considered" in metrics:
            found |= {key: metrics[key] for key in _WORDS}
    return Row(model, "measured", _how([read_run(run.folder).conditions for run in runs]), scores)


def write_table(output: Path, columns: Sequence[Column | str], rows: Sequence[Row]) -> str:
    """Write table.md, table.csv and table.json into a folder.

    Args:
        output: the folder.
        columns: in order; of a dataset's name alone, as it was asked for, the ordinary protocol.
        rows: in the order of the table; published rows, which are of the ordinary protocol, are left out if they have
            no score in any column.

    Returns:
        The table for the terminal.
    """
    columns = [Column(column) if isinstance(column, str) else column for column in columns]
    shown = [row for row in rows if row.source == "measured" or _published_scores(row, columns)]
    shown = [_in_columns(row, columns) for row in shown]
    notes = _notes(columns, shown)
    contents = {
        "columns": [_column(column) for column in columns],
        "rows": [{"model": row.model, "source": row.source, "how": row.how, "scores": row.scores} for row in shown],
    }
    if notes:
        contents["notes"] = notes
    _write(output / "table.json", json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
    _write(output / "table.md", _markdown(columns, shown, notes))
    _write(output / "table.csv", _csv(columns, shown))
    return "\n".join([_grid(columns, shown, "simple"), *notes])


def words_looked_at(scores: Mapping[str, Any]) -> str | None:
    """``15.2 of 847``, the mean over the images; None where no word was left out, or nobody knows.

    Args:
        scores: of a run, from its metrics or its row.
    """
    if "words_considered" not in scores:
        return None
    words, considered = (scores[key] for key in _WORDS)
    return f"{considered:.1f} of {words}" if considered < words else None


def words_note(row: Row, keys: Sequence[str], titles: Sequence[str]) -> str | None:
    """What has to be said of a row whose model left out words; None where it did not, or nobody knows.

    Args:
        row: of the table.
        keys: of the columns.
        titles: of the columns.
    """
    looked_at = [words_looked_at(row.scores.get(key, {})) for key in keys]
    found = [f"{words} ({title})" for words, title in zip(looked_at, titles, strict=True) if words]
    return f"{row.model} looked at a part of the words in an image: on average {', '.join(found)}." if found else None


def protocol_notes(columns: Sequence[Column]) -> list[str]:
    """What has to be said of the columns that are not of the ordinary protocol, for each other one."""
    titles: dict[Protocol, list[str]] = {}
    for column in columns:
        titles.setdefault(column.protocol, []).append(column_title(column))
    return [f"{'; '.join(found)}: {protocol.note}." for protocol, found in titles.items() if protocol.note]


def column_title(column: Column) -> str:
    """The heading of a column: ``A-150``, or ``A-150, oracle``."""
    return column.protocol.titled(dataset_title(column.dataset))


def _column(column: Column) -> dict[str, Any]:
    """A column in table.json; its `key` among the scores is its dataset, unless it says otherwise."""
    protocol = column.protocol
    title, short = column_title(column), protocol.titled(_short(column.dataset))
    other = {"key": column.key, "protocol": protocol.name, "prompts": protocol.prompts} if protocol.is_oracle else {}
    return {"dataset": column.dataset, "short": short, "title": title} | other


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """What has to be said of columns of another protocol, or of whose classes a part is scored; of words left out."""
    found = protocol_notes(columns)
    for column in columns:
        scored = {row.scores[column.key]["scored"] for row in rows if "scored" in row.scores.get(column.key, {})}
        found += [f"{column_title(column)}: mIoU and mean accuracy are over {words}." for words in sorted(scored)]
    keys, titles = [column.key for column in columns], [column_title(column) for column in columns]
    return found + [note for row in rows if (note := words_note(row, keys, titles))]


def _markdown(columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str]) -> str:
    ordinary = [column for column in columns if not column.protocol.is_oracle]
    meaning = (
        "mIoU in percent: mean of IoU over the classes that are present in the ground truth."
        if ordinary
        else "Oracle mIoU in percent: mean of IoU over the classes that were asked for."
    )
    parts = [f"{meaning} (3/2000): of 2000 images, only 3 were evaluated.\n"]
    parts.append(_grid(columns, rows, "pipe") + "\n")
    parts += [note + "\n" for note in notes]
    measured = [row for row in rows if row.source == "measured"]
    # The oracle protocol does not define them.
    for score, meaning in (
        ("miou_d2_2021", "mIoU as detectron2 counted it until 2022: classes predicted but not present count as 0"),
        ("pixel_accuracy", "Pixel accuracy"),
        ("fw_iou", "Frequency-weighted IoU"),
    ):
        if ordinary:
            parts.append(f"{meaning}, in percent:\n")
            parts.append(_grid(ordinary, measured, "pipe", score) + "\n")
    parts.append("How each row was measured:\n")
    parts.append("\n".join(f"- {row.model}: {row.how}" for row in rows) + "\n")
    return "\n".join(parts)


def _grid(columns: Sequence[Column], rows: Sequence[Row], kind: str, score: str = "miou") -> str:
    lines = [[row.model, *(_cell(row.scores.get(column.key), score) for column in columns), row.source] for row in rows]
    align, header = ("left", *["right"] * len(columns), "left"), ["model", *map(column_title, columns), "source"]
    return tabulate(lines, headers=header, tablefmt=kind, colalign=align, disable_numparse=True)


def _cell(scores: Mapping[str, Any] | None, score: str) -> str:
    if scores is None or scores.get(score) is None:
        return "-"
    value = f"{100 * scores[score]:.2f}" if "images" in scores else f"{100 * scores[score]:.1f}"
    of = scores.get("of")
    return value if of is None else f"{value} ({scores['images']}/{of})"


def _csv(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """One line for each model and column; fractions, not percent. Their protocols are told if not all are ordinary."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    told = any(column.protocol.is_oracle for column in columns)
    writer.writerow(
        ["model", "source", "dataset", *["protocol"] * told, *SCORES, "images", "of", *_WORDS, "how"],
    )
    for row in rows:
        for column in columns:
            if column.key in row.scores:
                scores = row.scores[column.key]
                values = [scores.get(name) for name in (*SCORES, "images", "of", *_WORDS)]
                protocol = [column.protocol.words] * told
                writer.writerow([row.model, row.source, column.dataset, *protocol, *values, row.how])
    return stream.getvalue()


def _how(runs: Sequence[Conditions]) -> str:
    """One line of what the runs of a row have in common; where they differ, all values."""

    def common(*keys: str) -> str:
        values = (reduce(getitem, keys, conditions) for conditions in runs)
        return " / ".join(dict.fromkeys(map(_words, values)))

    checkpoint = {conditions["model"]["checkpoint sha256"][:8] for conditions in runs}
    weights = {conditions["model"]["all weights sha256"][:8] for conditions in runs}
    if len(checkpoint) > 1 or len(weights) > 1:
        raise ResultsError(f"the runs of one row have different weights: {sorted(checkpoint | weights)}; use --restart")
    file = f"checkpoint {checkpoint.pop()}" if any(checkpoint) else "no checkpoint"
    templates = dict.fromkeys(str(len(conditions["vocabulary"]["templates"])) for conditions in runs)
    protocols = dict.fromkeys(Protocol.of_conditions(conditions) for conditions in runs)
    told = any(protocol.is_oracle for protocol in protocols)
    protocol = f"protocol {' / '.join(protocol.words for protocol in protocols)}; " if told else ""
    return (
        f"measured: {file}, weights {weights.pop()}; {protocol}"
        f"class names {common('vocabulary', 'class names')}, templates: {' / '.join(templates)}; "
        f"{_settings(runs[0]['model']['settings'])}; on {common('device')}; "
        f"escnet {common('versions', 'escnet')}, torch {common('versions', 'torch')}"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    """The settings of the model, which all runs of a row have in common; of very many only the first."""
    words = [f"{key.removeprefix('MODEL.')} {_words(value)}" for key, value in settings.items()]
    rest = len(words) - _LISTED_SETTINGS
    return ", ".join(words[:_LISTED_SETTINGS]) + (f" and {rest} more, see run.json" if rest > 0 else "")


def _words(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _published_scores(row: Row, columns: Sequence[Column]) -> dict[str, dict[str, Any]]:
    """The scores of a published row in the columns of the table; papers follow the ordinary protocol."""
    datasets = [column.dataset for column in columns if not column.protocol.is_oracle]
    names = {dataset: find_benchmark(dataset).name for dataset in datasets if find_benchmark(dataset)}
    return {dataset: row.scores[name] for dataset, name in names.items() if name in row.scores}


def _in_columns(row: Row, columns: Sequence[Column]) -> Row:
    scores = row.scores if row.source == "measured" else _published_scores(row, columns)
    return Row(row.model, row.source, row.how, scores)


def _short(dataset: str) -> str:
    benchmark = find_benchmark(dataset)
    return dataset if benchmark is None else benchmark.short or benchmark.name


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
