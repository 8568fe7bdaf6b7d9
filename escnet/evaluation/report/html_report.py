"""The report of an evaluation: one self-contained HTML file of its table and of all its runs."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from escnet.evaluation.protocols import ORDINARY
from escnet.evaluation.report.result_table import words_looked_at
from escnet.evaluation.runs.conditions import flatten
from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.runs.run_folder import RunDescription, read_json, read_run
from escnet.evaluation.scored_classes import scored_classes, scored_words
from escnet.safe_files import replacing

SCORES = {
    "miou": "mIoU",
    "miou_d2_2021": "mIoU (detectron2, 2021)",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "fw_iou": "frequency-weighted IoU",
}
MEANINGS = {
    "miou": "mean IoU over the classes present in the ground truth; the headline",
    "miou_d2_2021": "the same sum, divided by the classes present in ground truth or prediction",
    "pixel_accuracy": "share of the pixels that are right",
    "mean_accuracy": "mean over the classes present of the share of their pixels that is right",
    "fw_iou": "mean IoU weighted by the classes' pixels in the ground truth",
}
# Under the oracle protocol, which has no others.
ORACLE_MEANINGS = {
    "miou": "mean IoU over the classes that were asked for, each of images that have it alone",
    "mean_accuracy": "mean over these classes of the share of their pixels that is found",
}
# A longer value, such as a list of templates, is folded.
_LONG = 120


def write_report(output: Path) -> Path:
    """Write report.html of an evaluation, from its table.json and the run folders that are named there.

    The file needs no other: images are inlined, and it asks nothing of the network.

    Args:
        output: the folder of the evaluation.

    Returns:
        The path of the report.

    Raises:
        ResultsError: a file of the evaluation is missing or damaged. Only the per-class plot, the confusions and the
            worst images of a run may be missing; the report then says so.
    """
    output = Path(output)
    table = _read_table(output / "table.json")
    environment = Environment(
        loader=PackageLoader("escnet.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "thousands": _thousands, "value": _words}
    html = environment.get_template("report.html").render(
        columns=table["columns"],
        ordinary=[column for column in table["columns"] if not column["oracle"]],
        rows=table["rows"],
        notes=table.get("notes", []),
        best={score: _best(table, score) for score in SCORES},
        runs=[_run(output, column, row) for row, column in _measured(table)],
        score_names=SCORES,
        meanings=MEANINGS,
        oracle_meanings=ORACLE_MEANINGS,
        long=_LONG,
    )
    path = output / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _read_table(path: Path) -> dict[str, Any]:
    """table.json; each score completed by `_complete`."""
    table = read_json(path)
    try:
        for column in table["columns"]:
            column["key"] = column.get("key", column["dataset"])
            column["oracle"] = column.get("protocol", ORDINARY.name) != ORDINARY.name
        keys = [column["key"] for column in table["columns"] if column["title"]]
        for index, row in enumerate(table["rows"]):
            # The tag beside the name says it already.
            row["how"] = row["how"].removeprefix(f"{row['source']}: ")
            for number, key in enumerate(keys):
                if key in row["scores"]:
                    _complete(row["scores"][key], f"run-{index}-{number}", row["model"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path}: is not the table of an evaluation ({error!r}); evaluate again") from None
    return table


def _complete(score: dict[str, Any], anchor: str, model: str) -> None:
    """Check a score and add the anchor of its run; a published one has an mIoU alone and no run."""
    measured = "folder" in score
    score["anchor"] = anchor if measured else ""
    for name in (*SCORES, "images", "of") if measured else ("miou",):
        if score[name] is not None and not isinstance(score[name], int | float):
            raise TypeError(f"{name} of {model} is {score[name]!r}")


def _measured(table: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(row, column) of each score that has a run."""
    for row in table["rows"]:
        for column in table["columns"]:
            if "folder" in row["scores"].get(column["key"], {}):
                yield row, column


