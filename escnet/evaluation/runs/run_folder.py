"""The folder of a run, and its run.json: what was evaluated, and all that the numbers depend on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from escnet.data.benchmarks import dataset_folder_name
from escnet.evaluation.protocols import ORDINARY, Protocol
from escnet.evaluation.runs.conditions import SCORED, Conditions, differences
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.runs.image_results import ImageResults, ResultsError
from escnet.evaluation.scored_classes import ScoredClasses, scored_classes
from escnet.safe_files import replacing

# The scores of a finished run.
METRICS = "metrics.json"
_LISTED_CHANGES = 6


@dataclass(frozen=True)
class Run:
    """One model on one dataset, and the folder of the results.

    Attributes:
        model: its name in tables.
        data: the dataset.
        output: the folder of the whole evaluation.
    """

    model: str
    data: EvaluationData
    output: Path

    @property
    def folder(self) -> Path:
        """Where the results of this run are."""
        name = self.data.protocol.key(dataset_folder_name(self.data.dataset))
        return self.output / dataset_folder_name(self.model) / name


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
        protocol: as the conditions say; without a word the ordinary one.
    """

    folder: Path
    model: str
    dataset: str
    title: str
    class_names: tuple[str, ...]
    conditions: dict[str, Any]
    scored: ScoredClasses
    protocol: Protocol = ORDINARY

    @property
    def key(self) -> str:
        """What tells dataset and protocol from others."""
        return self.protocol.key(self.dataset)


def open_run(run: Run, conditions: Conditions, restart: bool = False) -> None:
    """Begin a run, or go on with the one in its folder. To be called by one process, before any reads or adds results.

    The conditions of a run that ended before its first result, such as one that was refused, bind nobody.

    Args:
        run: what is evaluated, and where.
        conditions: what its numbers depend on.
        restart: delete what is in the folder.

    Raises:
        ResultsError: the folder has results that were made under another protocol or other conditions, or nobody knows
            how.
    """
    if restart:
        shutil.rmtree(run.folder, ignore_errors=True)
    results = ImageResults(run.folder)
    results.repair()
    if results.is_empty() and not (run.folder / METRICS).exists():
        _write_run(run, conditions)
    elif (run.folder / "run.json").is_file():
        known = read_run(run.folder)
        if known.protocol != run.data.protocol:
            raise ResultsError(
                f"{run.folder}: has results of the protocol '{known.protocol.words}', not of "
                f"'{run.data.protocol.words}'; evaluate into another --output, or delete them with --restart"
            )
        require_same_conditions(run.folder, known.conditions, conditions)
    else:
        raise ResultsError(f"{run.folder}: has results, but no run.json that says how they were made; use --restart")


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
        own = (fields["model"], fields["dataset"], fields["title"], names, conditions, scored)
        return RunDescription(folder, *own, Protocol.of_conditions(conditions))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: is not the description of a run ({error!r}); evaluate again") from None


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


def write_json(path: Path, contents: Any) -> None:
    """Write JSON, never half of it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_conditions(path: Path) -> Conditions:
    """What a JSON file of results says under "conditions".

    Raises:
        ResultsError: it is missing, not JSON, or says nothing of them.
    """
    contents = read_json(path)
    found = contents.get("conditions") if isinstance(contents, dict) else None
    if not isinstance(found, dict):
        raise ResultsError(f"{path}: does not say how its results were made; evaluate into another --output")
    return found


def require_same_conditions(place: Path, known: Conditions, conditions: Conditions) -> None:
    """Refuse to go on with results that were made otherwise.

    Args:
        place: the folder or file that has them.
        known: the conditions under which they were made.
        conditions: those of now.

    Raises:
        ResultsError: they differ; the message says in what.
    """
    # As JSON holds them: a tuple is a list there.
    changed = differences(known, json.loads(json.dumps(conditions)))
    if changed:
        shown = "; ".join(f"{key} was {was}, is {now}" for key, was, now in changed[:_LISTED_CHANGES])
        raise ResultsError(
            f"{place}: has results that were made under other conditions ({shown}); "
            f"evaluate into another --output, or delete them with --restart"
        )


def _write_run(run: Run, conditions: Conditions) -> None:
    description = {
        "model": run.model,
        "dataset": run.data.dataset,
        "title": run.data.title,
        "class_names": run.data.class_names,
        "conditions": conditions,
    }
    write_json(run.folder / "run.json", description)
