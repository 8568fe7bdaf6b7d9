"""SAM as a teacher of a merged model (SAM-CLIP, sec. 3.2 and A)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.data.shards.accounting import SampleCount
from escnet.data.shards.batches import MaskBatch
from escnet.data.simulated_prompts import shrink_masks
from escnet.losses.distillation import mask_distillation_loss
from escnet.meta_arch.interfaces import MaskPrediction, Prompts, resize
from escnet.meta_arch.sam import PromptableSam, predict_masks
from escnet.training.tasks.distillation import Teacher
from escnet.training.tasks.promptable import Prompting, simulate_prompts
from escnet.training.teachers.feature_loss import FeatureLoss, cells, on_one_grid, prepare_together

# Of which the spread of its features is told well enough; 64 images at 1024 pixels.
_STATISTICS_CELLS = 1 << 18


class SizedMasks(NamedTuple):
    """Images with masks, and the side to which the student's copy of them is brought."""

    batch: MaskBatch
    size: int


@dataclass
class SamTeacher(Teacher):
    """Teaches masks: focal and Dice loss against its own answers to the same prompts (L_SAM).

    With a `balance`, it teaches its image embedding instead, and no prompt is asked.

    Attributes:
        stream: called with the iteration to start from, gives batches of images with masks, of the teacher's size.
        sam: the teacher.
        count: of the samples that were broken.
        sizes: of the student's images, of which each iteration draws one.
        seed: of these draws.
        prompting: how prompts are drawn, and the weight of the focal loss.
        quality: weight of the squared error of the expected IoU. Not in the paper.
        balance, micro_batch, statistics_images, weight, order: as of `ClipTeacher`; the spread is taken of fewer images
            where these have `_STATISTICS_CELLS` cells.
    """

    stream: Callable[[int], Iterator[MaskBatch]]
    sam: PromptableSam
    count: SampleCount
    sizes: tuple[int, ...]
    seed: int
    prompting: Prompting
    quality: float = 1.0
    balance: str = "none"
    micro_batch: int = 0
    statistics_images: int = 1024
    weight: float = 10.0
    name: str = "sam"
    order: Mapping[str, str] = field(default_factory=dict)
    distance: FeatureLoss = field(init=False)

    def __post_init__(self) -> None:
        self.distance = FeatureLoss(self.balance)

    def batches(self, start_iteration: int) -> Iterator[SizedMasks]:
        for number, batch in enumerate(self.stream(start_iteration), start=start_iteration):
            words = np.random.SeedSequence((self.seed, number)).generate_state(1)
            yield SizedMasks(batch, self.sizes[int(words[0]) % len(self.sizes)])

    def parts(self, batch: SizedMasks) -> Iterator[tuple[SizedMasks, float]]:
        self.count.add(len(batch.batch.images), batch.batch.broken)
        rows = torch.arange(len(batch.batch.images))
        for part in rows.split(self.micro_batch or len(rows)):
            own = batch.batch._replace(images=batch.batch.images[part], masks=batch.batch.masks[part])
            yield SizedMasks(own, batch.size), len(part) / len(rows)

    def loss(self, student: nn.Module, part: SizedMasks) -> Tensor:
        device = self.sam.sam.device
        pixels = part.batch.images.to(device, torch.float)
        embedding = student.encode_pixels(resize(pixels, (part.size, part.size))).of(self.name).features
        with torch.no_grad():
            taught = self.sam.encode(pixels)
        if self.balance == "none":
            return self._mask_loss(student, embedding, taught, part.batch.masks)
        own, theirs = on_one_grid(embedding.float(), taught.float())
        return self.distance(cells(own), cells(theirs)).mean()

    def _mask_loss(self, student: nn.Module, embedding: Tensor, taught: Tensor, masks: Tensor) -> Tensor:
        """The loss () of answers to prompts for masks (B, T, H, W) of images with embeddings (B, C, h, w) both."""
        owners = torch.arange(len(masks)).repeat_interleave(masks.shape[1]).to(embedding.device)
        targets = masks.flatten(0, 1).to(embedding.device)
        side = self.sam.input_size
        fine = tuple(4 * cells for cells in embedding.shape[-2:])

        def answer(part: slice, prompts: Prompts, is_ambiguous: bool) -> tuple[MaskPrediction, Tensor]:
            own = predict_masks(student, embedding[owners[part]], prompts, is_ambiguous, (side, side))
            with torch.no_grad():
                for_teacher = prompts
                if prompts.masks is not None and fine != tuple(self.sam.mask_size):
                    for_teacher = prompts.with_masks(_resized(prompts.masks, self.sam.mask_size)[:, 0])
                theirs = self.sam.masks(taught[owners[part]], for_teacher, multimask=is_ambiguous)
                logits = _resized(theirs.logits, fine)
            loss = mask_distillation_loss(own.logits, logits, self.prompting.focal_weight).mean(dim=1)
            error = F.mse_loss(own.quality, theirs.quality, reduction="none").mean(dim=1)
            return own, loss + self.quality * error

        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        return simulate_prompts(answer, targets, _shrink(targets, fine), side, self.prompting, generator)

    def prepare(self) -> None:
        prepare_together(self.distance, self._some_features)

    @torch.no_grad()
    def _some_features(self) -> Tensor:
        features: list[Tensor] = []
        for batch in self.stream(0):
            for part in batch.images.split(self.micro_batch or len(batch.images)):
                features.append(cells(self.sam.encode(part).float()))
            images = sum(map(len, features))
            if images >= self.statistics_images or images * features[0][0, ..., 0].numel() >= _STATISTICS_CELLS:
                break
        return torch.cat(features).flatten(0, 2)

    def counts(self) -> dict[str, int]:
        return {"seen": self.count.seen, "broken": self.count.broken}

    def state_dict(self) -> dict[str, Any]:
        return {"spread": self.distance.state, "count": self.count.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.distance.state = state["spread"]
        self.count.load_state_dict(state["count"])

    def describe(self, batch: SizedMasks) -> list[str]:
        return list(batch.batch.keys)


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(P,m,h,w) logits at another size."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    return F.interpolate(masks, tuple(size), mode="bilinear", align_corners=False)


def _shrink(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(P,H,W) bool at the size of the student's masks; one that vanishes there keeps the cell where it is densest."""
    small = shrink_masks(masks, size)
    empty = ~small.flatten(1).any(dim=1)
    if empty.any():
        shares = F.adaptive_avg_pool2d(masks[empty].float(), size).flatten(1)
        small[empty] = F.one_hot(shares.argmax(dim=1), shares.shape[1]).bool().view(-1, *size)
    return small
