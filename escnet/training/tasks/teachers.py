"""CLIP and SAM as teachers of a merged model (SAM-CLIP, sec. 3.2 and A)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.data.shards.accounting import SampleCount
from escnet.data.shards.batches import ImageBatch, MaskBatch
from escnet.data.simulated_prompts import shrink_masks
from escnet.losses.distillation import (
    Standardisation,
    angular_dispersion,
    balanced_angle_loss,
    cosine_loss,
    mask_distillation_loss,
    standardised_loss,
)
from escnet.meta_arch.clip import ClassifyingClip
from escnet.meta_arch.interfaces import MaskPrediction, Prompts, resize
from escnet.meta_arch.sam import PromptableSam, predict_masks
from escnet.training.tasks.distillation import Teacher
from escnet.training.tasks.promptable import Prompting, simulate_prompts

BALANCES = ("none", "phi_s", "angle")


class FeatureLoss:
    """The distance of a student's features from a teacher's, (..., D) both, in one of the ways of `BALANCES`.

    none: 1 - cosine. phi_s: squared error of features that are standardised. angle: squared angle as a share of the
    teacher's dispersion. The last two have to see some of the teacher's features first.

    Args:
        balance: one of `BALANCES`.
    """

    def __init__(self, balance: str) -> None:
        self.balance = balance
        self.state: dict[str, Tensor] = {}

    @property
    def is_prepared(self) -> bool:
        """Whether it can be called."""
        return self.balance == "none" or bool(self.state)

    def prepare(self, features: Tensor) -> None:
        """Learn the spread of the teacher's features (n, D)."""
        if self.balance == "phi_s":
            self.state = dict(vars(Standardisation.fit(features)))
        elif self.balance == "angle":
            self.state = {"dispersion": angular_dispersion(features)}

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(...) losses."""
        if self.balance == "none":
            return cosine_loss(student, teacher)
        state = {name: value.to(student.device) for name, value in self.state.items()}
        if self.balance == "phi_s":
            return standardised_loss(student, teacher, Standardisation(**state))
        return balanced_angle_loss(student, teacher, state["dispersion"])


class Taught(NamedTuple):
    """What CLIP says of B images.

    Attributes:
        summary: (B, D) L2-normalised.
        dense: (B, D, h, w) L2-normalised; None where it is not taught.
    """

    summary: Tensor
    dense: Tensor | None


@dataclass
class ClipTeacher(Teacher):
    """Teaches the summary of whole images; its text encoder gives the summary words (L_CLIP = 1 - cosine).

    With a `dense_weight`, it also teaches its dense features, cell by cell, on the coarser of the two grids; not in the
    paper.

    Attributes:
        stream: called with the iteration to start from, gives batches of images.
        clip: the teacher; None where the stream brings stored embeddings.
        device: of the student.
        count: of the samples that were broken.
        balance: one of `BALANCES`.
        micro_batch: images at a time (0: all).
        statistics_images: of which the spread of its features is taken, where `balance` needs it.
        weight: of its loss.
        dense_weight: of the dense features, where the summary has 1.
    """

    stream: Callable[[int], Iterator[ImageBatch]]
    clip: ClassifyingClip | None
    device: torch.device
    count: SampleCount
    balance: str = "none"
    micro_batch: int = 0
    statistics_images: int = 1024
    weight: float = 1.0
    dense_weight: float = 0.0
    name: str = "clip"
    distance: FeatureLoss = field(init=False)
    dense_distance: FeatureLoss = field(init=False)

    def __post_init__(self) -> None:
        self.distance, self.dense_distance = FeatureLoss(self.balance), FeatureLoss(self.balance)

    def batches(self, start_iteration: int) -> Iterator[ImageBatch]:
        return self.stream(start_iteration)

    def parts(self, batch: ImageBatch) -> Iterator[tuple[tuple[Tensor, Tensor | None], float]]:
        self.count.add(len(batch.images), batch.broken)
        return self._parts(batch)

    def _parts(self, batch: ImageBatch) -> Iterator[tuple[tuple[Tensor, Tensor | None], float]]:
        rows = torch.arange(len(batch.images))
        for part in rows.split(self.micro_batch or len(rows)):
            stored = None if batch.embeddings is None else batch.embeddings[part]
            yield (batch.images[part], stored), len(part) / len(rows)

    def loss(self, student: nn.Module, part: tuple[Tensor, Tensor | None]) -> Tensor:
        pixels, stored = part
        pixels = pixels.to(self.device, torch.float)
        answer = student.encode_pixels(pixels, neck=False).of(self.name)
        taught = self.embed(pixels, stored)
        loss = self.distance(answer.summary.float(), taught.summary).mean()
        if self.dense_weight:
            own, theirs = _on_one_grid(answer.features.float(), taught.dense)
            loss = loss + self.dense_weight * self.dense_distance(_cells(own), _cells(theirs)).mean()
        return loss

    @torch.no_grad()
    def embed(self, pixels: Tensor, stored: Tensor | None) -> Taught:
        """What the teacher says of images (B, 3, R, R), or what was stored of them."""
        if stored is not None:
            return Taught(stored.to(self.device, torch.float), None)
        if not self.dense_weight:
            return Taught(self.clip.summary(self.clip.encode(pixels)).float(), None)
        features = self.clip.encode_all(pixels)
        return Taught(self.clip.summary(features.pooled).float(), features.dense.float())

    def prepare(self) -> None:
        _prepare(self.distance, lambda: torch.cat([taught.summary for taught in self._some_features()]))
        if self.dense_weight:
            _prepare(
                self.dense_distance,
                lambda: torch.cat([_cells(taught.dense).flatten(0, 2) for taught in self._some_features()]),
            )

    def _some_features(self) -> list[Taught]:
        features: list[Taught] = []
        for batch in self.stream(0):
            for (pixels, stored), _ in self._parts(batch):
                features.append(self.embed(pixels.to(self.device, torch.float), stored))
            if sum(len(taught.summary) for taught in features) >= self.statistics_images:
                break
        return features

    def state_dict(self) -> dict[str, Any]:
        spread = {"summary": self.distance.state, "dense": self.dense_distance.state}
        return {"spread": spread, "count": self.count.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.distance.state, self.dense_distance.state = state["spread"]["summary"], state["spread"]["dense"]
        self.count.load_state_dict(state["count"])

    def describe(self, batch: ImageBatch) -> list[str]:
        return list(batch.keys)


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
        balance, micro_batch, statistics_images, weight: as of `ClipTeacher`.
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
    statistics_images: int = 64
    weight: float = 10.0
    name: str = "sam"
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
        own, theirs = _on_one_grid(embedding.float(), taught.float())
        return self.distance(_cells(own), _cells(theirs)).mean()

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
        _prepare(self.distance, self._some_features)

    @torch.no_grad()
    def _some_features(self) -> Tensor:
        features: list[Tensor] = []
        for batch in self.stream(0):
            for part in batch.images.split(self.micro_batch or len(batch.images)):
                features.append(_cells(self.sam.encode(part).float()))
            if sum(map(len, features)) >= self.statistics_images:
                break
        return torch.cat(features).flatten(0, 2)

    def state_dict(self) -> dict[str, Any]:
        return {"spread": self.distance.state, "count": self.count.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.distance.state = state["spread"]
        self.count.load_state_dict(state["count"])

    def describe(self, batch: SizedMasks) -> list[str]:
        return list(batch.batch.keys)


def _prepare(distance: FeatureLoss, features: Callable[[], Tensor]) -> None:
    """Let a loss see features of the first process, so that all processes have the same."""
    if distance.is_prepared:
        return
    if comm.is_main_process():
        distance.prepare(features())
    distance.state = comm.all_gather(distance.state)[0]


def _on_one_grid(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B,C,h,w) on the coarser of their grids."""
    grid = min(first.shape[-2:], second.shape[-2:], key=lambda side: side[0] * side[1])
    resized = (
        m if m.shape[-2:] == grid else F.interpolate(m, grid, mode="bilinear", align_corners=False, antialias=True)
        for m in (first, second)
    )
    return tuple(resized)


def _cells(maps: Tensor) -> Tensor:
    """(B,C,h,w) -> (B,h,w,C)"""
    return maps.permute(0, 2, 3, 1)


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
