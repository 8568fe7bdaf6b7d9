"""CLIP as a teacher of a merged model (SAM-CLIP, sec. 3.2 and A)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from escnet.data.shards.accounting import SampleCount
from escnet.data.shards.batches import ImageBatch
from escnet.meta_arch.clip import ClassifyingClip
from escnet.training.tasks.distillation import Teacher
from escnet.training.teachers.feature_loss import FeatureLoss, cells, on_one_grid, prepare_together


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
        order: as of `Teacher`.
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
    order: Mapping[str, str] = field(default_factory=dict)
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
            own, theirs = on_one_grid(answer.features.float(), taught.dense)
            loss = loss + self.dense_weight * self.dense_distance(cells(own), cells(theirs)).mean()
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
        prepare_together(self.distance, lambda: torch.cat([taught.summary for taught in self._some_features()]))
        if self.dense_weight:
            prepare_together(
                self.dense_distance,
                lambda: torch.cat([cells(taught.dense).flatten(0, 2) for taught in self._some_features()]),
            )

    def _some_features(self) -> list[Taught]:
        features: list[Taught] = []
        for batch in self.stream(0):
            for (pixels, stored), _ in self._parts(batch):
                features.append(self.embed(pixels.to(self.device, torch.float), stored))
            if sum(len(taught.summary) for taught in features) >= self.statistics_images:
                break
        return features

    def counts(self) -> dict[str, int]:
        return {"seen": self.count.seen, "broken": self.count.broken}

    def state_dict(self) -> dict[str, Any]:
        spread = {"summary": self.distance.state, "dense": self.dense_distance.state}
        return {"spread": spread, "count": self.count.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.distance.state, self.dense_distance.state = state["spread"]["summary"], state["spread"]["dense"]
        self.count.load_state_dict(state["count"])

    def describe(self, batch: ImageBatch) -> list[str]:
        return list(batch.keys)
