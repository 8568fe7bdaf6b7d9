"""The evaluation loop: the images of a dataset through a model, in one process or many, to whatever counts them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import print_csv_format
from detectron2.utils import comm
from torch import nn

from escnet.data.benchmarks import dataset_folder_name
from escnet.data.mappers import EvaluationMapper
from escnet.data.registration import dataset_records
from escnet.data.stream import build_evaluation_loader
from escnet.evaluation.semantic import SemanticEvaluator, predicted_labels
from escnet.progress import progress_bar

Record = dict[str, Any]
Sample = dict[str, Any]
Results = dict[str, dict[str, dict[str, float]]]


def evaluate_datasets(cfg: CfgNode, model: nn.Module) -> Results:
    """Evaluate a model on each of DATASETS.TEST; writes OUTPUT_DIR/inference/<dataset>/semantic_metrics.json.

    Args:
        cfg: names the datasets, and how they are read.
        model: on its device, in whatever mode, in which it is left.

    Returns:
        {dataset: {"sem_seg": {metric: percent}}}; empty inner dicts in all processes but the first.

    Raises:
        DatasetError, ImageError: a dataset is not as expected.
        ValueError: a label map that does not fit its image, holds unknown ids, or no pixel to score.
    """
    mapper = EvaluationMapper(cfg, with_truth=True)
    return {name: _evaluate_dataset(cfg, model, mapper, name) for name in cfg.DATASETS.TEST}


def _evaluate_dataset(cfg: CfgNode, model: nn.Module, mapper: EvaluationMapper, name: str) -> dict[str, Any]:
    records = dataset_records(name)
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_folder_name(name))
    evaluator = SemanticEvaluator(name, output_dir=folder)

    def count(sample: Sample, labels: np.ndarray, _: float) -> None:
        evaluator.process([sample], [{"labels": labels}])

    pass_images(model, records, mapper, count, title=name, num_workers=cfg.DATALOADER.NUM_WORKERS)
    results = evaluator.evaluate() or {}
    if comm.is_main_process():
        print_csv_format(results)
    return results


def pass_images(
    model: nn.Module,
    records: Sequence[Record],
    mapper: EvaluationMapper,
    consume: Callable[[Sample, np.ndarray, float], None],
    *,
    title: str,
    num_workers: int = 0,
) -> None:
    """Pass images through a model, each once; of several processes, each passes its share.

    Args:
        model: on its device.
        records: in Detectron2's format, at least one.
        mapper: reads an image and its truth.
        consume: is given each sample, its (H, W) class ids, and the seconds that the model took for them.
        title: what the bar of progress is called.
        num_workers: processes that read ahead.
    """
    loader = build_evaluation_loader(records, mapper, num_workers)
    processes = f" ({comm.get_world_size()} processes)" if comm.get_world_size() > 1 else ""
    bar = progress_bar(
        loader,
        total=len(loader),
        desc=f"{title}{processes}",
        unit="image",
        disable=not comm.is_main_process(),
    )
    with evaluation_mode(model):
        for (sample,) in bar:
            start = time.perf_counter()
            labels = predict_labels(model, sample)
            consume(sample, labels, time.perf_counter() - start)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode meanwhile, and afterwards, after an error too, in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def predict_labels(model: nn.Module, sample: Sample) -> np.ndarray:
    """(H, W) class ids of a sample of `EvaluationMapper`.

    Raises:
        ValueError: the model gives neither label maps nor scores of the classes; names the image.
    """
    (output,) = model([sample])
    try:
        labels = predicted_labels(output, sample["vocabulary"].num_classes)
    except ValueError as error:
        raise ValueError(f"{sample['file_name']}: {error}") from error
    return torch.as_tensor(labels).cpu().numpy()
