"""What a system costs: parameters, FLOPs, files, and seconds and memory of an image, in a process of its own."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from escnet.complexity import count_model, describe, whole_model
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.own_process import in_own_process
from escnet.predictor import Segmenter
from escnet.pretrained.random_weights import RANDOM
from escnet.pretrained.reading import files_read
from escnet.profiling import DeviceWatch
from escnet.vocabulary import Vocabulary


class CostError(RuntimeError):
    """Costs that could not be measured; the message names the system."""


@dataclass(frozen=True)
class CostSample:
    """On what a system is measured.

    Attributes:
        vocabulary: the words.
        pictures: (H, W, 3) uint8 RGB each.
        repeats: how often each picture is segmented.
        threads: of PyTorch.
    """

    vocabulary: Vocabulary
    pictures: Sequence[np.ndarray] = field(repr=False)
    repeats: int
    threads: int


@dataclass(frozen=True)
class SystemCosts:
    """The costs of one system.

    Attributes:
        parameters, trainable: numbers of them.
        flops: multiply-adds of an image, its words being known; the mean over the pictures.
        text_flops: multiply-adds of the text encoder, once for all words.
        parts: parameters and multiply-adds of each part; of an image too, the text encoder's once.
        encode_seconds: of each repeat of each picture: from pixels to what is kept of an image.
        words_seconds: of each likewise: from there to the label of each pixel, by words that are known.
        text_seconds: of each repeat: the text encoder, once for all words.
        memory: MiB at the peak, while images are segmented: of the process, libraries and weights included; on a GPU,
            of its memory.
        memory_before: MiB before the first image.
        state_bytes: of all tensors of the model.
        files: bytes of the weight files that it was built from, by path; none with random weights.
    """

    parameters: int
    trainable: int
    flops: float
    text_flops: float
    parts: list[dict[str, Any]]
    encode_seconds: list[float]
    words_seconds: list[float]
    text_seconds: list[float]
    memory: float
    memory_before: float
    state_bytes: int
    files: dict[str, int]

    @property
    def seconds(self) -> float:
        """Of an image, its words being known: the median."""
        return statistics.median(map(sum, zip(self.encode_seconds, self.words_seconds, strict=True)))

    @property
    def disk_bytes(self) -> int:
        """Of the weight files; with random weights, of a file that would hold the model's tensors."""
        return sum(self.files.values()) or self.state_bytes


def costs_of(name: str, cfg: CfgNode, sample: CostSample) -> SystemCosts:
    """Measure a system in a process of its own.

    Args:
        name: of the system, for messages.
        cfg: of `configurations`.
        sample: on what.

    Raises:
        CostError: the process was killed.
        WeightsError: weights that are missing or do not fit.
    """
    try:
        return in_own_process(measure_costs, cfg, sample)
    except BrokenProcessPool:
        raise CostError(
            f"{name}: the process in which its costs were measured was killed, probably for want of memory; free some, "
            "or leave this system out"
        ) from None


def measure_costs(cfg: CfgNode, sample: CostSample) -> SystemCosts:
    """Build a model and measure it in this process, whose threads and peak memory are changed by it."""
    torch.set_num_threads(sample.threads)
    torch.manual_seed(cfg.SEED)
    with files_read() as files:
        model = _build(cfg)
    watch = DeviceWatch(model.device)
    with torch.inference_mode(), model.autocast():
        encoder = getattr(model, model.text_encoder)
        text_seconds = [watch.seconds(lambda: encoder(sample.vocabulary)) for _ in range(sample.repeats)]
    # Not in inference mode, as the text features that are kept are traced below.
    with torch.no_grad():
        before = watch.start_memory()
        pictures = [torch.from_numpy(picture).permute(2, 0, 1) for picture in sample.pictures]
        # The first image also pays for the embeddings of all words.
        _segment(model, pictures[0], sample.vocabulary, watch)
        times = [_segment(model, p, sample.vocabulary, watch) for p in pictures for _ in range(sample.repeats)]
    memory = watch.most_memory()
    encode_seconds, words_seconds = (list(part) for part in zip(*times, strict=True))
    flops = _mean_flops(model, sample.vocabulary, pictures)
    whole, text_flops = whole_model(model, flops), flops[model.text_encoder]
    return SystemCosts(
        parameters=whole.parameters,
        trainable=whole.trainable,
        flops=whole.flops - text_flops,
        text_flops=text_flops,
        parts=[asdict(part) for part in describe(model, flops)],
        encode_seconds=encode_seconds,
        words_seconds=words_seconds,
        text_seconds=text_seconds,
        memory=memory,
        memory_before=before,
        state_bytes=sum(value.numel() * value.element_size() for value in model.state_dict().values()),
        files={str(path): path.stat().st_size for path in files},
    )


def _build(cfg: CfgNode) -> SegmentingModel:
    return build_model(cfg).eval() if cfg.MODEL.WEIGHTS == RANDOM else Segmenter.from_config(cfg).model


def _segment(model: SegmentingModel, pixels: Tensor, words: Vocabulary, watch: DeviceWatch) -> tuple[float, float]:
    """Seconds from the pixels (3, H, W) to the features, and from these to the labels of all pixels."""
    features = None

    def encode() -> None:
        nonlocal features
        features = model.encode(pixels)

    def label() -> None:
        model.segment(features, words).at_image_size(words, tuple(pixels.shape[1:]))

    return watch.seconds(encode), watch.seconds(label)


def _mean_flops(model: SegmentingModel, words: Vocabulary, pictures: Sequence[Tensor]) -> dict[str, float]:
    """Multiply-adds of each module, the mean over the pictures: where prompts are drawn, they depend on these."""
    total: Counter[str] = Counter()
    for picture in pictures:
        total.update(count_model(model, words, picture[None].float().to(model.device)).by_module)
    return {name: flops / len(pictures) for name, flops in total.items()}
