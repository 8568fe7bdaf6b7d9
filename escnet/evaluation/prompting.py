"""How well SAM segments from simulated clicks and from exact boxes (Segment Anything, sec. 7.1)."""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from escnet.data.simulated_prompts import Prompts, centre_clicks, exact_boxes, likeliest_mask, predict_masks
from escnet.miniature.sam_recipe import GROUND, MaskedPictures, mask_iou

CLICKS = (1, 3, 5)


@torch.no_grad()
def evaluate_sam(sam: Sam, data: MaskedPictures, batch_size: int = 16) -> dict[str, float]:
    """Mean IoU over all objects (not the ground) of some pictures, at the pictures' size.

    Each click is at the centre of what is wrong, the first one at the centre of the object. One click alone is answered
    by the mask that SAM expects most of; "1 click, best of 3" is answered by the best one.

    Args:
        sam: the model, for pictures of the size of `data`.
        data: pictures; only regions of objects are asked for.
        batch_size: pictures at a time.

    Returns:
        Mean IoU in 0..1 under "1 click", "1 click, best of 3", "3 clicks", "5 clicks" and "box", and the number of
        "objects".

    Raises:
        ValueError: no picture has an object.
    """
    found: dict[str, list[Tensor]] = {}
    for images, regions in zip(data.images.split(batch_size), data.regions.split(batch_size), strict=True):
        owners, targets = _objects(regions)
        if not len(owners):
            continue
        features = sam.image_encoder(sam.preprocess(images.float()))[owners]
        for name, iou in _judge(sam, features, targets).items():
            found.setdefault(name, []).append(iou)
    if not found:
        raise ValueError(f"none of the {len(data.images)} pictures has an object")
    scores = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: iou.mean().item() for name, iou in scores.items()} | {"objects": len(scores["box"])}


def _objects(regions: Tensor) -> tuple[Tensor, Tensor]:
    """The picture (P,) and the mask (P, H, W) of each object of (B, H, W) regions."""
    pairs = [(b, k) for b, picture in enumerate(regions) for k in picture.unique().tolist() if 0 < k < GROUND]
    owners, numbers = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(dim=1)
    return owners, regions[owners] == numbers[:, None, None]


def _judge(sam: Sam, features: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """(P,) IoU of each kind of prompt."""
    side, size = sam.image_encoder.img_size, targets.shape[-2:]
    masks, quality = predict_masks(sam, features, Prompts.from_boxes(exact_boxes(targets)), multimask=False)
    scores = {"box": mask_iou(_enlarge(masks, size), targets[:, None])[:, 0]}

    prompts = Prompts(targets.new_zeros(len(targets), 0, 2, dtype=torch.float), features.new_zeros(len(targets), 0))
    predicted = torch.zeros_like(targets)
    for count in range(1, max(CLICKS) + 1):
        prompts = prompts.with_clicks(*centre_clicks(predicted, targets, side))
        masks, quality = predict_masks(sam, features, prompts, multimask=count == 1)
        if count == 1:
            scores["1 click, best of 3"] = mask_iou(_enlarge(masks, size), targets[:, None]).amax(dim=1)
        best = likeliest_mask(masks, quality)
        prompts = prompts.with_masks(best)
        predicted = _enlarge(best[:, None], size)[:, 0]
        if count in CLICKS:
            scores[f"{count} click{'s' * (count > 1)}"] = mask_iou(predicted, targets)
    return scores


def _enlarge(masks: Tensor, size: torch.Size) -> Tensor:
    """Mask logits (P, m, h, w) to bool masks of another size."""
    return F.interpolate(masks, tuple(size), mode="bilinear", align_corners=False) > 0
