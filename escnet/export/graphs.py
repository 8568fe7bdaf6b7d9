"""The graphs of a system: which parts it is cut into, and each as ONNX for images and vocabularies of any size."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from escnet.export.operators import TRANSLATIONS
from escnet.export.stages import (
    EncodeForClipHead,
    EncodeForCorrelation,
    RankByFirstPass,
    RankByMaps,
    SegmentByClipHead,
    SegmentByCorrelation,
)
from escnet.export.text import EmbedTexts
from escnet.meta_arch.correlation_model import CorrelationModel
from escnet.meta_arch.esc_net import ESCNet
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.meta_arch.sam_clip import SamClip

# Of the image and the words with which graphs are traced; no graph depends on them.
_TRACED_IMAGE, _TRACED_WORDS, _TRACED_TEXTS = (201, 303), 7, 3


class NotExportableError(ValueError):
    """A system, or a setting of it, that has no graph; the message says which and what to do."""


class Part(NamedTuple):
    """A graph to be made.

    Attributes:
        module: what it computes.
        arguments: those it is traced with.
        free: which sizes of them are free, as torch.export's `dynamic_shapes`.
    """

    module: nn.Module
    arguments: tuple[Any, ...]
    free: tuple[Any, ...]


def require_exportable(model: SegmentingModel) -> None:
    """See that a model has graphs.

    Raises:
        NotExportableError: it has none.
    """
    if not isinstance(model, ESCNet | SamClip):
        raise NotExportableError(f"{type(model).__name__} cannot be exported; ESC-Net and SAM-CLIP can")
    if model.inference.sliding is not None:
        raise NotExportableError("sliding windows cannot be exported; set TEST.SLIDING.ENABLED False")
    if isinstance(model, SamClip) and model.label_map != "clip":
        raise NotExportableError(
            f'SAM-CLIP with MODEL.SAM_CLIP.LABEL_MAP "{model.label_map}" cannot be exported; set it to clip'
        )
    if isinstance(model, ESCNet) and model.generator.kmeans != "torch":
        raise NotExportableError(f'MODEL.ESC.KMEANS "{model.generator.kmeans}" cannot be exported; set it to torch')


@torch.no_grad()
def parts_of(model: SegmentingModel) -> dict[str, Part]:
    """The graphs of a model by name: `encode`, `segment`, `text`, and where it narrows its words `rank` and `first`."""
    require_exportable(model)
    image = torch.zeros(*_TRACED_IMAGE, 3, dtype=torch.uint8)
    sides = {0: torch.export.Dim("height", min=2), 1: torch.export.Dim("width", min=2)}
    words = {0: torch.export.Dim("words", min=2)}
    is_correlating = isinstance(model, CorrelationModel)
    encode = (EncodeForCorrelation if is_correlating else EncodeForClipHead)(model)
    # Run once, so that what modules remember of a grid is a constant of the graph.
    features = [feature.clone() for feature in encode(image)]
    text = nn.functional.normalize(torch.randn(_TRACED_WORDS, features[0].shape[1]), dim=1)
    segment = (SegmentByCorrelation if is_correlating else SegmentByClipHead)(model)
    segment(features, text)
    pass_free = ([None] * len(features), words)
    tokens = torch.ones(_TRACED_TEXTS, model.clip_text.context_length, dtype=torch.long)
    parts = {
        "encode": Part(encode, (image,), (sides,)),
        "segment": Part(segment, (features, text), pass_free),
        "text": Part(EmbedTexts(model.clip_text), (tokens,), ({0: torch.export.Dim("texts", min=2)},)),
    }
    if is_correlating and model.choice.most > 0:
        parts["rank"] = Part(RankByMaps(model), (features[0], text), (None, words))
    if is_correlating and model.choice.keep > 0 and model.first_blocks > 0:
        parts["first"] = Part(RankByFirstPass(model), (features, text), pass_free)
    return parts


@torch.no_grad()
def trace(part: Part) -> torch.export.ExportedProgram:
    """A part as a program of torch.export."""
    return torch.export.export(part.module, part.arguments, dynamic_shapes=part.free, strict=False)


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """A program as an ONNX file, of the operator set that torch.onnx chooses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.onnx, about its own future
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        found = torch.onnx.export(program, dynamo=True, verbose=False, custom_translation_table=TRANSLATIONS)
    found.save(str(path))


def without_chunks(model: SegmentingModel) -> None:
    """Let a model work on all classes at once, and without gradients: a graph has no loop over classes."""
    model.eval().requires_grad_(False)
    if isinstance(model, ESCNet):
        model.class_chunk = 0
