"""Experiments with small models: train, evaluate, remember; and tables of them over several seeds."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

import escnet.meta_arch  # noqa: F401  registers the systems
from escnet.config import load_config
from escnet.data.label_spaces import label_spaces
from escnet.data.registration import dataset_records
from escnet.evaluation.counting import count_images
from escnet.evaluation.protocols import Column
from escnet.own_process import several_processes
from escnet.pretrained.files import file_sha256
from escnet.safe_files import replacing
from escnet.training.checkpoint import SafeCheckpointer
from escnet.training.tasks.build import build_trainer

NOVEL_BASE = ("mojiscenes_val_novel[:100]", "mojiscenes_val_base[:100]")
Options = tuple[str, ...]
"""KEY VALUE pairs, as on the command line."""


@dataclass(frozen=True)
class Variant:
    """A row of a table.

    Attributes:
        name: of the row.
        train: what its training differs in from the configuration.
        test: what only its evaluation differs in; variants that train alike share one training.
        is_trained: False for the training-free baselines.
        config_file: a configuration of its own, where it does not begin with that of the others.
    """

    name: str
    train: Options = ()
    test: Options = ()
    is_trained: bool = True
    config_file: str | None = None


@dataclass(frozen=True)
class Table:
    """A question, and the variants that answer it.

    Attributes:
        name: on the command line.
        question: above the table.
        variants: its rows.
        datasets: its columns, each a `Column.key`.
        shows_parameters: how many numbers each row trains is a column too.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    datasets: tuple[str, ...] = NOVEL_BASE
    shows_parameters: bool = False


@dataclass(frozen=True)
class Experiment:
    """One training of a variant with one seed, and its evaluation.

    Attributes:
        config_file: a .yaml file, for a variant that names none.
        variant: what differs from it.
        datasets: on which it is evaluated, each a `Column.key`.
        seed: of the training.
        output: folder of all experiments.
        common: options of all experiments of a call.
    """

    config_file: str
    variant: Variant
    datasets: tuple[str, ...]
    seed: int
    output: Path
    common: Options = ()

    @property
    def train_options(self) -> Options:
        """What decides the weights."""
        return (*self.common, *self.variant.train, "SEED", str(self.seed))

    @cached_property
    def training_folder(self) -> Path:
        """Where the training is; the same for all variants that train alike, also if one spells out a default.

        Files of weights count by their contents, not by their place.
        """
        cfg = self.load(self.train_options)
        for node in (cfg.MODEL, cfg.MODEL.CLIP, cfg.MODEL.SAM, cfg.MODEL.SAM_CLIP):
            if Path(node.WEIGHTS).is_file():
                node.WEIGHTS = file_sha256(Path(node.WEIGHTS))
        return self.output / "trainings" / digest(cfg.dump())

    def load(self, options: Sequence[str]) -> CfgNode:
        """The configuration that it begins with, with KEY VALUE pairs."""
        return load_config(self.variant.config_file or self.config_file, options)

    def result_file(self, dataset: str) -> Path:
        """Where the scores on a dataset are."""
        key = digest(self.training_folder.name, self.variant.test, self.variant.is_trained, dataset)
        return self.output / "results" / f"{key}.json"


