"""What every system of the house shares: Detectron2's inputs in, label maps out, for any vocabulary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.meta_arch.label_map import label_map
from escnet.vocabulary import Vocabulary

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class SlidingWindow:
    """Windows over an image resized to `size`, averaged with one whole-image pass; (height, width) each."""

    size: tuple[int, int] = (640, 640)
    window: tuple[int, int] = (384, 384)
    overlap: float = 1.0 / 3.0


@dataclass(frozen=True)
class InferenceOptions:
    """How a model is run on images.

    Attributes:
        image_size: (height, width) to which an image is resized.
        sliding: windows, or None for one whole-image pass.
        precision: fp32, bf16 or fp16.
        full_scores: also return the (N, H, W) probabilities.
    """

    image_size: tuple[int, int]
    sliding: SlidingWindow | None = None
    precision: str = "fp32"
    full_scores: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"MODEL.PRECISION must be one of {tuple(PRECISIONS)}, got {self.precision!r}")

    @classmethod
    def from_config(cls, cfg: Any) -> InferenceOptions:
        sliding = cfg.TEST.SLIDING
        return cls(
            image_size=tuple(cfg.MODEL.CLIP.IMAGE_SIZE),
            sliding=SlidingWindow(tuple(sliding.SIZE), tuple(sliding.WINDOW), sliding.OVERLAP)
            if sliding.ENABLED
            else None,
            precision=cfg.MODEL.PRECISION,
            full_scores=cfg.TEST.FULL_SCORES,
        )


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a batch of images, before it is brought to image size.

    Attributes:
        logits: (B, M, 4h, 4w), one map for each row of the vocabulary that was considered.
        rows: (B, M) those rows, or None when all were considered in order.
        correlations: correlation maps (B, M, h, w): CLIP's own, then after each block.
        prompts: the pseudo prompts of each block.
    """

    logits: Tensor
    rows: Tensor | None = None
    correlations: list[Tensor] = field(default_factory=list)
    prompts: list[PseudoPrompts] = field(default_factory=list)


