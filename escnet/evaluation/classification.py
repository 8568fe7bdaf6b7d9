"""Features of images and masks judged by features of texts: the nearest class, the mean inside a mask, retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def nearest_class(features: Tensor, classes: Tensor) -> Tensor:
    """(n,) of each (n, D) feature the row of the normalised (N, D) class features that it is most similar to."""
    return (features @ classes.T).argmax(dim=1)


def pool_masks(dense: Tensor, masks: Tensor) -> Tensor:
    """The mean dense feature inside each mask, normalised.

    Args:
        dense: (D, h, w) features on a grid.
        masks: (K, H, W) bool; a cell counts by the share of it that is inside.

    Returns:
        (K, D)
    """
    weights = F.interpolate(masks[None].float(), dense.shape[-2:], mode="area")[0]
    return F.normalize(torch.einsum("dhw,khw->kd", dense, weights), dim=-1)


def retrieval_recall(images: Tensor, texts: Tensor, captions: Sequence[str]) -> tuple[float, float]:
    """R@1 among n pairs, image → text and text → image, in 0..1; equal captions count as right.

    Args:
        images, texts: (n, D) normalised features.
        captions: n of them.
    """
    similarity = images @ texts.T
    names = np.array(captions)
    found = names[similarity.argmax(dim=1).cpu().numpy()] == names
    sought = names[similarity.argmax(dim=0).cpu().numpy()] == names
    return float(found.mean()), float(sought.mean())