def _best(table: Mapping[str, Any], score: str) -> dict[str, float | None]:
    """The highest measured score of each column, of the runs with the most images: others are not comparable."""
    best = {}
    for column in table["columns"]:
        measured = [row["scores"][column["key"]] for row, of in _measured(table) if of is column]
        most = max((entry["images"] for entry in measured), default=0)
        values = [entry[score] for entry in measured if entry["images"] == most and entry[score] is not None]
        best[column["key"]] = max(values, default=None)
    return best


def _run(output: Path, column: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a run."""
    score = row["scores"][column["key"]]
    folder = output / score["folder"]
    run = read_run(folder)
    metrics, oracle = _read_metrics(folder / "metrics.json", run), run.protocol.is_oracle
    names = {name: SCORES[name] for name in ORACLE_MEANINGS} | {"miou": run.protocol.miou_name}
    plot, worst = folder / "per_class.png", folder / "worst.json"
    return {
        "anchor": score["anchor"],
        "model": row["model"],
        "title": column["title"],
        "folder": score["folder"],
        "of": score["of"],
        "oracle": oracle,
        "score_names": names if oracle else SCORES,
        "meanings": ORACLE_MEANINGS if oracle else MEANINGS,
        "note": run.protocol.note,
        "conditions": flatten(run.conditions),
        "metrics": metrics,
        "scored": None if run.scored is None else scored_words(run.scored, len(run.class_names)),
        "words": words_looked_at(metrics),
        "present": sum(entry["truth_pixels"] > 0 for entry in metrics["classes"]),
        "plot": data_uri(plot) if plot.is_file() else None,
        "confusions": _read_confusions(folder / "confusions.csv"),
        "worst": _read_worst(worst) if worst.is_file() else None,
    }


def _read_metrics(path: Path, run: RunDescription) -> dict[str, Any]:
    metrics = read_json(path)
    try:
        for name in (*SCORES, "images", "ignored", "seconds_per_image"):
            _percent(metrics[name])
        words_looked_at(metrics)
        if run.protocol.is_oracle:
            _thousands(metrics["pairs"])
        for entry in metrics["classes"]:
            _percent(entry["iou"]), _percent(entry["accuracy"])
            _thousands(entry["truth_pixels"]), _thousands(entry["predicted_pixels"])
        names = tuple(entry["name"] for entry in metrics["classes"])
        scored = scored_classes(metrics.get("scored_classes"), len(names))
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: is not the metrics of a run ({error!r}); evaluate again") from None
    if (names, scored) != (run.class_names, run.scored):
        raise ResultsError(f"{path}: has other classes than run.json beside it; evaluate again with --restart")
    return metrics


def _read_confusions(path: Path) -> list[dict[str, Any]] | None:
    if not path.is_file():
        return None
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            return [
                {
                    "truth": entry["truth"],
                    "predicted": entry["predicted"],
                    "pixels": int(entry["pixels"]),
                    "share": float(entry["share_of_truth"]),
                }
                for entry in csv.DictReader(stream)
            ]
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: is not a table of confusions ({error!r}); evaluate again") from None


def _read_worst(path: Path) -> list[dict[str, Any]]:
    entries = read_json(path)
    try:
        return [
            {
                "image": str(entry["image"]),
                "scores": f"mIoU {_percent(entry['miou'])} %, pixel accuracy {_percent(entry['pixel_accuracy'])} %",
                "picture": data_uri(path.parent / "worst" / Path(entry["file"]).name),
            }
            for entry in entries
        ]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"{path}: is not a list of images ({error!r}); evaluate again") from None


def data_uri(path: Path) -> str:
    """A PNG or JPEG as a URI that holds the image itself."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror}); evaluate again") from None
    kind = "png" if path.suffix.lower() == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(contents).decode('ascii')}"


def _percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction in percent, without the sign; a dash for what is undefined."""
    return "–" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{decimals}f}"


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _words(value: Any) -> str:
    """The value of a condition."""
    if isinstance(value, list):
        return ", ".join(f"“{entry}”" if isinstance(entry, str) else str(entry) for entry in value) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None or value == "" else str(value)