class OpenVocabularyModel(nn.Module, ABC):
    """A segmentation model to which the vocabulary is given with each call.

    Detectron2's convention: `forward(batched_inputs)`, each a dict with `image` (3, H, W) in 0..255, RGB; `vocabulary`
    (or once for all, as an argument); `height` and `width` of the wanted output; `sem_seg` (H, W) while training.
    """

    def __init__(self, inference: InferenceOptions) -> None:
        super().__init__()
        self.inference = inference
        # open_clip's constants are for pixels in 0..1.
        for name, values in (("pixel_mean", OPENAI_DATASET_MEAN), ("pixel_std", OPENAI_DATASET_STD)):
            self.register_buffer(name, 255 * torch.tensor(values).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @abstractmethod
    def segment(self, images: Tensor, vocabulary: Vocabulary) -> Segmentation:
        """Segment images of the model's size, normalised, (B, 3, R1, R2)."""

    def losses(self, images: Tensor, targets: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
        """Training losses; `targets` (B, H, W) int64, -1 where ignored."""
        raise TypeError(f"{type(self).__name__} has nothing to train; use it with --eval-only")

    def forward(
        self, batched_inputs: list[dict[str, Any]], vocabulary: Vocabulary | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses while training, else for each input a dict with

        `labels` (H, W) int64 index into `vocabulary.class_names`, `scores` (H, W) its probability and, with
        `full_scores`, `sem_seg` (N, H, W) probabilities.

        Raises:
            ValueError: when the inputs name no vocabulary, or more than one.
        """
        vocabulary = vocabulary or common_vocabulary(batched_inputs)
        if self.training:
            images = torch.stack([x["image"].to(self.device) for x in batched_inputs])
            targets = torch.stack([x["sem_seg"].to(self.device) for x in batched_inputs])
            with self.autocast():
                return self.losses(self.normalise(images, self.inference.image_size), targets, vocabulary)
        outputs = []
        for x in batched_inputs:
            size = (x.get("height", x["image"].shape[1]), x.get("width", x["image"].shape[2]))
            outputs.append(self.output(self.segment_image(x["image"], vocabulary), vocabulary, size))
        return outputs

    def autocast(self) -> torch.autocast:
        """The precision in which the forward pass is run."""
        dtype = PRECISIONS[self.inference.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def normalise(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) pixels in 0..255 to the (B, 3, *size) that CLIP expects."""
        images = images.to(self.device, torch.float)
        if images.shape[-2:] != tuple(size):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return (images - self.pixel_mean) / self.pixel_std

    @torch.no_grad()
    def segment_image(self, image: Tensor, vocabulary: Vocabulary) -> Segmentation:
        """Segment one image (3, H, W), whole or by sliding windows as configured."""
        with self.autocast():
            whole = self.segment(self.normalise(image[None], self.inference.image_size), vocabulary)
            if self.inference.sliding is None:
                return whole
            return self._slide(image, whole, vocabulary)

    def _slide(self, image: Tensor, whole: Segmentation, vocabulary: Vocabulary) -> Segmentation:
        """Average the probabilities of the windows with those of the whole image, on the grid of the logits."""
        sliding = self.inference.sliding
        image = self.normalise(image[None], sliding.size)
        rows = len(vocabulary.rows)
        total, count = None, None
        for top in window_starts(sliding.size[0], sliding.window[0], sliding.overlap):
            for left in window_starts(sliding.size[1], sliding.window[1], sliding.overlap):
                window = image[:, :, top : top + sliding.window[0], left : left + sliding.window[1]]
                part = row_probabilities(self.segment(window, vocabulary), rows)
                if total is None:
                    # Cells of the logits for each pixel; windows start on whole cells.
                    cells = [part.shape[2] / sliding.window[0], part.shape[3] / sliding.window[1]]
                    shape = [round(side * cell) for side, cell in zip(sliding.size, cells, strict=True)]
                    total = part.new_zeros(1, rows, *shape)
                    count = part.new_zeros(1, 1, *shape)
                y, x = round(top * cells[0]), round(left * cells[1])
                total[:, :, y : y + part.shape[2], x : x + part.shape[3]] += part
                count[:, :, y : y + part.shape[2], x : x + part.shape[3]] += 1
        average = total / count
        resized = F.interpolate(row_probabilities(whole, rows), average.shape[-2:], mode="bilinear")
        logits = ((average + resized) / 2).clamp(min=torch.finfo(torch.float).tiny).log()
        return Segmentation(logits, None, whole.correlations, whole.prompts)

    def output(self, segmentation: Segmentation, vocabulary: Vocabulary, size: tuple[int, int]) -> dict[str, Any]:
        """Bring the first image of a segmentation to (H, W); see `forward`."""
        logits = segmentation.logits[0].float()
        row_to_class = torch.tensor(vocabulary.row_to_class, device=logits.device)
        to_class = row_to_class if segmentation.rows is None else row_to_class[segmentation.rows[0]]
        labels, scores = label_map(logits, size)
        result = {"labels": to_class[labels], "scores": scores}
        if self.inference.full_scores:
            probability = F.interpolate(logits[None].softmax(dim=1), size, mode="bilinear", align_corners=False)[0]
            full = probability.new_zeros(vocabulary.num_classes, *size)
            # Rows of the background compete one by one, so the best of them speaks for it.
            result["sem_seg"] = full.index_reduce_(0, to_class, probability, "amax")
        return result


def common_vocabulary(batched_inputs: list[dict[str, Any]]) -> Vocabulary:
    """The one vocabulary of a batch.

    Raises:
        ValueError: when an input has none, or two differ.
    """
    vocabularies = {x.get("vocabulary") for x in batched_inputs}
    if None in vocabularies:
        raise ValueError("no vocabulary: give one to forward(), or to each input under 'vocabulary'")
    if len(vocabularies) > 1:
        raise ValueError("the inputs of one batch have different vocabularies; run them apart")
    return vocabularies.pop()


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along a side of `size` pixels: `overlap` is the least share that neighbours have in common.

    Raises:
        ValueError: when the window does not fit.
    """
    if window > size:
        raise ValueError(f"TEST.SLIDING.WINDOW ({window}) is larger than TEST.SLIDING.SIZE ({size})")
    count = 1 + -(-(size - window) // max(1, int(window * (1 - overlap))))
    if count == 1:
        return [0]
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def row_probabilities(segmentation: Segmentation, rows: int) -> Tensor:
    """(B, rows, 4h, 4w) softmax over the rows; zero for rows that were not considered."""
    probability = segmentation.logits.float().softmax(dim=1)
    if segmentation.rows is None:
        return probability
    full = probability.new_zeros(probability.shape[0], rows, *probability.shape[2:])
    index = segmentation.rows[:, :, None, None].expand_as(probability)
    return full.scatter_(1, index, probability)
