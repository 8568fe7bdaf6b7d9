"""Zero-shot evaluation: each model on each benchmark, in a folder that a killed run goes on with; then the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from torch import nn

from escnet.data.mappers import EvaluationMapper
from escnet.evaluation.confusion import SemanticMetrics
from escnet.evaluation.loop import Prediction, Record, Sample, pass_images
from escnet.evaluation.oracle import OracleQuestions, require_answers
from escnet.evaluation.protocols import ORDINARY, Column, Protocol
from escnet.evaluation.report.html_report import write_report
from escnet.evaluation.report.published import PUBLISHED
from escnet.evaluation.report.result_table import measured_row, write_table
from escnet.evaluation.runs.conditions import Conditions, conditions, model_identity
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.runs.image_results import ImageResult, ImageResults
from escnet.evaluation.runs.run_folder import Run, open_run
from escnet.evaluation.runs.run_summary import summarise
from escnet.predictor import Segmenter


@dataclass(frozen=True)
class ZeroShotTask:
    """What `evaluate_zero_shot` is to do.

    Attributes:
        datasets: registered names or ``folder:PATH``, with slices if wanted.
        output: folder of all results.
        name: of the model in the table.
        baselines: evaluate all training-free systems too, on the public weights of the configuration.
        restart: delete the results of an earlier evaluation in `output`.
        others: name and configuration of further models, for rows of their own.
        batch_size: images that share a pass of a model, which changes no result.
        protocol: what the models are asked of each image.
    """

    datasets: tuple[str, ...]
    output: Path
    name: str
    baselines: bool = False
    restart: bool = False
    others: tuple[tuple[str, CfgNode], ...] = ()
    batch_size: int = 1
    protocol: Protocol = ORDINARY


def evaluate_zero_shot(cfg: CfgNode, task: ZeroShotTask) -> str | None:
    """Evaluate a model, and the training-free baselines if wanted, on several datasets; write tables and a report.

    Args:
        cfg: the configuration; MODEL.WEIGHTS is the checkpoint of the model, if any.
        task: on what, and where to.

    Returns:
        The table for the terminal; None in all processes but the first.

    Raises:
        DatasetError, ImageError: a dataset is not as expected; all of them are looked up before a model is built.
        WeightsError: weights that are missing or do not fit.
        ResultsError: `output` has results that were made under other conditions.
        ValueError: a model that cannot answer what the protocol asks; told before any is built.
    """
    loaded = [EvaluationData.load(dataset, cfg, task.protocol) for dataset in task.datasets]
    models = models_to_evaluate(cfg, task)
    for _, model_cfg in models:
        require_system(task.protocol, model_cfg)
    rows = []
    for name, model_cfg in models:
        runs = evaluate_model(name, model_cfg, loaded, task.output, task.restart, task.batch_size)
        if comm.is_main_process():
            rows.append(measured_row(name, runs))
    if not comm.is_main_process():
        return None
    columns = [Column(dataset, task.protocol) for dataset in task.datasets]
    table = write_table(task.output, columns, [*PUBLISHED, *rows])
    write_report(task.output)
    return table


def evaluate_model(
    name: str,
    cfg: CfgNode,
    loaded: Sequence[EvaluationData],
    output: Path,
    restart: bool = False,
    batch_size: int = 1,
) -> list[Run]:
    """Build a model and evaluate it on several datasets, each in a folder of its own, which is gone on with.

    Args:
        name: in tables, and of the folder.
        cfg: its configuration; MODEL.WEIGHTS is its checkpoint, if any.
        loaded: the datasets.
        output: folder of all results.
        restart: delete earlier results of this model on these datasets.
        batch_size: images that share a pass of the model.

    Returns:
        The runs, in the order of the datasets.

    Raises:
        WeightsError, ResultsError, DatasetError, ImageError: as said of `evaluate_zero_shot`.
    """
    torch.manual_seed(cfg.SEED)
    model = Segmenter.from_config(cfg).model
    # Only the first process notes it.
    identity = model_identity(cfg, model, cfg.MODEL.WEIGHTS) if comm.is_main_process() else {}
    runs = [Run(name, data, output) for data in loaded]
    for run in runs:
        evaluate_run(run, cfg, model, identity, restart, batch_size)
    return runs


def require_system(protocol: Protocol, cfg: CfgNode) -> None:
    """Refuse a configuration whose system cannot answer what a protocol asks, before it is built.

    Raises:
        ValueError: as said of `require_answers`.
    """
    if protocol != ORDINARY:
        require_answers(protocol, META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), cfg)


def models_to_evaluate(cfg: CfgNode, task: ZeroShotTask) -> list[tuple[str, CfgNode]]:
    """Name and configuration of each row; baselines have no checkpoint, and no window where they know none.

    Raises:
        ValueError: two rows would have one name.
    """
    cfg = cfg.clone()
    cfg.defrost()
    # Labels are all that is scored; N maps at image size would be made for nothing.
    cfg.TEST.FULL_SCORES = False
    models = [(task.name, cfg)]
    for baseline, system in META_ARCH_REGISTRY if task.baselines else ():
        if getattr(system, "is_training_free", False):
            changed = cfg.clone()
            changed.MODEL.META_ARCHITECTURE = baseline
            changed.MODEL.WEIGHTS = ""
            if not system.has_sliding_windows:
                changed.TEST.SLIDING.ENABLED = False
            models.append((baseline, changed))
    models += task.others
    names = [name for name, _ in models]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two rows of the table would be called {twice}; give the model another --name")
    return models


def evaluate_run(
    run: Run, cfg: CfgNode, model: nn.Module, identity: Conditions, restart: bool = False, batch_size: int = 1
) -> SemanticMetrics | None:
    """Evaluate a model on a dataset, in one process or many, and write all results to the folder of the run.

    Images that already have a result there are not evaluated again, if they were evaluated under the same conditions.
    Each image is counted by itself, in integers, so that interruptions, the number of processes and the size of batches
    change nothing.

    Args:
        run: names and folder.
        cfg: configuration of the model, of which TEST and DATALOADER say how to evaluate.
        model: on its device; a `SegmentingModel`, or another that Detectron2's convention of calling fits.
        identity: what `model_identity` says of the model; read in the first process alone.
        restart: delete what is in the folder.
        batch_size: images that share a pass of the model.

    Returns:
        The scores; None in all processes but the first.

    Raises:
        ResultsError: the folder has results that were made under other conditions, or are damaged.
        DatasetError, ImageError: the dataset is not as expected.
        ValueError: a label map that does not fit its image, or holds unknown ids; or a model that cannot answer what
            the protocol asks.
        OSError: results could not be written; those of earlier images stand.
    """
    require_answers(run.data.protocol, type(model), cfg)
    if comm.is_main_process():
        open_run(run, conditions(cfg, model, identity, run.data), restart)
    comm.synchronize()
    results = ImageResults(run.folder)
    done = results.images()
    # Nobody may add before everybody has read what there is.
    comm.synchronize()
    mapper = EvaluationMapper({record["dataset"]: run.data.space for record in run.data.records}, with_truth=True)
    missing = [record for record in run.data.records if record["image_id"] not in done]
    if missing:
        _count_images(run, model, missing, mapper, results, cfg.DATALOADER.NUM_WORKERS, batch_size)
    comm.synchronize()
    return summarise(run, model, mapper) if comm.is_main_process() else None


def _count_images(
    run: Run,
    model: nn.Module,
    records: Sequence[Record],
    mapper: EvaluationMapper,
    results: ImageResults,
    num_workers: int,
    batch_size: int,
) -> None:
    """Evaluate this process's share of the records, and add the results to the folder."""
    data = run.data
    classes, ignore_label = data.space.vocabulary.num_classes, data.space.ignore_label
    questions = OracleQuestions(data.space, data.scored, data.protocol) if data.protocol.is_oracle else None

    def add(sample: Sample, result: ImageResult, seconds: float) -> None:
        results.add(replace(result, seconds=seconds), comm.get_rank())

    def count(sample: Sample, prediction: Prediction, seconds: float) -> None:
        try:
            result = ImageResult.count(
                sample["image_id"],
                prediction.labels,
                sample["sem_seg_truth"],
                classes,
                ignore_label,
                seconds,
                prediction.words_considered,
            )
        except ValueError as error:
            raise ValueError(f"{sample['file_name']}, {sample['sem_seg_file_name']}: {error}") from error
        results.add(result, comm.get_rank())

    try:
        pass_images(
            model,
            records,
            mapper,
            count if questions is None else add,
            title=f"{run.model} on {data.title}",
            num_workers=num_workers,
            batch_size=batch_size,
            predict=questions,
        )
    finally:
        results.close()
