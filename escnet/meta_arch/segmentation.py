"""What a model says of images, and how that becomes a label map at image size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.meta_arch.label_map import label_map
from escnet.vocabulary import Vocabulary


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a batch of images, before they are brought to image size.

    Images of a batch may keep different numbers of rows of the vocabulary. Those that keep fewer than M are padded at
    the end, and what stands in the padding means nothing; `of_image` leaves it out.

    Attributes:
        logits: (B, M, H', W'), one map for each row of the vocabulary that was considered.
        rows: (B, M) those rows, or None when all were considered in order.
        correlations: for drawing: (B, M, h, w) each, CLIP's correlation maps, then those after each block.
        prompts: for drawing: the pseudo prompts of each block.
        first_rows: (B, M1) the rows that a first pass looked at, which chose `rows` among them; None without one.
        kept: of B images how many of the M rows are real, the first ones; None for all M.
        map_rows: (B, M') the rows that correlations and prompts belong to, -1 in the padding, where these are not
            `rows`, as with sliding windows; else None.

    Raises:
        ValueError: when rows are padded, but nothing says which they are.
    """

    logits: Tensor
    rows: Tensor | None = None
    correlations: list[Tensor] = field(default_factory=list)
    prompts: list[PseudoPrompts] = field(default_factory=list)
    first_rows: Tensor | None = None
    kept: tuple[int, ...] | None = None
    map_rows: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kept is not None and self.rows is None:
            raise ValueError("`kept` says how many of `rows` are real, and there are no `rows`; give both")

    @property
    def padding(self) -> Tensor | None:
        """(B, M) bool: which rows are padding; None where there is none."""
        if self.kept is None:
            return None
        places = torch.arange(self.logits.shape[1], device=self.logits.device)
        return places >= torch.tensor(self.kept, device=places.device)[:, None]

    def of_image(self, index: int) -> Segmentation:
        """One image of the batch with its real rows alone: what it would be without the others.

        Raises:
            IndexError: when the batch has no such image.
        """
        if not 0 <= index < len(self.logits):
            raise IndexError(f"there is no image {index} in a batch of {len(self.logits)}")
        image = slice(index, index + 1)
        real = slice(None if self.kept is None else self.kept[index])
        drawn = real if self.map_rows is None else slice(int((self.map_rows[index] >= 0).sum()))
        return Segmentation(
            logits=self.logits[image, real],
            rows=None if self.rows is None else self.rows[image, real],
            correlations=[maps[image, drawn] for maps in self.correlations],
            prompts=[PseudoPrompts(*(getattr(p, f.name)[image, drawn] for f in fields(p))) for p in self.prompts],
            first_rows=None if self.first_rows is None else self.first_rows[image],
            map_rows=None if self.map_rows is None else self.map_rows[image, drawn],
        )

    def row_probabilities(self, rows: int) -> Tensor:
        """(B, rows, H', W') softmax over the rows of the vocabulary; zero for those that were not considered."""
        logits, padding = self.logits.float(), self.padding
        if padding is not None:
            logits = logits.masked_fill(padding[:, :, None, None], -torch.inf)
        probability = logits.softmax(dim=1)
        if self.rows is None:
            return probability
        full = probability.new_zeros(probability.shape[0], rows, *probability.shape[2:])
        # Padding may name a row that is there already, to which its zeros are added.
        index = self.rows.clamp(min=0)[:, :, None, None].expand_as(probability)
        return full.scatter_add_(1, index, probability)

    def at_image_size(self, vocabulary: Vocabulary, size: tuple[int, int], full_scores: bool = False) -> dict[str, Any]:
        """A single image at its size.

        Args:
            vocabulary: the words that it was segmented by.
            size: (H, W).
            full_scores: also give the probability of every class.

        Returns:
            `labels` (H, W) int64 index into `vocabulary.class_names`, `scores` (H, W) its probability,
            `words_considered`, how many rows of the vocabulary competed for the pixels in the end, and, with
            `full_scores`, `sem_seg` (N, H, W) probabilities.

        Raises:
            ValueError: for several images.
        """
        if len(self.logits) != 1:
            raise ValueError(f"a batch of {len(self.logits)} images has no single size; take one with of_image(i)")
        if self.kept is not None:
            return self.of_image(0).at_image_size(vocabulary, size, full_scores)
        logits = self.logits[0].float()
        row_to_class = torch.tensor(vocabulary.row_to_class, device=logits.device)
        to_class = row_to_class if self.rows is None else row_to_class[self.rows[0]]
        labels, scores = label_map(logits, size)
        result = {"labels": to_class[labels], "scores": scores, "words_considered": len(logits)}
        if full_scores:
            probability = F.interpolate(logits[None].softmax(dim=1), size, mode="bilinear", align_corners=False)[0]
            full = probability.new_zeros(vocabulary.num_classes, *size)
            # Rows of the background compete one by one, so the best of them speaks for it.
            index = to_class[:, None, None].expand_as(probability)
            result["sem_seg"] = full.scatter_reduce_(0, index, probability, "amax")
        return result


def join_images(images: Sequence[Segmentation]) -> Segmentation:
    """A batch of single images, in their order; those with fewer rows, or with maps of fewer, are padded."""
    first, counts = images[0], [image.logits.shape[1] for image in images]
    return Segmentation(
        logits=_padded([image.logits for image in images]),
        rows=None if first.rows is None else _padded([image.rows for image in images]),
        correlations=[_padded(maps) for maps in zip(*(image.correlations for image in images), strict=True)],
        prompts=[
            PseudoPrompts(*(_padded([getattr(p, f.name) for p in block]) for f in fields(PseudoPrompts)))
            for block in zip(*(image.prompts for image in images), strict=True)
        ],
        first_rows=None if first.first_rows is None else _padded([image.first_rows for image in images]),
        kept=tuple(counts) if len(set(counts)) > 1 else None,
        map_rows=None if first.map_rows is None else _padded([image.map_rows for image in images], -1),
    )


def _padded(images: Sequence[Tensor], value: int = 0) -> Tensor:
    """(1, M_i, ...) of each image to (B, M, ...), M being the largest."""
    most = max(image.shape[1] for image in images)
    missing = [(0, 0) * (image.dim() - 2) + (0, most - image.shape[1]) for image in images]
    return torch.cat([F.pad(image, pad, value=value) for image, pad in zip(images, missing, strict=True)])
