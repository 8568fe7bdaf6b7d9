"""Tables and curves of experiments with the small SAM-CLIP, each an answer to a question."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tabulate import tabulate

from escnet.miniature.examination import FOLDER
from escnet.miniature.experiments import Options, mean_and_deviation
from escnet.miniature.sam_clip_experiments import Chain, Laboratory, Parent, Row
from escnet.own_process import several_processes
from escnet.safe_files import replacing

DATASETS = ("mojiscenes_val_novel[:100]", "mojiscenes_val_base[:100]")
PARENTS = (Parent("CLIP alone", "clip"), Parent("SAM alone", "sam"))
TITLES = {"accuracy": "zero-shot accuracy, %", "ap": "mask AP from boxes, %"}


class _Column(NamedTuple):
    """A column of a table; they stand in the order of these fields, the names of the scores in that of the alphabet."""

    score: str
    number: int
    title: str


class LabelMap(NamedTuple):
    """A way to make label maps with a trained model.

    Attributes:
        name: of its columns.
        options: KEY VALUE pairs of the evaluation.
    """

    name: str
    options: Options


@dataclass(frozen=True)
class Question:
    """A table: chains that answer a question.

    Attributes:
        name: on the command line.
        text: above the table.
        chains: its rows, below those of the parents; label maps are measured of those that are `Chain`s.
        sizes: sides at which accuracy and AP are measured; none where they are not.
        examinations: on which they are measured, (name, folder below the data root); with several, each has rows of its
            own.
        maps: whose mIoU is measured.
    """

    name: str
    text: str
    chains: tuple[Row, ...]
    sizes: tuple[int, ...] = (48, 96, 128)
    examinations: tuple[tuple[str, str], ...] = (("", FOLDER),)
    maps: tuple[LabelMap, ...] = ()


def run_question(question: Question, laboratory: Laboratory, seeds: Sequence[int], jobs: int) -> Iterator[str]:
    """Run all experiments of a question, several at a time, each on one thread.

    Chains begin alike, so that those of one seed run in one process after the other.

    Yields:
        What was done last, and how much of all.
    """
    with several_processes(jobs) as pool:
        futures = {pool.submit(_run_seed, question, laboratory, seed): seed for seed in seeds}
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            yield f"{done}/{len(futures)}: seed {futures[future]}"


def write_up(question: Question, laboratory: Laboratory, seeds: Sequence[int]) -> str:
    """The table in Markdown, from the results on disk: percent, mean ± deviation over the seeds."""
    if not question.sizes:
        return _write_up_maps(question, laboratory, seeds)
    rows = [
        (f"{examination}: {row.name}" if examination else row.name, _scores(question, laboratory, row, folder, seeds))
        for examination, folder in question.examinations
        for row in _rows(question)
    ]
    columns = sorted({column for _, scores in rows for column in scores})
    lines = [
        [name, *(mean_and_deviation(scores[column]) if column in scores else "" for column in columns)]
        for name, scores in rows
    ]
    return tabulate(
        lines, headers=[question.name, *(column.title for column in columns)], tablefmt="pipe", disable_numparse=True
    )


def save_curves(path: Path, question: Question, laboratory: Laboratory, seeds: Sequence[int]) -> None:
    """Draw accuracy and AP over the size of the pictures as a PNG: a line for each row, bars are deviations.

    Each examination has plots of its own, below one another.
    """
    figure = Figure(figsize=(10, 3.8 * len(question.examinations)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plots = figure.subplots(len(question.examinations), len(TITLES), squeeze=False)
    for (examination, folder), in_row in zip(question.examinations, plots, strict=True):
        for axes, (score, title) in zip(in_row, TITLES.items(), strict=True):
            for row in _rows(question):
                found = [laboratory.examine(row, seed, question.sizes, folder) for seed in _seeds(row, seeds)]
                _draw_line(axes, row, [run.get(score, {}) for run in found])
            axes.set(title=f"{examination}: {title}" if examination else title, xlabel="side of the picture, pixels")
            axes.set(ylim=(0, None), xticks=question.sizes)
            axes.grid(color="#dddddd", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_line(axes: Axes, row: Row, found: Sequence[dict[str, float]]) -> None:
    """Draw what was found of a row with each seed, by size; nothing where a parent cannot do it."""
    sizes = list(found[0])
    values = [[run[size] for run in found] for size in sizes]
    spread = [statistics.stdev(of_size) if len(of_size) > 1 else 0 for of_size in values]
    if sizes:
        style = {"linestyle": "--"} if isinstance(row, Parent) else {}
        means = [statistics.mean(of_size) for of_size in values]
        axes.errorbar([int(size) for size in sizes], means, spread, label=row.name, marker="o", **style)


def _write_up_maps(question: Question, laboratory: Laboratory, seeds: Sequence[int]) -> str:
    """A row for each label map of each chain: a question of label maps alone asks how they are made."""
    lines = []
    for chain in question.chains:
        for label_map in question.maps:
            found = [laboratory.draw_maps(chain, seed, label_map.options, DATASETS) for seed in seeds]
            name = label_map.name if len(question.chains) == 1 else f"{chain.name}: {label_map.name}"
            lines.append([name, *(mean_and_deviation([scores[data] for scores in found]) for data in DATASETS)])
    headers = [question.name, *(f"mIoU {_split(data)}" for data in DATASETS)]
    return tabulate(lines, headers=headers, tablefmt="pipe", disable_numparse=True)


def _split(dataset: str) -> str:
    """Of a dataset of MojiScenes, what tells it from the others."""
    return dataset.split("_")[-1].split("[")[0]


def _rows(question: Question) -> tuple[Row, ...]:
    return (*(PARENTS if question.sizes else ()), *question.chains)


def _seeds(row: Row, seeds: Sequence[int]) -> Sequence[int]:
    return seeds if row.has_chance else (0,)


def _scores(
    question: Question, laboratory: Laboratory, row: Row, folder: str, seeds: Sequence[int]
) -> dict[_Column, list[float]]:
    """What was found in each column, of each seed, on the examination in a folder."""
    scores: dict[_Column, list[float]] = {}
    for seed in _seeds(row, seeds):
        found = laboratory.examine(row, seed, question.sizes, folder) if question.sizes else {}
        for score, label in (("accuracy", "accuracy"), ("ap", "AP")):
            for size, value in found.get(score, {}).items():
                scores.setdefault(_Column(score, int(size), f"{label} {size}"), []).append(value)
        for place, label_map in enumerate(question.maps if isinstance(row, Chain) else ()):
            drawn = laboratory.draw_maps(row, seed, label_map.options, DATASETS)
            for number, (dataset, value) in enumerate(drawn.items()):
                order = number * len(question.maps) + place
                column = _Column("mIoU", order, f"mIoU {_split(dataset)}, {label_map.name}")
                scores.setdefault(column, []).append(value)
    return scores


def _run_seed(question: Question, laboratory: Laboratory, seed: int) -> None:
    torch.set_num_threads(1)
    for row in _rows(question):
        for _, folder in question.examinations:
            _scores(question, laboratory, row, folder, (seed,))
