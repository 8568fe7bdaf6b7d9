"""Contrastive training of an image and a text encoder on pairs (CLIP, sec. 2.3)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.losses.contrastive import contrastive_loss
from escnet.training.tasks.interface import SequentialTask

LOGIT_SCALE_LIMIT = math.log(100)


class ContrastiveTask(SequentialTask):
    """Trains `model`, which has a parameter `logit_scale` (), with the symmetric contrastive loss."""

    @abstractmethod
    def features(self, batch: Any) -> tuple[Tensor, Tensor]:
        """(n, D) features of the images of a batch, of any length, and (n, D) normalised ones of their texts."""

    def backward(self, batch: Any, scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        images, texts = self.features(batch)
        loss = contrastive_loss(F.normalize(images.float(), dim=-1), texts.float(), self.model.logit_scale)
        scale(loss).backward()
        return {"contrastive": loss.detach()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the temperature where the loss does not become unstable (CLIP, sec. 2.5)."""
        self.model.logit_scale.clamp_(0, LOGIT_SCALE_LIMIT)
