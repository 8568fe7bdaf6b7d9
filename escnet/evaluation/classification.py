"""Features of images and masks judged by features of texts: the nearest class, the mean inside a mask, retrieval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS = 256


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


class Recalls(NamedTuple):
    """Shares in 0..1 by rank k.

    Attributes:
        image_to_text: images of which one of their own captions is among the k most similar.
        text_to_image: captions whose image is among the k most similar.
    """

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]


def retrieval_recall(images: Tensor, texts: Tensor, captions: Sequence[str]) -> tuple[float, float]:
    """R@1 among n pairs, image → text and text → image, in 0..1; equal captions count as right.

    Args:
        images, texts: (n, D) normalised features.
        captions: n of them.
    """
    found, sought = retrieval_recalls(images, texts, range(len(images)), captions, ranks=(1,))
    return found[1], sought[1]


def retrieval_recalls(
    images: Tensor,
    texts: Tensor,
    owners: Sequence[int],
    captions: Sequence[str] | None = None,
    ranks: Sequence[int] = (1, 5, 10),
) -> Recalls:
    """R@k of images that have one or several captions each.

    Args:
        images: (n, D) normalised features.
        texts: (m, D) normalised features.
        owners: m indices of the image of each caption; each image has at least one.
        captions: m of them, where a caption that equals one of an image's own is to count as its own; None where
            only its own count, as in the literature.
        ranks: the k.
    """
    device = images.device
    kinds = np.arange(len(owners)) if captions is None else np.unique(np.array(captions), return_inverse=True)[1]
    kinds = torch.from_numpy(kinds.reshape(-1)).to(device)
    said = torch.zeros(len(images), int(kinds.max()) + 1, dtype=torch.bool, device=device)
    said[torch.as_tensor(list(owners), device=device), kinds] = True

    def ranks_of_images(rows: Tensor) -> Tensor:
        return rank_of_right(images[rows] @ texts.T, said[rows][:, kinds])

    def ranks_of_texts(rows: Tensor) -> Tensor:
        return rank_of_right(texts[rows] @ images.T, said[:, kinds[rows]].T)

    found = _in_chunks(len(images), device, ranks_of_images)
    sought = _in_chunks(len(texts), device, ranks_of_texts)
    return Recalls(
        {k: (found < k).double().mean().item() for k in ranks}, {k: (sought < k).double().mean().item() for k in ranks}
    )


def rank_of_right(similarity: Tensor, right: Tensor) -> Tensor:
    """(n,) how many columns come before the first right one, in the order of similarity; of equals, the first wins.

    Args:
        similarity: (n, m).
        right: (n, m) bool, one or more in each row.

    Raises:
        ValueError: a similarity is not finite, with which nothing can be compared.
    """
    if not similarity.isfinite().all():
        raise ValueError("the model gave features that are not finite numbers; check its weights and MODEL.PRECISION")
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    equal = similarity == best
    first = (equal & right).int().argmax(dim=1, keepdim=True)
    columns = torch.arange(similarity.shape[1], device=similarity.device)
    return ((similarity > best) | (equal & (columns < first))).sum(dim=1)


def _in_chunks(count: int, device: torch.device, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """The ranks of so many rows, of which no more than `_ROWS` are compared with all columns at a time."""
    return torch.cat([compute(rows) for rows in torch.arange(count, device=device).split(_ROWS)])