def run_experiment(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Train and evaluate, or read what an earlier call has found; a killed training goes on where it was.

    Args:
        experiment: what to do.

    Returns:
        For each dataset the scores as fractions, and `seconds` of an image; `trained`, seconds of an iteration, and
        `parameters`, how many numbers were trained.
    """
    results = {}
    for dataset in experiment.datasets:
        path = experiment.result_file(dataset)
        if not path.is_file():
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(_evaluate(experiment, dataset), indent=1), encoding="utf-8")
        results[dataset] = json.loads(path.read_text(encoding="utf-8"))
    return results


def run_table(
    table: Table,
    config_file: str,
    output: Path,
    seeds: Sequence[int],
    jobs: int,
    common: Options = (),
) -> Iterator[tuple[int, int, str]]:
    """Run all experiments of a table, several at a time, each on one thread.

    Yields:
        How many are done, of how many, and the name of the last one.
    """
    experiments = list(_experiments(table, config_file, output, seeds, common))
    # Experiments that share a training must not run side by side.
    trainings: dict[Path, list[Experiment]] = {}
    for experiment in experiments:
        trainings.setdefault(experiment.training_folder, []).append(experiment)
    done = 0
    with several_processes(jobs) as pool:
        futures = {pool.submit(_run_all, group): group for group in trainings.values()}
        for future in as_completed(futures):
            future.result()
            done += len(futures[future])
            yield done, len(experiments), f"{futures[future][0].variant.name}, seed {futures[future][0].seed}"


def write_up(table: Table, config_file: str, output: Path, seeds: Sequence[int], common: Options = ()) -> str:
    """The table in Markdown, from the results on disk: mIoU in percent, mean ± deviation over the seeds.

    Where one row is the configuration as it is, the others tell in brackets by how much they differ from it, as mean
    ± deviation of the differences between trainings with the same seed: what a seed does to both is not in it.
    """
    scores: dict[Variant, list[list[float]]] = {}
    costs: dict[Variant, list[str]] = {}
    for variant in table.variants:
        runs = [
            run_experiment(Experiment(config_file, variant, table.datasets, seed, output, common))
            for seed in _seeds(variant, seeds)
        ]
        scores[variant] = [[100 * run[dataset]["miou"] for run in runs] for dataset in table.datasets]
        seconds = statistics.mean(run[dataset]["seconds"] for run in runs for dataset in table.datasets)
        iteration = [run[table.datasets[0]]["trained"] for run in runs if variant.is_trained]
        trained = f"{statistics.mean(iteration):.2f}" if iteration else "-"
        costs[variant] = [trained, f"{1000 * seconds:.0f}"]
        if table.shows_parameters:
            costs[variant].insert(0, f"{runs[0][table.datasets[0]]['parameters']:,}" if variant.is_trained else "0")
    reference = next((v for v in table.variants if _changes_nothing(v, config_file, common)), None)
    lines = []
    for variant in table.variants:
        cells = [mean_and_deviation(values) for values in scores[variant]]
        if reference not in (None, variant) and variant.is_trained:
            pairs = zip(scores[variant], scores[reference], strict=True)
            differences = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
            cells = [
                f"{cell} ({mean_and_deviation(values, '+')})" for cell, values in zip(cells, differences, strict=True)
            ]
        lines.append([variant.name, *cells, *costs[variant]])
    headers = [
        table.name,
        *(column_heading(key) for key in table.datasets),
        *(["trained parameters"] if table.shows_parameters else []),
        "s/iteration",
        "ms/image",
    ]
    return tabulate(lines, headers=headers, tablefmt="pipe", disable_numparse=True)


def _changes_nothing(variant: Variant, config_file: str, common: Options) -> bool:
    options = (*common, *variant.train, *variant.test)
    return load_config(variant.config_file or config_file, options).dump() == load_config(config_file, common).dump()


def column_heading(key: str) -> str:
    """ "novel[:100], oracle" for a column of MojiScenes."""
    column = Column.of_key(key)
    return column.protocol.titled(column.dataset.removeprefix("mojiscenes_val_"))


def _experiments(
    table: Table, config_file: str, output: Path, seeds: Sequence[int], common: Options
) -> Iterator[Experiment]:
    for seed in seeds:
        for variant in table.variants:
            if seed in _seeds(variant, seeds):
                yield Experiment(config_file, variant, table.datasets, seed, output, common)


def _seeds(variant: Variant, seeds: Sequence[int]) -> Sequence[int]:
    """What is not trained has no chance in it."""
    return seeds if variant.is_trained else (0,)


def _run_all(experiments: Sequence[Experiment]) -> None:
    torch.set_num_threads(1)
    for experiment in experiments:
        run_experiment(experiment)


def _evaluate(experiment: Experiment, dataset: str) -> dict[str, Any]:
    folder = experiment.training_folder
    log = setup_logger(str(folder), name="escnet", configure_stdout=False)
    setup_logger(str(folder), name="detectron2", configure_stdout=False)
    log.info(f"{experiment.variant.name}: {' '.join(experiment.train_options)}")
    column = Column.of_key(dataset)
    datasets = ["DATASETS.TEST", f'("{column.dataset}",)']
    trained = _train(experiment, folder) if experiment.variant.is_trained else 0.0
    output = ["OUTPUT_DIR", str(folder / digest(experiment.variant.test))]
    cfg = experiment.load([*experiment.train_options, *experiment.variant.test, *datasets, *output])
    if experiment.variant.is_trained:
        cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    model = build_model(cfg).eval()
    SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    (space,) = label_spaces(cfg.DATASETS.TEST, cfg.TEST.TEMPLATES, cfg.TEST.CLASS_NAMES).values()
    records, start = dataset_records(column.dataset), time.perf_counter()
    found = count_images(model, records, space, column.protocol, dataset, cfg.DATALOADER.NUM_WORKERS)
    seconds, metrics = time.perf_counter() - start, found.to_dict()
    return {
        "variant": experiment.variant.name,
        "seed": experiment.seed,
        "options": [*experiment.train_options, *experiment.variant.test],
        "miou": metrics["miou"],
        "pixel_accuracy": metrics["pixel_accuracy"],
        "class_iou": {entry["name"]: entry["iou"] for entry in metrics["classes"]},
        "seconds": seconds / len(records),
        "trained": trained,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _train(experiment: Experiment, folder: Path) -> float:
    """Train to the end, unless that is done; returns the seconds of an iteration."""
    cfg = experiment.load([*experiment.train_options, "DATASETS.TEST", "()", "OUTPUT_DIR", str(folder)])
    timing = folder / "seconds.json"
    if not timing.is_file():
        start = time.perf_counter()
        trainer = build_trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        seconds = (time.perf_counter() - start) / cfg.SOLVER.MAX_ITER
        with replacing(timing) as temporary:
            temporary.write_text(json.dumps(seconds), encoding="utf-8")
    return json.loads(timing.read_text(encoding="utf-8"))


def mean_and_deviation(values: Sequence[float], sign: str = "") -> str:
    """ "46.0 ± 1.4" of several seeds, the value alone of one; `sign` "+" shows that of the mean."""
    if len(values) == 1:
        return f"{values[0]:{sign}.1f}"
    return f"{statistics.mean(values):{sign}.1f} ± {statistics.stdev(values):.1f}"


def digest(*parts: Any) -> str:
    """A short name for whatever decides a result."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
