"""The scores of a model on images of one dataset, counted at once: of held-out images, and of experiments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from detectron2.utils import comm
from torch import nn

from escnet.data.label_spaces import LabelSpace
from escnet.data.mappers import EvaluationMapper
from escnet.data.registration import dataset_metadata
from escnet.evaluation.confusion import ConfusionMatrix, SemanticMetrics, semantic_metrics
from escnet.evaluation.loop import Prediction, pass_images
from escnet.evaluation.oracle import OracleQuestions, oracle_metrics
from escnet.evaluation.protocols import ORDINARY, Protocol
from escnet.evaluation.runs.image_results import ImageResult

Record = dict[str, Any]
Sample = dict[str, Any]


def count_images(
    model: nn.Module,
    records: Sequence[Record],
    space: LabelSpace,
    protocol: Protocol = ORDINARY,
    title: str = "",
    num_workers: int = 0,
) -> SemanticMetrics:
    """Pass images through a model and count what it says. Of several processes each passes its share, and all know all.

    Args:
        model: on its device, in whatever mode, in which it is left.
        records: of one dataset, at least one.
        space: of the dataset, with the words that the model looks for.
        protocol: what it is asked.
        title: of the bar of progress.
        num_workers: processes that read ahead.

    Raises:
        ImageError, OSError: a file cannot be read.
        ValueError: what the model says does not fit its image, or holds unknown ids.
    """
    metadata = dataset_metadata(records[0]["dataset"])
    scored, classes = metadata.get("scored_classes"), space.vocabulary.num_classes
    if protocol.is_oracle:
        counted, consume = ConfusionMatrix(classes + 1, ignore_label=-1), _add
        predict = OracleQuestions(space, scored, protocol)
    else:
        counted, consume, predict = ConfusionMatrix(classes, space.ignore_label), _count, None
    mapper = EvaluationMapper({records[0]["dataset"]: space}, with_truth=True)
    pass_images(
        model, records, mapper, partial(consume, counted), title=title, num_workers=num_workers, predict=predict
    )
    total = ConfusionMatrix(counted.num_classes, counted.ignore_label)
    for confusion in comm.all_gather(counted):
        total.merge(confusion)
    score = oracle_metrics if protocol.is_oracle else semantic_metrics
    return score(total, metadata.stuff_classes, scored)


def _count(confusion: ConfusionMatrix, sample: Sample, prediction: Prediction, _: float) -> None:
    try:
        confusion.update(prediction.labels, sample["sem_seg_truth"])
    except ValueError as error:
        raise ValueError(f"{sample['file_name']}, {sample['sem_seg_file_name']}: {error}") from error


def _add(confusion: ConfusionMatrix, _: Sample, result: ImageResult, __: float) -> None:
    confusion.add_entries(result.entries)
