"""The work and the memory of a training on pixels, and the work of an evaluation, counted on the configured model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import Tensor

import escnet.meta_arch  # noqa: F401  registers the systems
from escnet.layers.chunking import classes_at_a_time
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.swin import GuidedSwinBlock, window_plan
from escnet.meta_arch.correlation_model import CorrelationModel
from escnet.meta_arch.interfaces import InferenceOptions
from escnet.meta_arch.sliding_window import SlidingWindow
from escnet.precision import AUTO
from escnet.pretrained.random_weights import RANDOM, random_weights
from escnet.training.estimation.counting import (
    CPU,
    GPU,
    Footprint,
    footprint,
    forward_flops,
    on_fake_device,
    training_flops,
)
from escnet.training.estimation.gpus import BYTES, MOMENTS, RESERVE, Cluster
from escnet.vocabulary import Vocabulary

# Classes that a training image holds, which are never left out: about as many as a photograph of COCO-Stuff.
PRESENT = 10
# Texts that go through the text encoder at a time.
TEXTS = 256


@dataclass(frozen=True)
class TrainingCost:
    """FLOPs of a training step, and the sizes of what is trained.

    Attributes:
        text_forward, text_backward: of the words, once a step in each process; 0 if their encoder is not trained.
        forward, backward: of each image; the backward pass with what it computes again.
        recomputed: FLOPs of the backward pass that are spent on that.
        parameters, trained: how many there are.
    """

    text_forward: int
    text_backward: int
    forward: int
    backward: int
    recomputed: int
    parameters: int
    trained: int

    def flops(self, images: int) -> int:
        """Of a process with so many images."""
        return self.text_forward + self.text_backward + images * (self.forward + self.backward)


@dataclass(frozen=True)
class ImageWork:
    """An image whose words are embedded already.

    Attributes:
        flops: of its segmentation.
        operators: see `Footprint`.
    """

    flops: int
    operators: int

    def seconds(self, rate: float, launch: float) -> float:
        """On a GPU of so many FLOP/s, of which an operator is asked for every `launch` seconds at most."""
        return max(self.flops / rate, self.operators * launch)

    def __add__(self, other: ImageWork) -> ImageWork:
        return ImageWork(self.flops + other.flops, self.operators + other.operators)


@dataclass(frozen=True)
class StepPlan:
    """A training on a cluster.

    Attributes:
        cluster: the GPUs.
        images: of a batch on one of them.
        cost: of the model.
        footprint: of a step of one GPU.
        launch: seconds from one operator to the next, of which the GPU is asked.
        iterations: of the training.
    """

    cluster: Cluster
    images: int
    cost: TrainingCost
    footprint: Footprint
    launch: float
    iterations: int

    @property
    def computing(self) -> float:
        """Seconds that the operations of a step take."""
        return self.cost.flops(self.images) / self.cluster.rate

    @property
    def launching(self) -> float:
        """Seconds that it takes to ask for them, meanwhile."""
        return self.footprint.operators * self.launch

    @property
    def averaging(self) -> float:
        """Seconds of a step in which gradients are averaged, after the backward pass."""
        return self.cluster.sent(self.cost.trained) / self.cluster.bandwidth

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return max(self.computing, self.launching) + self.averaging

    @property
    def hours(self) -> float:
        """Of the training, on a clock."""
        return self.iterations * self.step / 3600

    @property
    def memory(self) -> int:
        """Bytes of a GPU: parameters, moments, and of gradients and all else the most that is alive at once."""
        return BYTES * (self.cost.parameters + MOMENTS * self.cost.trained) + self.footprint.memory

    @property
    def fits(self) -> bool:
        """Whether that leaves the reserve free."""
        return self.memory <= (1 - RESERVE) * self.cluster.memory


class SegmentationCounter:
    """Counts on a configured model without numbers; no weights, no images and no GPU are needed.

    Of words the most are counted that may be looked at: MODEL.ESC.KEEP of them, where MODEL.ESC.KEEP_SHARE may keep
    fewer. A training image holds `PRESENT` classes; where a step draws how many it looks at, its work is that of their
    mean number, and memory and operators are those of the most.

    Args:
        cfg: of a training on pixels.

    Raises:
        ValueError: it is another training, or the system looks at no correlation maps of words.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if cfg.TASK != "segmentation":
            raise ValueError(f"TASK is {cfg.TASK}; tools/estimate_distillation.py estimates a distillation")
        system = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        if not issubclass(system, CorrelationModel):
            raise ValueError(f"MODEL.META_ARCHITECTURE is {system.__name__}, of which no training can be counted")
        self.crop = tuple(cfg.INPUT.CROP.SIZE)
        self.windows = SlidingWindow(*(cfg.TEST.SLIDING[key] for key in ("SIZE", "WINDOW", "OVERLAP")))
        self.model = build_model(_countable(cfg)).to("meta")
        precision = "bf16" if cfg.MODEL.PRECISION == AUTO else cfg.MODEL.PRECISION
        self.model.inference: InferenceOptions = replace(self.model.inference, precision=precision)
        self.size = self.model.inference.image_size
        self.choice = self.model.choice
        self.texts: dict[Vocabulary, list[tuple[Tensor, Tensor]]] = {}
        encoder = self.encoder
        encoder.tokenize = lambda vocabulary: vocabulary
        encoder.embed = lambda vocabulary, chunk: torch.cat(
            [encoder._embed_chunk(*part) for part in self.texts[vocabulary]]
        )

    @property
    def encoder(self) -> ClipTextEncoder:
        """Of the words."""
        return getattr(self.model, self.model.text_encoder)

    def training(self, vocabulary: Vocabulary) -> TrainingCost:
        """FLOPs of a step."""
        parameters = list(self.model.parameters())
        trained = [parameter.numel() for parameter in parameters if parameter.requires_grad]
        text = (0, 0)
        with self._counting(vocabulary, self.size, trains=True), self._all_classes_at_once():
            self._look_at(sum(self.choice.training_range(len(vocabulary.names))) // 2)
            if any(parameter.requires_grad for parameter in self.encoder.parameters()):
                text = training_flops(lambda: self.encoder(vocabulary).sum())
            forward, backward = training_flops(partial(self._loss, vocabulary, 1))
            recomputes, self.model.recompute = self.model.recompute, False
            _, kept = training_flops(partial(self._loss, vocabulary, 1))
            self.model.recompute = recomputes
        size = sum(parameter.numel() for parameter in parameters)
        return TrainingCost(*text, forward - text[0], backward - text[1], backward - kept, size, sum(trained))

    def step(self, vocabulary: Vocabulary, images: int) -> Footprint:
        """Operators of a process with so many images, and memory beside parameters and moments, gradients included."""
        with self._counting(vocabulary, self.size, trains=True):
            self._look_at(self.choice.training_range(len(vocabulary.names))[1])
            own = [*self.model.parameters(), *self.model.buffers()]
            return footprint(lambda: self._loss(vocabulary, images).backward(), own)

    def image(self, vocabulary: Vocabulary, windows: bool = False) -> ImageWork:
        """An image as it is evaluated: whole, or in windows too."""
        whole = self._pass(vocabulary, self.size)
        if not windows:
            return whole
        part = whole if self.windows.window == self.size else self._pass(vocabulary, self.windows.window)
        return sum([part] * len(self.windows.corners()), whole)

    def _pass(self, vocabulary: Vocabulary, size: tuple[int, int]) -> ImageWork:
        def run() -> None:
            with torch.no_grad(), self.model.autocast():
                features = self.model.encode_pixels(torch.zeros(1, 3, *size))
                self.model.segment_features(features, vocabulary)

        with self._counting(vocabulary, size, trains=False):
            operators = footprint(run, ()).operators
            with self._all_classes_at_once():
                return ImageWork(forward_flops(run), operators)

    def _look_at(self, number: int) -> None:
        """Let a training step look at so many classes, or, of those at random, at all that an image holds if more."""
        self.model.choice = replace(self.choice, train=number, train_least=0)
        self.model.training_rows = partial(_training_rows, number)

    def _loss(self, vocabulary: Vocabulary, images: int) -> Tensor:
        sample = {
            "image": torch.zeros(3, *self.crop, dtype=torch.uint8),
            "sem_seg": torch.zeros(self.crop, dtype=torch.long),
            "vocabulary": vocabulary,
        }
        return sum(self.model([sample] * images).values())

    @contextmanager
    def _counting(self, vocabulary: Vocabulary, size: tuple[int, int], trains: bool) -> Iterator[None]:
        """Within, the model has no numbers; what it computes once for images of a size (height, width) is there."""
        if vocabulary not in self.texts:
            self.texts[vocabulary] = _text_chunks(self.encoder, vocabulary)
        with on_fake_device(CPU, self.model), torch.no_grad():
            grid = self.model.encode_pixels(torch.zeros(1, 3, *size)).dense.shape[-2:]
        for block in self.model.modules():
            if isinstance(block, GuidedSwinBlock):
                window_plan(tuple(grid), block.window, block.shift)
        with on_fake_device(CPU, self.model):
            self.model.train(trains)
            self.encoder.encode(vocabulary)  # which is remembered, unless the encoder learns
            yield

    @contextmanager
    def _all_classes_at_once(self) -> Iterator[None]:
        """Within, operators are fewer; the FLOPs are the same."""
        chunk, self.model.class_chunk = self.model.class_chunk, 0
        try:
            yield
        finally:
            self.model.class_chunk = chunk


def _countable(cfg: CfgNode) -> CfgNode:
    """The configuration of a model that does the same work, whatever the numbers in its tensors, as it is written."""
    cfg = random_weights(cfg)
    cfg.MODEL.WEIGHTS = RANDOM
    cfg.MODEL.DEVICE, cfg.MODEL.PRECISION, cfg.MODEL.COMPILE = CPU, "fp32", ""
    cfg.MODEL.ESC.CLASS_CHUNK = classes_at_a_time(cfg.MODEL.ESC.CLASS_CHUNK, GPU)
    cfg.MODEL.ESC.KMEANS, cfg.MODEL.ESC.KEEP_SHARE = "torch", 0.0
    cfg.TEST.SLIDING.ENABLED = False
    return cfg


def _training_rows(number: int, targets: Tensor, classes: int) -> Tensor | None:
    """What `CorrelationModel.training_rows` gives for images that hold `PRESENT` classes, where it takes so many."""
    return None if number == classes else torch.arange(min(classes, max(number, PRESENT))).expand(len(targets), -1)


def _text_chunks(encoder: ClipTextEncoder, vocabulary: Vocabulary) -> list[tuple[Tensor, Tensor]]:
    """The tokens of each chunk of a vocabulary and the positions that are read, as the encoder puts them together."""
    chunks: list[tuple[Tensor, Tensor]] = []

    def note(tokens: Tensor, ends: Tensor) -> Tensor:
        chunks.append((tokens, ends))
        return torch.zeros(len(tokens), 1)

    reader: Any = SimpleNamespace(
        context_length=encoder.context_length,
        attn_mask=encoder.attn_mask,
        positional_embedding=torch.zeros(1),
        _pooled_positions=encoder._pooled_positions,
        _embed_chunk=note,
    )
    ClipTextEncoder.embed(reader, ClipTextEncoder.tokenize(encoder, vocabulary), TEXTS)
    return chunks
