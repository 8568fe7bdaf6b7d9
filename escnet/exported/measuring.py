"""A model run on pictures: what it takes, and what it says. PyTorch is imported for what needs it alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from escnet.exported.card import PROGRAM, read_card
from escnet.own_process import peak_memory
from escnet.vocabulary import Vocabulary

if TYPE_CHECKING:
    from detectron2.config import CfgNode


@dataclass(frozen=True)
class Measured:
    """What a run took, and what it said.

    Attributes:
        ready: `time.time` when the model could take a picture.
        whole: seconds of each image with its words, after one that is not counted.
        words: seconds of the same words once more on each encoded image.
        memory: the peak of the process in MiB.
        labels: (H, W) of each image.
    """

    ready: float
    whole: list[float]
    words: list[float]
    memory: float
    labels: list[np.ndarray]


def measure(model: Path | CfgNode, vocabulary: Vocabulary, pictures: Sequence[np.ndarray], threads: int) -> Measured:
    """Run a model, in this process.

    Args:
        model: the folder of an exported one, or a configuration with the path of its weights.
        vocabulary: the words.
        pictures: (H, W, 3) uint8.
        threads: of whatever computes.

    Raises:
        ExportedFilesError, WeightsError: it cannot be opened.
    """
    segmenter = _segmenter(model, threads)
    ready = time.time()
    whole, again, labels = [], [], []
    segmenter(pictures[0], vocabulary)
    for picture in pictures:
        begun = time.perf_counter()
        image = segmenter.encode(picture)
        labels.append(image(vocabulary).labels)
        middle = time.perf_counter()
        image(vocabulary)
        whole.append(middle - begun)
        again.append(time.perf_counter() - middle)
    return Measured(ready, whole, again, peak_memory(), labels)


def _segmenter(model: Path | CfgNode, threads: int) -> Any:
    if not isinstance(model, Path):
        from escnet.predictor import Segmenter

        _use_threads(threads)
        return Segmenter.from_config(model)
    if read_card(model)["kind"] == PROGRAM:
        from escnet.exported.programs import ProgramSegmenter

        _use_threads(threads)
        return ProgramSegmenter(model)
    from escnet.exported.segmenter import OnnxSegmenter

    return OnnxSegmenter(model, threads)


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
