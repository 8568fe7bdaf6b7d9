"""Zero-shot evaluation of a model on a benchmark: one run, in a folder that a killed one goes on with."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from escnet.data.label_spaces import LabelSpace
from escnet.data.mappers import EvaluationMapper
from escnet.data.stream import build_evaluation_loader
from escnet.evaluation.confusion import SemanticMetrics
from escnet.evaluation.report.html_report import write_report
from escnet.evaluation.report.result_table import PUBLISHED, measured_row, write_table
from escnet.evaluation.runs.conditions import Conditions, conditions, differences, model_identity
from escnet.evaluation.runs.evaluation_data import EvaluationData, Run
from escnet.evaluation.runs.image_results import ImageResult, ImageResults, ResultsError
from escnet.evaluation.runs.run_summary import predict, summarise, write_json
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.predictor import Segmenter
from escnet.progress import progress_bar

Record = dict[str, Any]


@dataclass(frozen=True)
class ZeroShotTask:
    """What `evaluate_zero_shot` is to do.

    Attributes:
        datasets: registered names or ``folder:PATH``, with slices if wanted.
        output: folder of all results.
        name: of the model in the table.
        baselines: evaluate `DenseClip` and `ClipThenSam` too, on the CLIP and SAM of the configuration.
        restart: delete the results of an earlier evaluation in `output`.
    """

    datasets: tuple[str, ...]
    output: Path
    name: str
    baselines: bool = False
    restart: bool = False


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
    """
    loaded = [EvaluationData.load(dataset, cfg) for dataset in task.datasets]
    rows = []
    for name, model_cfg in _models(cfg, task):
        torch.manual_seed(cfg.SEED)
        model = Segmenter.from_config(model_cfg).model
        # Only the first process notes it.
        identity = model_identity(model_cfg, model, model_cfg.MODEL.WEIGHTS) if comm.is_main_process() else {}
        runs = [Run(name, data, task.output) for data in loaded]
        for run in runs:
            evaluate_run(run, model_cfg, model, identity, task.restart)
        if comm.is_main_process():
            rows.append(measured_row(name, runs))
        del model
    if not comm.is_main_process():
        return None
    table = write_table(task.output, task.datasets, [*PUBLISHED, *rows])
    write_report(task.output)
    return table


def _models(cfg: CfgNode, task: ZeroShotTask) -> list[tuple[str, CfgNode]]:
    """Name and configuration of each row; baselines have no checkpoint, and no window where they know none."""
    cfg = cfg.clone()
    cfg.defrost()
    # Labels are all that is scored; N maps at image size would be made for nothing.
    cfg.TEST.FULL_SCORES = False
    models = [(task.name, cfg)]
    for baseline in ("DenseClip", "ClipThenSam") if task.baselines else ():
        changed = cfg.clone()
        changed.MODEL.META_ARCHITECTURE = baseline
        changed.MODEL.WEIGHTS = ""
        if baseline == "ClipThenSam":
            changed.TEST.SLIDING.ENABLED = False
        models.append((baseline, changed))
    names = [name for name, _ in models]
    if len(set(names)) < len(names):
        raise ValueError(f"two rows of the table would be called {task.name}; give the model another --name")
    return models


def evaluate_run(
    run: Run, cfg: CfgNode, model: SegmentingModel, identity: Conditions, restart: bool = False
) -> SemanticMetrics | None:
    """Evaluate a model on a dataset, in one process or many, and write all results to the folder of the run.

    Images that already have a result there are not evaluated again, if they were evaluated under the same conditions.
    Each image is counted by itself, in integers, so that interruptions and the number of processes change nothing.

    Args:
        run: names and folder.
        cfg: configuration of the model, of which TEST and DATALOADER say how to evaluate.
        model: on its device.
        identity: what `model_identity` says of the model; read in the first process alone.
        restart: delete what is in the folder.

    Returns:
        The scores; None in all processes but the first.

    Raises:
        ResultsError: the folder has results that were made under other conditions, or are damaged.
        DatasetError, ImageError: the dataset is not as expected.
        ValueError: a label map that does not fit its image, or holds unknown ids.
    """
    results = ImageResults(run.folder)
    if comm.is_main_process():
        if restart:
            shutil.rmtree(run.folder, ignore_errors=True)
        _open_folder(run, conditions(cfg, model, identity, run.data))
        results.repair()
    comm.synchronize()
    done = results.images()
    # Nobody may add before everybody has read what there is.
    comm.synchronize()
    _count_images(run, model, [record for record in run.data.records if record["image_id"] not in done], results, cfg)
    comm.synchronize()
    return summarise(run, model, results) if comm.is_main_process() else None


def _open_folder(run: Run, found: dict[str, Any]) -> None:
    """Note what the run depends on, or check that the results that are there depend on the same."""
    path = run.folder / "run.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))["conditions"]
        changed = differences(known, found)
        if changed:
            shown = "; ".join(f"{key} was {was}, is {now}" for key, was, now in changed[:6])
            raise ResultsError(
                f"{run.folder}: has results that were made under other conditions ({shown}); "
                f"evaluate into another --output, or delete them with --restart"
            )
        return
    if ImageResults(run.folder).files():
        raise ResultsError(f"{run.folder}: has results, but no run.json that says how they were made; use --restart")
    description = {
        "model": run.model,
        "dataset": run.data.dataset,
        "title": run.data.title,
        "class_names": run.data.class_names,
        "conditions": found,
    }
    write_json(path, description)


def _count_images(
    run: Run,
    model: SegmentingModel,
    records: Sequence[Record],
    results: ImageResults,
    cfg: CfgNode,
) -> None:
    """Evaluate this process's share of the records, and add the results to the folder."""
    if not records:
        return
    space = run.data.space
    mapper = EvaluationMapper({records[0]["dataset"]: space}, with_truth=True)
    loader = build_evaluation_loader(records, mapper, cfg.DATALOADER.NUM_WORKERS)
    # A sampler knows its process's share; the loader's length would count all.
    share = len(list(iter(loader.sampler)))
    processes = f" ({comm.get_world_size()} processes)" if comm.get_world_size() > 1 else ""
    bar = progress_bar(
        loader,
        total=share,
        desc=f"{run.model} on {run.data.title}{processes}",
        unit="image",
        disable=not comm.is_main_process(),
    )
    model.eval()
    try:
        for (sample,) in bar:
            results.add(_count_image(model, sample, space), comm.get_rank())
    finally:
        results.close()


def _count_image(model: SegmentingModel, sample: Record, space: LabelSpace) -> ImageResult:
    truth = sample["sem_seg_truth"]
    start = time.perf_counter()
    labels = predict(model, sample["image"], space.vocabulary)
    seconds = time.perf_counter() - start
    classes, ignore_label = space.vocabulary.num_classes, space.ignore_label
    try:
        return ImageResult.count(sample["image_id"], labels, truth, classes, ignore_label, seconds)
    except ValueError as error:
        raise ValueError(f"{sample['file_name']}, {sample['sem_seg_file_name']}: {error}") from error
