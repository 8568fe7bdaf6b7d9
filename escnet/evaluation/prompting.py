"""How well a promptable model segments from simulated clicks and from exact boxes (Segment Anything, sec. 7.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.data.simulated_prompts import centre_clicks, exact_boxes
from escnet.losses.masks import mask_iou
from escnet.meta_arch.interfaces import AskedWords, PromptableModel, Prompts
from escnet.vocabulary import Vocabulary

CLICKS = (1, 3, 5)


class RegionWords(NamedTuple):
    """What the regions of n images are.

    Attributes:
        vocabulary: the words.
        rows: (n, R) the row of region k of each image at place k.
    """

    vocabulary: Vocabulary
    rows: Tensor


@torch.no_grad()
def evaluate_prompting(
    model: PromptableModel,
    images: Tensor,
    regions: Tensor,
    end: int,
    batch_size: int = 16,
    words: RegionWords | None = None,
) -> dict[str, float]:
    """Mean IoU over all objects of some images, at the images' size.

    Each click is at the centre of what is wrong, the first one at the centre of the object. One click alone is answered
    by the mask that the model expects most of; "1 click, best of 3" is answered by the best one.

    Args:
        model: in evaluation mode.
        images: (n, 3, H, W) in 0..255, of the model's size.
        regions: (n, H, W) integers; those from 1 on and below `end` are objects, the others are not asked for.
        end: as said.
        batch_size: images at a time.
        words: what the objects are, for a model that takes words; None asks without words.

    Returns:
        Mean IoU in 0..1 under "1 click", "1 click, best of 3", "3 clicks", "5 clicks" and "box", and the number of
        "objects".

    Raises:
        ValueError: no image has an object.
    """
    found: dict[str, list[Tensor]] = {}
    device = next(model.parameters(), images).device
    for start in range(0, len(images), batch_size):
        some = slice(start, start + batch_size)
        owners, numbers, targets = _objects(regions[some], end)
        if not len(owners):
            continue
        features = model.of_images(model.encode(images[some]), owners)
        asked = None if words is None else AskedWords(words.vocabulary, words.rows[some][owners, numbers])
        for name, iou in _judge(model, features, targets.to(device), asked).items():
            found.setdefault(name, []).append(iou)
    if not found:
        raise ValueError(f"none of the {len(images)} pictures has an object")
    scores = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: iou.mean().item() for name, iou in scores.items()} | {"objects": len(scores["box"])}


def _objects(regions: Tensor, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """The image (P,), the number (P,) and the mask (P, H, W) of each object of (B, H, W) regions."""
    pairs = [(b, k) for b, image in enumerate(regions) for k in image.unique().tolist() if 0 < k < end]
    owners, numbers = torch.tensor(pairs, dtype=torch.long, device=regions.device).view(-1, 2).unbind(dim=1)
    return owners, numbers, regions[owners] == numbers[:, None, None]


def _judge(model: PromptableModel, features: Any, targets: Tensor, words: AskedWords | None) -> dict[str, Tensor]:
    """(P,) IoU of each kind of prompt."""
    size = targets.shape[-2:]
    answer = model.masks(features, Prompts.from_boxes(exact_boxes(targets, model.input_size)), words)
    scores = {"box": mask_iou(_enlarge(answer.logits, size), targets[:, None])[:, 0]}

    nothing = torch.zeros(len(targets), 0, device=targets.device)
    prompts = Prompts(nothing[:, :, None].expand(-1, -1, 2), nothing)
    predicted = torch.zeros_like(targets)
    for count in range(1, max(CLICKS) + 1):
        prompts = prompts.with_clicks(*centre_clicks(predicted, targets, model.input_size))
        answer = model.masks(features, prompts, words, multimask=count == 1)
        if count == 1:
            scores["1 click, best of 3"] = mask_iou(_enlarge(answer.logits, size), targets[:, None]).amax(dim=1)
        best = answer.likeliest()
        prompts = prompts.with_masks(best)
        predicted = _enlarge(best[:, None], size)[:, 0]
        if count in CLICKS:
            scores[f"{count} click{'s' * (count > 1)}"] = mask_iou(predicted, targets)
    return scores


def _enlarge(masks: Tensor, size: torch.Size) -> Tensor:
    """Mask logits (P, m, h, w) to bool masks of another size."""
    return F.interpolate(masks, tuple(size), mode="bilinear", align_corners=False) > 0
