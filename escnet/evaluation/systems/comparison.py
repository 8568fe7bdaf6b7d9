"""The comparison itself: costs, then scores of all systems on all data, then what is told of both."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from escnet.data.benchmarks import dataset_folder_name
from escnet.evaluation.report.html_report import write_report
from escnet.evaluation.report.result_table import Row, measured_row, write_table
from escnet.evaluation.runs.comparison import Comparison, compare_runs
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.systems.configurations import random_configuration, trained_configuration
from escnet.evaluation.systems.costs import CostSample, SystemCosts
from escnet.evaluation.systems.kept_costs import cost_sample, measured_or_kept, processor
from escnet.evaluation.systems.plan import ComparisonPlan, PlanError, System
from escnet.evaluation.zero_shot import evaluate_model, require_system
from escnet.progress import progress_bar

RUNS, COSTS = "runs", "costs"


@dataclass(frozen=True)
class ComparisonTask:
    """What `compare_systems` is to do.

    Attributes:
        plan: systems, data, and how costs are measured.
        output: folder of all results.
        costs_only: measure the costs alone, with random weights; no data is needed.
        resamples: of the images, for the intervals of differences.
        restart: delete the results of an earlier comparison in `output`.
    """

    plan: ComparisonPlan
    output: Path
    costs_only: bool = False
    resamples: int = 1000
    restart: bool = False


@dataclass(frozen=True)
class ComparedSystem:
    """A system with all that was found of it.

    Attributes:
        system: the entry of the plan.
        costs: what it costs.
        row: its scores on each dataset; None if costs alone were measured.
    """

    system: System
    costs: SystemCosts
    row: Row | None = None


@dataclass(frozen=True)
class ComparedSystems:
    """All that a comparison found.

    Attributes:
        task: what was compared.
        systems: in the order of the plan.
        sample: on what the costs of the first system were measured; all have the same pictures and classes.
        processor: on which.
        differences: of each column of data, each pair of systems, later one minus earlier one.
    """

    task: ComparisonTask
    systems: Sequence[ComparedSystem]
    sample: CostSample
    processor: str
    differences: Sequence[Comparison] = field(default=())


def compare_systems(task: ComparisonTask) -> ComparedSystems:
    """Measure and judge the systems of a plan; what an earlier, stopped comparison found in the output is kept.

    Raises:
        PlanError: a system that cannot be used; all are looked at before anything is measured.
        DatasetError, ImageError: a dataset is not as expected; likewise.
        WeightsError: weights that are missing or do not fit.
        ResultsError: `output` has results that were made under other conditions.
        CostError: the costs of a system could not be measured.
    """
    configure = random_configuration if task.costs_only else trained_configuration
    configs = [configure(system) for system in task.plan.systems]
    if not task.costs_only:
        _require_answers(task.plan, configs)
    loaded = [_load(task, cfg) for cfg in configs]
    samples = [cost_sample(task.plan.costs, cfg, from_data=not task.costs_only) for cfg in configs]
    if task.restart:
        shutil.rmtree(task.output / COSTS, ignore_errors=True)
    costs = _measure(task, configs, samples)
    rows = [None] * len(configs) if task.costs_only else _judge(task, configs, loaded)
    systems = [ComparedSystem(*found) for found in zip(task.plan.systems, costs, rows, strict=True)]
    differences = () if task.costs_only else paired_differences(task)
    return ComparedSystems(task, systems, samples[0], processor(configs[0]), differences)


def paired_differences(task: ComparisonTask) -> list[Comparison]:
    """A paired bootstrap of each two systems in each column of data, from the finished runs in the output."""
    runs, systems = task.output / RUNS, [dataset_folder_name(system.name) for system in task.plan.systems]
    columns = [data.column for data in task.plan.data]
    folders = [column.protocol.key(dataset_folder_name(column.dataset)) for column in columns]
    pairs = [(runs / a / folder, runs / b / folder) for folder in folders for a, b in combinations(systems, 2)]
    told = progress_bar(pairs, total=len(pairs), desc="paired bootstrap", unit="pair", disable=not pairs)
    return [compare_runs(a, b, task.resamples) for a, b in told]


def _require_answers(plan: ComparisonPlan, configs: Sequence[CfgNode]) -> None:
    for system, cfg in zip(plan.systems, configs, strict=True):
        for data in plan.data:
            try:
                require_system(data.column.protocol, cfg)
            except ValueError as error:
                raise PlanError(f"{system.name}, on {data.name}: {error}") from None


def _load(task: ComparisonTask, cfg: CfgNode) -> list[EvaluationData]:
    """The data with the words as a system's configuration writes them; none where costs alone are asked for."""
    columns = [] if task.costs_only else [data.column for data in task.plan.data]
    return [EvaluationData.load(column.dataset, cfg, column.protocol) for column in columns]


def _measure(task: ComparisonTask, configs: Sequence[CfgNode], samples: Sequence[CostSample]) -> list[SystemCosts]:
    systems = list(zip(task.plan.systems, configs, samples, strict=True))
    told = progress_bar(systems, total=len(systems), desc="costs", unit="system")
    return [measured_or_kept(task.output / COSTS, *system) for system in told]


def _judge(task: ComparisonTask, configs: Sequence[CfgNode], loaded: Sequence[list[EvaluationData]]) -> list[Row]:
    """Evaluate all systems, and write the tables and the report of the runs."""
    rows = []
    for system, cfg, data in zip(task.plan.systems, configs, loaded, strict=True):
        runs = evaluate_model(system.name, cfg, data, task.output / RUNS, task.restart)
        rows.append(measured_row(system.name, runs))
    write_table(task.output / RUNS, [data.column for data in task.plan.data], rows)
    write_report(task.output / RUNS)
    return rows


def differing_conditions(differences: Sequence[Comparison]) -> list[tuple[str, str, str, Any, Any]]:
    """(dataset, system A, system B, key, of A, of B) of conditions beyond the model itself that are not the same."""
    return [
        (found.b.title, found.a.model, found.b.model, key, of_a, of_b)
        for found in differences
        for key, of_a, of_b in found.conditions
        if not key.startswith("model.")
    ]
