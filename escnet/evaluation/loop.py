"""The evaluation loop: the images of a dataset through a model, in one process or many, to whatever counts them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import print_csv_format
from detectron2.utils import comm
from torch import nn

from escnet.command_line import one_line
from escnet.data.benchmarks import dataset_folder_name
from escnet.data.images import ImageError
from escnet.data.mappers import EvaluationMapper
from escnet.data.registration import dataset_records
from escnet.data.stream import build_evaluation_loader
from escnet.devices import is_out_of_memory
from escnet.evaluation.semantic import SemanticEvaluator, predicted_labels
from escnet.progress import progress_bar

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Sample = dict[str, Any]
Results = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        labels: (H, W) class ids.
        words_considered: how many rows of the vocabulary competed for the pixels in the end; None of a model that does
            not say it.
    """

    labels: np.ndarray
    words_considered: int | None = None


# Is given each sample, what the model says of it, and the seconds that the model took.
Consumer = Callable[[Sample, Any, float], None]
# Is given a model and samples, and gives what the model says of each, or what is wrong with it.
Predict = Callable[[nn.Module, Sequence[Sample]], list[Any]]


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

    def count(sample: Sample, prediction: Prediction, _: float) -> None:
        evaluator.process([sample], [{"labels": prediction.labels, "words_considered": prediction.words_considered}])

    pass_images(model, records, mapper, count, title=name, num_workers=cfg.DATALOADER.NUM_WORKERS)
    results = evaluator.evaluate() or {}
    if comm.is_main_process():
        print_csv_format(results)
    return results


def pass_images(
    model: nn.Module,
    records: Sequence[Record],
    mapper: EvaluationMapper,
    consume: Consumer,
    *,
    title: str,
    num_workers: int = 0,
    batch_size: int = 1,
    predict: Predict | None = None,
) -> None:
    """Pass images through a model, each once; of several processes, each passes its share.

    Args:
        model: on its device.
        records: in Detectron2's format, at least one.
        mapper: reads an image and its truth.
        consume: is given each sample, what the model says of it, and the seconds that the model took for it: of a
            batch, the same for all of its images.
        title: what the bar of progress is called.
        num_workers: processes that read ahead.
        batch_size: images that share a pass of the model, which changes time and memory alone.
        predict: asks the model; by default for label maps, each a `Prediction`.

    Raises:
        ImageError, OSError: a file cannot be read; raised when the other images of its batch are done.
        ValueError: what the model gives is no label map, or `consume` refuses it; likewise.
    """
    loader = build_evaluation_loader(records, _Attempt(mapper), num_workers, batch_size)
    processes = f" ({comm.get_world_size()} processes)" if comm.get_world_size() > 1 else ""
    bar = progress_bar(
        total=len(loader.sampler), desc=f"{title}{processes}", unit="image", disable=not comm.is_main_process()
    )
    with evaluation_mode(model), bar:
        for batch in loader:
            _pass_batch(model, batch, consume, predict or _predict_together)
            bar.update(len(batch))


def _pass_batch(model: nn.Module, batch: Sequence[Sample | Exception], consume: Consumer, predict: Predict) -> None:
    """Predict what could be read of a batch and pass it on; the first error is raised when all others are done."""
    samples = [sample for sample in batch if not isinstance(sample, Exception)]
    start = time.perf_counter()
    predictions = iter(_predict_batch(model, samples, predict) if samples else ())
    seconds = (time.perf_counter() - start) / max(1, len(samples))
    errors: list[Exception] = []
    for sample in batch:
        outcome = sample if isinstance(sample, Exception) else next(predictions)
        if isinstance(outcome, Exception):
            errors.append(outcome)
            continue
        try:
            consume(sample, outcome, seconds)
        except ValueError as error:
            errors.append(error)
    if errors:
        raise errors[0]


class _Attempt:
    """A mapper that gives what is wrong with a file in the place of its sample, so that the others are not lost."""

    def __init__(self, mapper: EvaluationMapper) -> None:
        self._mapper = mapper

    def __call__(self, record: Record) -> Sample | Exception:
        try:
            return self._mapper(record)
        except (ImageError, OSError) as error:
            return error


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
    return _prediction(output, sample).labels


def _predict_batch(model: nn.Module, samples: Sequence[Sample], predict: Predict) -> list[Any]:
    """What the model says of each sample, or what is wrong with it; one by one where all at once have no room."""
    try:
        return predict(model, samples)
    except Exception as error:
        if len(samples) == 1 or not is_out_of_memory(error):
            raise
        shortage = one_line(error)
    logger.warning("no room for %d images in one pass (%s): they are passed one by one", len(samples), shortage)
    predictions: list[Any] = []
    for sample in samples:
        try:
            predictions += predict(model, [sample])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # The frames of its traceback would keep tensors, for which there is no room.
            predictions.append(error.with_traceback(None))
    return predictions


@torch.no_grad()
def _predict_together(model: nn.Module, samples: Sequence[Sample]) -> list[Prediction | Exception]:
    outputs = model(list(samples))
    if len(outputs) != len(samples):
        raise ValueError(
            f"{type(model).__name__} gives {len(outputs)} outputs for {len(samples)} images; let it have one at a "
            f"time, with a batch size of 1"
        )
    predictions: list[Prediction | Exception] = []
    for output, sample in zip(outputs, samples, strict=True):
        try:
            predictions.append(_prediction(output, sample))
        except ValueError as error:
            predictions.append(error)
    return predictions


def _prediction(output: Mapping[str, Any], sample: Sample) -> Prediction:
    """What a model gave for a sample, as label map; an error names the image."""
    try:
        labels = predicted_labels(output, sample["vocabulary"].num_classes)
    except ValueError as error:
        raise ValueError(f"{sample['file_name']}: {error}") from error
    considered = output.get("words_considered")
    return Prediction(torch.as_tensor(labels).cpu().numpy(), None if considered is None else int(considered))
