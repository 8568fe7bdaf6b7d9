"""CLIP-Guided SAM and its baselines over the number of labelled pictures: tables and curves."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tabulate import tabulate

from escnet.miniature.experiments import (
    Experiment,
    Options,
    Table,
    Variant,
    column_heading,
    mean_and_deviation,
    run_experiment,
)
from escnet.miniature.guided_tables import METHODS, ORACLE, ORDINARY, OURS, POINTS, few
from escnet.safe_files import replacing

# Labelled pictures; 0 is all.
COUNTS = (16, 64, 256, 0)
_ALL = 2000
_SEPARATOR = " | "
_LESS_EMPTY = "CLIP-Guided SAM, less the empty text"
_BY_POINTS = ("PROMPTABLE.PROMPTS", "points")
ESC_NET, SAM_CLIP = "configs/mojiscenes/escnet.yaml", "configs/mojiscenes/sam_clip_finetune.yaml"


def _named(method: str, count: int) -> str:
    return f"{method}{_SEPARATOR}{count or _ALL}"


def _over_counts(methods: dict[str, Options], config_file: str | None = None) -> tuple[Variant, ...]:
    return tuple(
        # Other pictures with each seed: of few it matters which.
        Variant(_named(method, count), (*few(count), "LABELLED.SEED", "-1", *options), config_file=config_file)
        for method, options in methods.items()
        for count in COUNTS
    )


TEXT = Table(
    "text",
    "From a word alone, over the number of labelled pictures: which training of SAM, and against which other systems?",
    (
        Variant(
            _named("ClipThenSam, not trained", 0),
            test=("MODEL.META_ARCHITECTURE", "ClipThenSam"),
            is_trained=False,
            config_file=ESC_NET,
        ),
        *_over_counts(METHODS),
        *_over_counts({_LESS_EMPTY: ()}, OURS),
        *_over_counts({"ESC-Net": ()}, ESC_NET),
        *_over_counts({"SAM-CLIP, fine-tuned": ()}, SAM_CLIP),
    ),
    (*ORDINARY, *ORACLE),
    shows_parameters=True,
)
MANUAL = Table(
    "manual",
    "From a word and five points on it, over the number of labelled pictures (trained with points)?",
    (
        Variant(_named("CLIP-Guided SAM, not trained", 0), is_trained=False),
        # A word's mask prompt misleads a SAM that has not learned it.
        Variant(_named("SAM, from the points alone", 0), test=("MODEL.GUIDED.MASK_PROMPT", "False"), is_trained=False),
        *_over_counts({method: (*_BY_POINTS, *options) for method, options in METHODS.items()}),
        *_over_counts({_LESS_EMPTY: _BY_POINTS}, OURS),
    ),
    POINTS,
    shows_parameters=True,
)
CURVES = {table.name: table for table in (TEXT, MANUAL)}


def write_up_curves(table: Table, config_file: str, output: Path, seeds: Sequence[int], common: Options = ()) -> str:
    """A table in Markdown for each column of the experiments, from the results on disk.

    Rows are methods, columns numbers of labelled pictures; mIoU in percent, mean ± deviation over the seeds.
    """
    parts = []
    for key in table.datasets:
        lines = []
        for method, variants in _methods(table).items():
            cells = {count: mean_and_deviation(_scores(v, table, key, config_file, output, seeds, common))
                     for count, v in variants.items()}  # fmt: skip
            if not any(v.is_trained for v in variants.values()):
                cells = {count or _ALL: next(iter(cells.values())) for count in COUNTS}
            first = next(iter(variants.values()))
            result = run_experiment(_experiment(first, table, config_file, output, 0, common))[table.datasets[0]]
            trained = f"{result['parameters']:,}" if first.is_trained else "0"
            lines.append([method, trained, *(cells[count or _ALL] for count in COUNTS)])
        headers = [column_heading(key), "trained parameters", *(str(count or _ALL) for count in COUNTS)]
        parts.append(tabulate(lines, headers=headers, tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(parts)


def save_curves(
    path: Path, table: Table, config_file: str, output: Path, seeds: Sequence[int], common: Options = ()
) -> None:
    """Draw mIoU over the number of labelled pictures as a PNG: a plot for each column, a line for each method.

    Bars are deviations over the seeds; what is not trained is a dashed or dotted line.
    """
    figure = Figure(figsize=(10, 3.9 * ((len(table.datasets) + 1) // 2)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plots = figure.subplots((len(table.datasets) + 1) // 2, 2, squeeze=False)
    for axes, key in zip(plots.flat, table.datasets, strict=False):
        untrained = itertools.cycle(("--", ":", "-."))
        for method, variants in _methods(table).items():
            found = {count: _scores(v, table, key, config_file, output, seeds, common) for count, v in variants.items()}
            means = [statistics.mean(values) for values in found.values()]
            if any(v.is_trained for v in variants.values()):
                spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in found.values()]
                axes.errorbar(list(found), means, spread, label=method, marker="o", markersize=4)
            else:
                axes.axhline(means[0], linestyle=next(untrained), color="#777777", label=method)
        axes.set(title=column_heading(key), xlabel="labelled pictures", ylabel="mIoU, %", xscale="log")
        axes.set_xticks([count or _ALL for count in COUNTS], [str(count or _ALL) for count in COUNTS])
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    lines = plots.flat[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _methods(table: Table) -> dict[str, dict[int, Variant]]:
    """The variants of each method by the number of labelled pictures."""
    methods: dict[str, dict[int, Variant]] = {}
    for variant in table.variants:
        method, count = variant.name.split(_SEPARATOR)
        methods.setdefault(method, {})[int(count)] = variant
    return methods


def _experiment(
    variant: Variant, table: Table, config_file: str, output: Path, seed: int, common: Options
) -> Experiment:
    return Experiment(config_file, variant, table.datasets, seed, output, common)


def _scores(
    variant: Variant,
    table: Table,
    key: str,
    config_file: str,
    output: Path,
    seeds: Sequence[int],
    common: Options,
) -> list[float]:
    """mIoU in percent of each seed; what is not trained has one."""
    used = seeds if variant.is_trained else (0,)
    runs = [run_experiment(_experiment(variant, table, config_file, output, seed, common)) for seed in used]
    return [100 * run[key]["miou"] for run in runs]
