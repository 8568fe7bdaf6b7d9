"""Folders of runs, each one model evaluated on one dataset: their descriptions read back, and two outputs paired."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from escnet.evaluation.runs.conditions import SCORED
from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.scored_classes import ScoredClasses, scored_classes


@dataclass(frozen=True)
class RunDescription:
    """What run.json says.

    Attributes:
        folder: of the run.
        model: name of the model.
        dataset: as it was asked for.
        title: of the benchmark, for people.
        class_names: N names.
        conditions: what the numbers depend on, nested.
        scored: first id and end of the classes that mIoU is the mean of, as the conditions say; None: all.
    """

    folder: Path
    model: str
    dataset: str
    title: str
    class_names: tuple[str, ...]
    conditions: dict[str, Any]
    scored: ScoredClasses


def read_run(folder: Path) -> RunDescription:
    """Read run.json of a run's folder.

    Raises:
        ResultsError: it is missing, not JSON, or lacks something.
    """
    path = folder / "run.json"
    fields = read_json(path)
    try:
        names, conditions = tuple(fields["class_names"]), dict(fields["conditions"])
        scored = scored_classes(conditions.get("data", {}).get(SCORED), len(names))
        return RunDescription(folder, fields["model"], fields["dataset"], fields["title"], names, conditions, scored)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: is not the description of a run ({error!r}); evaluate again") from None


def paired_runs(a: Path, b: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pairs of run folders to compare, and descriptions of the runs left without a partner.

    Args:
        a, b: two run folders; or two output folders of evaluations, whose runs are paired by model and dataset, or by
            dataset alone if each folder has exactly one model.

    Raises:
        ResultsError: one is a run and the other is not, or there is nothing to pair.
    """
    folders = [Path(a), Path(b)]
    single = [(folder / "run.json").is_file() for folder in folders]
    if all(single):
        return [(folders[0], folders[1])], []
    if any(single):
        run, other = folders if single[0] else folders[::-1]
        raise ResultsError(
            f"{run} is the folder of one run, but {other} is not; give two runs, or two outputs of eval_zero_shot.py"
        )
    runs_a, runs_b = (_runs_in(folder) for folder in folders)
    by_dataset = all(len({run.model for run in runs}) == 1 for runs in (runs_a, runs_b))

    def keyed(runs: Iterable[RunDescription]) -> dict[tuple[str, ...], Path]:
        return {(run.dataset,) if by_dataset else (run.dataset, run.model): run.folder for run in runs}

    of_a, of_b = keyed(runs_a), keyed(runs_b)
    alone = [f"{folder} is only in A" for key, folder in of_a.items() if key not in of_b]
    alone += [f"{folder} is only in B" for key, folder in of_b.items() if key not in of_a]
    pairs = [(folder, of_b[key]) for key, folder in of_a.items() if key in of_b]
    if not pairs:
        raise ResultsError(f"no model and dataset is in both outputs: {'; '.join(alone)}")
    return pairs, alone


def read_json(path: Path) -> Any:
    """The contents of a JSON file that an evaluation wrote.

    Raises:
        ResultsError: it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(
            f"{path}: does not exist; give the folder of a finished evaluation, or evaluate again"
        ) from None
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: cannot be read ({error}); evaluate again") from None


def _runs_in(folder: Path) -> list[RunDescription]:
    runs = [read_run(path.parent) for path in sorted(folder.glob("*/*/run.json"))]
    if not runs:
        raise ResultsError(f"{folder}: neither a run nor an output of eval_zero_shot.py; no run.json is in it")
    return runs
