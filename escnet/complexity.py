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

from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.meta_arch.base import OpenVocabularyModel
from escnet.vocabulary import Vocabulary

# Part -> pattern of the names of the modules that it consists of.
PARTS = {
    "CLIP image encoder": r"clip_image",
    "CLIP text encoder": r"clip_text",
    "SAM image encoder": r"sam\.image_encoder",
    "SAM prompt encoder": r"(sam\.)?prompt_encoder",
    "SAM mask decoder": r"sam\.mask_decoder",
    "SAM blocks": r"blocks\.\d+\.sam_block",
    "projection, unification": r"blocks\.\d+\.(project|unify)",
    "fusion: Swin": r"blocks\.\d+\.fusion\.swin",
    "fusion: class attention": r"blocks\.\d+\.fusion\.class_attention",
    "decoder": r"decoder",
}
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
    """The text encoder with its vocabulary given: a module of a tensor, which is what fvcore can trace."""

    def __init__(self, encoder: ClipTextEncoder, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.encoder = encoder
        self.vocabulary = vocabulary

    def forward(self, images: Tensor) -> Tensor:
        """The text features (N, D); the images do not matter."""
        return self.encoder(self.vocabulary)


class GivenText(nn.Module):
    """Stands in for a text encoder that has the vocabulary in its cache."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)

    def encode(self, vocabulary: Vocabulary) -> Tensor:
        """The features that were given."""
        return self.features


class GivenPrompts(nn.Module):
    """Stands in for a prompt generator with what that has answered: k-means cannot be traced."""

    def __init__(self, answers: Sequence[PseudoPrompts]) -> None:
        super().__init__()
        self.answers = iter(answers)

    def forward(self, correlation: Tensor, logit_scale: Tensor) -> PseudoPrompts:
        """The next of the answers."""
        return next(self.answers)


class SegmentImage(nn.Module):
    """A model with its vocabulary given."""

    def __init__(self, model: OpenVocabularyModel, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = vocabulary

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, R1, R2) normalised images to logits."""
        return self.model.segment(images, self.vocabulary).logits


def count(model: nn.Module, *inputs: Tensor) -> FlopCountAnalysis:
    """fvcore's analysis with the operators that fvcore does not know; one multiply-add is one FLOP."""
    analysis = FlopCountAnalysis(model, inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.set_op_handle("aten::baddbmm", _baddbmm_flops)
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


def count_model(model: OpenVocabularyModel, vocabulary: Vocabulary, images: Tensor) -> ModelFlops:
    """Count the text encoder, then the segmentation of images (B, 3, R1, R2) with its result."""
    text = count(EmbedVocabulary(model.clip_text, vocabulary), images)
    with torch.no_grad():
        prompts = model.segment(images, vocabulary).prompts
    stand_ins = {"clip_text": GivenText(model.clip_text.encode(vocabulary)), "generator": GivenPrompts(prompts)}
    originals = {name: getattr(model, name) for name in stand_ins if hasattr(model, name)}
    try:
        for name in originals:
            setattr(model, name, stand_ins[name])
        image = count(SegmentImage(model, vocabulary), images)
    finally:
        for name, original in originals.items():
            setattr(model, name, original)
    by_module = {name.removeprefix("model."): flops for name, flops in image.by_module().items() if name != "model"}
    by_module |= {"clip_text": text.total(), "": image.total() + text.total()}
    unsupported = text.unsupported_ops() + image.unsupported_ops()
    uncounted = [name.removeprefix("aten::") for name, _ in unsupported.most_common()]
    return ModelFlops(by_module, text.by_operator() + image.by_operator(), uncounted)


def describe(model: OpenVocabularyModel, flops_by_module: dict[str, float]) -> list[PartInfo]:
    """The parts that a model has; "the rest" is what belongs to none, so the sum is that of the model."""
    infos = []
    for part, pattern in PARTS.items():
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
