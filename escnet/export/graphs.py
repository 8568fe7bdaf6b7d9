"""The graphs of a system: which parts it is cut into, and each as ONNX for images and vocabularies of any size."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from escnet.export.prompted_stages import (
    AskByClipHead,
    DrawByGuidedSam,
    DrawBySamHead,
    EncodeForBothHeads,
    EncodeForGuidedSam,
    RankForGuidedSam,
    SegmentByBothHeads,
    SegmentByGuidedSam,
    TraceablePromptEncoder,
)
from escnet.export.stages import (
    EncodeForClipHead,
    EncodeForCorrelation,
    RankByFirstPass,
    RankByMaps,
    SegmentByClipHead,
    SegmentByCorrelation,
)
from escnet.export.text import EmbedTexts
from escnet.meta_arch.clip_guided_sam import ClipGuidedSam
from escnet.meta_arch.esc_net import ESCNet
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.meta_arch.sam_clip import SamClip

# Of the image and the words with which graphs are traced; no graph depends on them.
_TRACED_IMAGE, _TRACED_WORDS, _TRACED_ASKED, _TRACED_TEXTS = (201, 303), 7, 4, 3
_HEIGHT, _WIDTH, _WORDS, _ASKED, _TEXTS = (
    torch.export.Dim(name, min=2) for name in ("height", "width", "words", "asked", "texts")
)
# Which sizes of the inputs are free, by their names.
_FREE = {
    "image": {0: _HEIGHT, 1: _WIDTH},
    "text": {0: _WORDS},
    "asked": {0: _ASKED},
    "masks": {0: _ASKED},
    "quality": {0: _ASKED},
    "empty": None,
    "tokens": {0: _TEXTS},
}


class NotExportableError(ValueError):
    """A system, or a setting of it, that has no graph; the message says which and what to do."""


class Part(NamedTuple):
    """A graph to be made.

    Attributes:
        module: what it computes: of features, where it takes any, and of what else it is given.
        features: those of the image that it is traced with.
        others: the other inputs, by name.
        outputs: their names.
    """

    module: nn.Module
    features: list[Tensor]
    others: dict[str, Tensor]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        """The names of all inputs, in order."""
        return [*_feature_names(self.features), *self.others]


class Graphs(NamedTuple):
    """A system cut into graphs.

    Attributes:
        parts: by name, as docs/export.md has them.
        choice: how words are narrowed between them, as `escnet.onnx_segmenter` reads it.
        empty: (D,) the feature of no word, which is then an input; None where it is none.
    """

    parts: dict[str, Part]
    choice: dict[str, float]
    empty: Tensor | None = None


def require_exportable(model: SegmentingModel) -> None:
    """See that a model has graphs.

    Raises:
        NotExportableError: it has none.
    """
    if not isinstance(model, ESCNet | SamClip | ClipGuidedSam):
        raise NotExportableError(
            f"{type(model).__name__} cannot be exported; ESC-Net, SAM-CLIP and CLIP-Guided SAM can"
        )
    if model.inference.sliding is not None:
        raise NotExportableError("sliding windows cannot be exported; set TEST.SLIDING.ENABLED False")
    if isinstance(model, ESCNet) and model.generator.kmeans != "torch":
        raise NotExportableError(f'MODEL.ESC.KMEANS "{model.generator.kmeans}" cannot be exported; set it to torch')


def prepare(model: SegmentingModel) -> None:
    """Let a model work on all classes at once, without gradients, by what can be traced; its results stay.

    A graph has no loop over classes.

    Raises:
        NotExportableError: it has no graphs; it is left as it was.
    """
    require_exportable(model)
    model.eval().requires_grad_(False)
    if isinstance(model, ESCNet):
        model.class_chunk = 0
    elif not isinstance(model.prompt_encoder, TraceablePromptEncoder):
        model.prompt_encoder = TraceablePromptEncoder(model.prompt_encoder)


@torch.no_grad()
def graphs_of(model: SegmentingModel, templates: tuple[str, ...]) -> Graphs:
    """The graphs of a model that `prepare` was given; each system has `encode`, `segment` and `text`.

    Args:
        model: the system.
        templates: of the words, by which CLIP-Guided SAM knows no word.
    """
    if isinstance(model, ESCNet):
        found = _correlating(model)
    elif isinstance(model, ClipGuidedSam):
        found = _guided(model, templates)
    else:
        found = _both_heads(model) if model.label_map == "both" else _clip_head(model)
    tokens = torch.ones(_TRACED_TEXTS, model.clip_text.context_length, dtype=torch.long)
    found.parts["text"] = Part(EmbedTexts(model.clip_text), [], {"tokens": tokens}, ("embedded",))
    return found


@torch.no_grad()
def trace(part: Part) -> torch.export.ExportedProgram:
    """A part as a program of torch.export, without the paths of the code that it was made of."""
    given, free = [*part.others.values()], [_FREE[name] for name in part.others]
    if part.features:
        given, free = [part.features, *given], [[None] * len(part.features), *free]
    # Run once, so that what modules remember of a grid is a constant of the graph.
    part.module(*given)
    program = torch.export.export(part.module, tuple(given), dynamic_shapes=tuple(free), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _correlating(model: ESCNet) -> Graphs:
    choice = model.choice
    encode, features = _encoding(EncodeForCorrelation(model))
    text = _words(features)
    parts = {
        "encode": encode,
        "segment": Part(SegmentByCorrelation(model), features, {"text": text}, ("logits", "shares")),
    }
    if choice.most > 0:
        parts["rank"] = Part(RankByMaps(model), features[:1], {"text": text}, ("shares",))
    if choice.keep > 0 and model.first_blocks > 0:
        parts["first"] = Part(RankByFirstPass(model), features, {"text": text}, ("shares",))
    narrowing = {"most": choice.most, "keep": choice.keep}
    return Graphs(parts, narrowing | {"keep_share": choice.keep_share, "keep_least": choice.keep_least})


def _clip_head(model: SamClip) -> Graphs:
    encode, features = _encoding(EncodeForClipHead(model))
    segment = Part(SegmentByClipHead(model), features, {"text": _words(features)}, ("logits",))
    return Graphs({"encode": encode, "segment": segment}, {})


def _both_heads(model: SamClip) -> Graphs:
    encode, features = _encoding(EncodeForBothHeads(model))
    text = _words(features)
    cells = features[0].shape[2] * features[0].shape[3]
    masked = _masked(text, features[1].shape[2:])
    parts = {
        "encode": encode,
        "ask": Part(AskByClipHead(model), features[:1], {"text": text}, ("shares",)),
        "draw": Part(
            DrawBySamHead(model, cells), features, {"text": text, "asked": masked["asked"]}, ("masks", "quality")
        ),
        "segment": Part(SegmentByBothHeads(model), features, masked, ("logits",)),
    }
    return Graphs(parts, {"ask_above": model.score, "draw_at_once": model.prompt_chunk})


def _guided(model: ClipGuidedSam, templates: tuple[str, ...]) -> Graphs:
    encode, features = _encoding(EncodeForGuidedSam(model))
    text = _words(features)
    masked = _masked(text, tuple(side // 4 for side in model.mask_size))
    empty = model.clip_text.encode_empty(templates) if model.subtracts_empty else None
    drawn_of = {"text": text, "asked": masked["asked"]} | ({} if empty is None else {"empty": empty})
    parts = {
        "encode": encode,
        "draw": Part(DrawByGuidedSam(model), features, drawn_of, ("masks", "quality")),
        "segment": Part(SegmentByGuidedSam(model), features, masked, ("logits",)),
    }
    if model.max_words > 0:
        parts["rank"] = Part(RankForGuidedSam(model), features[:1], {"text": text}, ("shares",))
    return Graphs(parts, {"most": model.max_words, "draw_at_once": model.word_chunk}, empty)


def _encoding(stage: nn.Module) -> tuple[Part, list[Tensor]]:
    """A part that encodes, and the features that it gives."""
    image = torch.zeros(*_TRACED_IMAGE, 3, dtype=torch.uint8)
    features = [feature.clone() for feature in stage(image)]
    return Part(stage, [], {"image": image}, _feature_names(features)), features


def _feature_names(features: list[Tensor]) -> tuple[str, ...]:
    return tuple(f"feature_{i}" for i in range(len(features)))


def _words(features: list[Tensor]) -> Tensor:
    return nn.functional.normalize(torch.randn(_TRACED_WORDS, features[0].shape[1]), dim=1)


def _masked(text: Tensor, grid: tuple[int, ...]) -> dict[str, Tensor]:
    """Words, some of which have masks on a grid four times as fine."""
    return {
        "text": text,
        "asked": torch.arange(_TRACED_ASKED),
        "masks": torch.randn(_TRACED_ASKED, *(4 * side for side in grid)),
        "quality": torch.rand(_TRACED_ASKED),
    }
