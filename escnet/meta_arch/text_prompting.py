"""How SAM's decoder is asked for a word alone: by points and a mask prompt read off the word's similarity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.layers.similarity_prompts import SimilarityPrompter
from escnet.meta_arch.interfaces import MaskPrediction, Prompts
from escnet.meta_arch.sam import DrawsMasks, predict_masks

# What says that a word is there.
PRESENCE = ("quality", "clip", "inside")
# Nearer to 0 or 1 a mean of masks has no finite logit.
_EPSILON = 1e-6


@dataclass(frozen=True)
class TextPrompting:
    """How prompts are made of a word, and how it is judged whether the word is there (CLIP-Guided SAM, sec. 3).

    Attributes:
        prompter: reads points and a region off the similarity.
        mask_levels: the mask prompt's logits outside and inside the region; None: there is no mask prompt.
        seed: of the points in use; training draws others at each step.
        draws: how many times they are drawn in use; the masks are averaged.
        presence: of `PRESENCE`, what is multiplied to say how surely a word is there. "quality" is the IoU that the
            decoder expects of its mask, which is low for an absent word only if it was trained on absent ones; "clip"
            CLIP's probability of the word for the whole image, over all words; "inside" its mean inside the mask.

    Raises:
        ValueError: for levels that are none, or unknown kinds of presence.
    """

    prompter: SimilarityPrompter = field(default_factory=SimilarityPrompter)
    mask_levels: tuple[float, float] | None = (0.0, 255.0)
    seed: int = 0
    draws: int = 1
    presence: tuple[str, ...] = ("inside",)

    def __post_init__(self) -> None:
        levels = self.mask_levels
        if levels is not None and (len(levels) != 2 or not levels[0] < levels[1]):
            raise ValueError(
                f"MODEL.GUIDED.MASK_LEVELS is {tuple(levels)}; it has to be two logits, outside the mask and inside, "
                "the second one higher, such as (0.0, 255.0)"
            )
        if not self.presence or any(kind not in PRESENCE for kind in self.presence):
            raise ValueError(
                f"MODEL.GUIDED.PRESENCE is {tuple(self.presence)!r}; it has to be one or more of {', '.join(PRESENCE)}"
            )

    def presence_of(self, scores: Mapping[str, Tensor]) -> Tensor:
        """(P,) how surely words are there, from the score (P,) of each kind."""
        return prod(scores[kind].clamp(0, 1) for kind in self.presence)

    def random_numbers(self, words: int, is_training: bool) -> Tensor:
        """Which points are drawn: while training (1, P, K), new for each word; else (draws, K), always the same."""
        if is_training:
            return torch.rand(1, words, self.prompter.points)
        return torch.rand(self.draws, self.prompter.points, generator=torch.Generator().manual_seed(self.seed))

    def mask_prompt(self, region: Tensor) -> Tensor | None:
        """(P, H, W) bool to the logits (P, 1, H, W) of a mask prompt."""
        if self.mask_levels is None:
            return None
        outside, inside = self.mask_levels
        return outside + (inside - outside) * region[:, None].float()

    def hint(self, similarity: Tensor, size: tuple[int, int]) -> Tensor | None:
        """The mask prompt (P, 1, H, W) of words by their similarity (P, h, w)."""
        if self.mask_levels is None:
            return None
        return self.mask_prompt(self.prompter(similarity, size, similarity.new_zeros(1)).region)

    def shown(self, similarity: Tensor) -> PseudoPrompts:
        """The prompts of words by their similarities (B, N, h, w), on the grid of these, as they are drawn."""
        numbers = self.random_numbers(0, False)[0]
        found = self.prompter(similarity.flatten(0, 1), tuple(similarity.shape[-2:]), numbers)
        shape = similarity.shape[:2]
        corners = [edges.unflatten(0, shape) for edges in _edges(found.region)]
        points = found.points.cells.unflatten(0, shape)
        return PseudoPrompts(
            points=points,
            labels=found.points.labels.long().unflatten(0, shape),
            boxes=torch.stack(corners, dim=-1)[:, :, None].expand(*points.shape[:3], 4).to(points.dtype),
            assignment=found.region.long().sub(1).unflatten(0, shape),
            probability=similarity,
        )

    def ask(
        self,
        sam: DrawsMasks,
        embedding: Tensor,
        similarity: Tensor,
        side: int,
        random_numbers: Tensor,
        multimask: bool = False,
    ) -> MaskPrediction:
        """The masks of P words.

        Args:
            sam: has SAM's prompt encoder and mask decoder.
            embedding: (P, C, h, w) image features of each word, or (1, C, h, w) for all.
            similarity: (P, h', w').
            side: of the model's square input, in pixels.
            random_numbers: (draws, K) or (draws, P, K) in 0..1; the masks of several draws are averaged.
            multimask: three masks each, or one.
        """
        answers = [self._ask(sam, embedding, similarity, side, numbers, multimask) for numbers in random_numbers]
        if len(answers) == 1:
            return answers[0]
        mean = torch.stack([answer.logits.sigmoid() for answer in answers]).mean(dim=0)
        quality = torch.stack([answer.quality for answer in answers]).mean(dim=0)
        return MaskPrediction(mean.logit(eps=_EPSILON), quality)

    def _ask(
        self, sam: DrawsMasks, embedding: Tensor, similarity: Tensor, side: int, numbers: Tensor, multimask: bool
    ) -> MaskPrediction:
        size = tuple(4 * cells for cells in embedding.shape[-2:])
        found = self.prompter(similarity, size, numbers)
        # From the middle of a cell to a pixel's index, to whose middle SAM adds the half again.
        points = (found.points.cells + 0.5) * (side / size[0]) - 0.5
        prompts = Prompts(points, found.points.labels, masks=self.mask_prompt(found.region))
        return predict_masks(sam, embedding, prompts, multimask, (side, side))


def _edges(region: Tensor) -> tuple[Tensor, ...]:
    """First and last column and row (P,) of regions (P, H, W), as x0, y0, x1, y1; 0 of an empty one."""
    columns, rows = region.any(dim=1).long(), region.any(dim=2).long()
    last = [(x * torch.arange(x.shape[1], device=x.device)).amax(dim=1) for x in (columns, rows)]
    return columns.argmax(dim=1), rows.argmax(dim=1), *last
