"""What a model costs: parameters and FLOPs, part by part. One multiply-add is one FLOP, as fvcore counts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from escnet.meta_arch.interfaces import SegmentingModel
from escnet.vocabulary import Vocabulary

REST = "the rest"


@dataclass(frozen=True)
class PartInfo:
    """The size and the cost of a part of a model: numbers of parameters, and multiply-adds for one image."""

    name: str
    parameters: int
    trainable: int
    flops: float


@dataclass(frozen=True)
class ModelFlops:
    """The cost of one image and one vocabulary, in multiply-adds.

    Attributes:
        by_module: by the name of the module; "" is the whole model.
        by_operator: by the kind of operator.
        uncounted: operators that are not counted, the most frequent first.
    """

    by_module: dict[str, float]
    by_operator: Counter[str]
    uncounted: list[str]


class EmbedVocabulary(nn.Module):
    """A text encoder with its vocabulary given: a module of a tensor, which is what fvcore can trace."""

    def __init__(self, encoder: nn.Module, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.encoder = encoder
        self.vocabulary = vocabulary

    def forward(self, images: Tensor) -> Tensor:
        """The text features (N, D); the images do not matter."""
        return self.encoder(self.vocabulary)


class GivenText(nn.Module):
    """Stands in for a text encoder that has the vocabulary in its cache."""

    def __init__(self, features: Tensor, empty: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.register_buffer("empty", empty)

    def encode(self, vocabulary: Vocabulary) -> Tensor:
        """The features that were given."""
        return self.features

    def encode_empty(self, templates: Sequence[str]) -> Tensor:
        """The feature of templates without a word that was given."""
        return self.empty


class Replay(nn.Module):
    """Stands in for a module that cannot be traced, with what that has answered."""

    def __init__(self, answers: Sequence[Any]) -> None:
        super().__init__()
        self.answers = iter(answers)

    def forward(self, *inputs: Any) -> Any:
        """The next of the answers."""
        return next(self.answers)


class SegmentImage(nn.Module):
    """A model with its vocabulary given."""

    def __init__(self, model: SegmentingModel, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = vocabulary

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, R1, R2) raw pixels to logits."""
        return self.model.segment(self.model.encode(images), self.vocabulary).logits


def count(model: nn.Module, *inputs: Tensor) -> FlopCountAnalysis:
    """fvcore's analysis with the operators that fvcore does not know; one multiply-add is one FLOP."""
    analysis = FlopCountAnalysis(model, inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.set_op_handle("aten::baddbmm", _baddbmm_flops)
    analysis.set_op_handle("aten::matmul", _matmul_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    # The fused fast path of nn.MultiheadAttention would hide its products in one operator.
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            analysis.total()
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)
    return analysis


def count_model(model: SegmentingModel, vocabulary: Vocabulary, images: Tensor) -> ModelFlops:
    """Count the text encoder, then the segmentation of raw images (B, 3, R1, R2) with its result."""
    encoder = getattr(model, model.text_encoder)
    text = count(EmbedVocabulary(encoder, vocabulary), images)
    stand_ins = {name: Replay(answers) for name, answers in _answers(model, vocabulary, images).items()}
    stand_ins[model.text_encoder] = GivenText(encoder.encode(vocabulary), encoder.encode_empty(vocabulary.templates))
    originals = {name: getattr(model, name) for name in stand_ins}
    try:
        for name, stand_in in stand_ins.items():
            setattr(model, name, stand_in)
        image = count(SegmentImage(model, vocabulary), images)
    finally:
        for name, original in originals.items():
            setattr(model, name, original)
    by_module = {name.removeprefix("model."): flops for name, flops in image.by_module().items() if name != "model"}
    by_module |= {model.text_encoder: text.total(), "": image.total() + text.total()}
    unsupported = text.unsupported_ops() + image.unsupported_ops()
    uncounted = [name.removeprefix("aten::") for name, _ in unsupported.most_common()]
    return ModelFlops(by_module, text.by_operator() + image.by_operator(), uncounted)


@torch.no_grad()
def _answers(model: SegmentingModel, vocabulary: Vocabulary, images: Tensor) -> dict[str, list[Any]]:
    """What the modules of `untraceable` answer, call by call, while images are segmented."""
    answers: dict[str, list[Any]] = {name: [] for name in model.untraceable}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: answers[name].append(output))
        for name in answers
    ]
    try:
        SegmentImage(model, vocabulary)(images)
    finally:
        for handle in handles:
            handle.remove()
    return answers


def describe(model: SegmentingModel, flops_by_module: dict[str, float]) -> list[PartInfo]:
    """The parts that a model has; "the rest" is what belongs to none, so the sum is that of the model."""
    infos = []
    for part, pattern in model.cost_parts.items():
        names = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
        if names:
            parameters = [p for name in names for p in model.get_submodule(name).parameters()]
            flops = sum(flops_by_module[name] for name in names)
            infos.append(PartInfo(part, _numel(parameters), _numel(p for p in parameters if p.requires_grad), flops))
    whole = whole_model(model, flops_by_module)
    infos.append(
        PartInfo(
            REST,
            whole.parameters - sum(i.parameters for i in infos),
            whole.trainable - sum(i.trainable for i in infos),
            whole.flops - sum(i.flops for i in infos),
        )
    )
    return infos


def whole_model(model: nn.Module, flops_by_module: dict[str, float]) -> PartInfo:
    """The sum over the model; a parameter that parts share counts once."""
    parameters = list(model.parameters())
    return PartInfo("total", _numel(parameters), _numel(p for p in parameters if p.requires_grad), flops_by_module[""])


def _numel(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Scores and weighted sum of softmax(q·kᵀ)·v, with q (..., L, E), k (..., S, E) and v (..., S, F)."""
    query, key, value = (get_shape(i) for i in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _baddbmm_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """(M, n, k) @ (M, k, m), the addition included as fvcore does for addmm."""
    left, right = (get_shape(i) for i in inputs[1:3])
    return math.prod(left) * right[-1]


def _matmul_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of matrices and vectors, also where one of them stands for a whole batch: fvcore knows matrices alone."""
    return math.prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1]
