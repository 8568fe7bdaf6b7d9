"""What probes found: results.json of a model, which a stopped run goes on with, and the table of several models."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from escnet.evaluation.runs.conditions import versions
from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.runs.run_folder import read_json, require_same_conditions, write_json

FILE = "results.json"


class ProbeResults:
    """The results of one model, by kind of probing, head and seed, written after each.

    Args:
        folder: of the model.
        model: its name in tables.

    Raises:
        ResultsError: the file that is there cannot be read.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._path = folder / FILE
        self._contents: dict[str, Any] = {"model": model, "versions": versions(), "probings": {}}
        if self._path.is_file():
            found = read_json(self._path)
            if not (isinstance(found, dict) and isinstance(found.get("probings"), dict)):
                raise ResultsError(f"{self._path}: holds no results of probing; take another --output")
            self._contents["probings"] = found["probings"]

    def begin(self, kind: str, conditions: Mapping[str, Any]) -> None:
        """Go on with a kind of probing, or start it.

        Args:
            kind: such as "segmentation".
            conditions: all that its numbers depend on.

        Raises:
            ResultsError: there are results that were found under other conditions.
        """
        known = self._contents["probings"].setdefault(kind, {"conditions": dict(conditions), "heads": {}})
        require_same_conditions(self._path, known["conditions"], dict(conditions))

    def has(self, kind: str, head: str, seed: int) -> bool:
        """Whether a probe is done."""
        return str(seed) in self._contents["probings"][kind]["heads"].get(head, {}).get("seeds", {})

    def add(self, kind: str, head: str, seed: int, score: float, **details: Any) -> None:
        """Add a probe and write the file.

        Args:
            kind, head, seed: which.
            score: in 0..1.
            details: what else is worth keeping.

        Raises:
            ValueError: the score is not a number, as where no class is in the truth.
        """
        if not math.isfinite(score):
            raise ValueError(f"{kind}, {head}, seed {seed}: nothing could be scored; does the test set have labels?")
        entry = self._contents["probings"][kind]["heads"].setdefault(head, {"seeds": {}})
        entry["seeds"][str(seed)] = {"score": score} | details
        scores = [found["score"] for found in entry["seeds"].values()]
        entry["mean"] = statistics.fmean(scores)
        entry["deviation"] = statistics.stdev(scores) if len(scores) > 1 else None
        write_json(self._path, self._contents)


def delete_results(folder: Path) -> None:
    """Delete the results of a model, if there are any."""
    (folder / FILE).unlink(missing_ok=True)


def probe_table(output: Path) -> str:
    """The scores of all models of a folder, mean ± standard deviation over seeds in percent; a table for each test set.

    Args:
        output: whose folders have results.json.

    Raises:
        ResultsError: a file cannot be read.
    """
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for path in sorted(output.glob(f"*/{FILE}")):
        contents = read_json(path)
        for kind, probing in contents["probings"].items():
            conditions = probing["conditions"]
            images = conditions.get("labelled", {}).get("images", 0)
            some = f"{images:g} of " if images else ""
            title = f"{_measure(kind)} on {conditions['test']['name']}, trained on {some}{conditions['train']['name']}"
            row = {head: _cell(found) for head, found in probing["heads"].items()}
            tables.setdefault(title, {})[contents["model"]] = row
    return "\n\n".join(_table(title, rows) for title, rows in tables.items())


def _table(title: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    heads: Sequence[str] = list(dict.fromkeys(head for row in rows.values() for head in row))
    cells = [[model, *(row.get(head, "") for head in heads)] for model, row in rows.items()]
    return f"{title}\n\n" + tabulate(cells, headers=["model", *heads], tablefmt="pipe", disable_numparse=True)


def _cell(found: Mapping[str, Any]) -> str:
    deviation = f" ± {100 * found['deviation']:.1f}" if found["deviation"] is not None else ""
    return f"{100 * found['mean']:.1f}{deviation}"


def _measure(kind: str) -> str:
    return {"segmentation": "mIoU", "classification": "accuracy"}.get(kind, kind)
