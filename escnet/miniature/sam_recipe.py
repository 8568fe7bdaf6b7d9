"""A small SAM, trained to segment from prompts alone, on glyphs that have no names (Segment Anything, sec. 3 and A).

Targets are objects as far as they are visible and, now and then, a kind of ground. Each is asked for with a point or a
loose box first, and then with clicks where the last prediction was wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from escnet.data.simulated_prompts import (
    Prompts,
    likeliest_mask,
    loose_boxes,
    predict_masks,
    random_clicks,
    shrink_masks,
)
from escnet.miniature.pretraining import decay_groups, draw_chunks, fast_arithmetic
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import Scene, SceneStyle, compose

# Regions of ground are numbered from here, objects from 1.
GROUND = 128


@dataclass(frozen=True)
class MaskedPictures:
    """Pictures with the masks of everything in them.

    Attributes:
        images: (n, 3, size, size) uint8.
        regions: (n, size, size) uint8, k for the k-th object, from `GROUND` for kinds of ground, 0 for what is too
            small to be a target.
    """

    images: Tensor
    regions: Tensor


@dataclass(frozen=True)
class SamRecipe:
    """The numbers of the training.

    Attributes:
        pictures: drawn once, before the first step.
        steps, batch_size: as usual; each picture of a batch has `targets` targets.
        rounds: most predictions for a target; each step draws their number, from 1.
        ground_share: of targets that are a kind of ground.
        least_area: pixels of the smallest target.
        box_noise, box_limit: of the boxes to start from, as a share of their sides and in pixels.
        learning_rate: its peak; warm-up, then a half cosine to zero.
        weight_decay: of matrices; biases and norms have none.
        focal_weight: of the focal loss, where the dice loss has 1.
        focal_alpha: weight of the object's pixels in the focal loss; the others have 1 - focal_alpha.
    """

    pictures: int = 12_000
    steps: int = 4500
    batch_size: int = 6
    targets: int = 4
    rounds: int = 5
    ground_share: float = 0.25
    least_area: int = 32
    box_noise: float = 0.1
    box_limit: float = 20.0
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    focal_weight: float = 20.0
    focal_alpha: float = 0.75
    seed: int = 0
    style: SceneStyle = field(default=SceneStyle())


def draw_masked(glyph_set: str, count: int, seed: int, style: SceneStyle, least_area: int = 32) -> MaskedPictures:
    """Draw pictures of a set of glyphs, on all cores; the same for any number of them."""
    draw = partial(_draw_chunk, glyph_set, seed, style, least_area)
    images, regions = zip(*draw_chunks(draw, count), strict=True)
    return MaskedPictures(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(regions)))


def _draw_chunk(
    glyph_set: str, seed: int, style: SceneStyle, least_area: int, part: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    glyphs = load_glyphs(glyph_set)
    scenes = [compose(glyphs, np.random.default_rng([seed, number]), style) for number in range(*part)]
    images = np.stack([scene.image.transpose(2, 0, 1) for scene in scenes])
    return images, np.stack([number_regions(scene, least_area) for scene in scenes])


def number_regions(scene: Scene, least_area: int) -> np.ndarray:
    """(size, size) uint8 regions of a picture, as `MaskedPictures` has them.

    A region counts if `least_area` of its pixels lie in blocks of 2×2 that it covers at least by half, so that it does
    not vanish where masks are drawn at half the picture's size.
    """
    regions = scene.instances.copy()
    for number, kind in enumerate(np.unique(scene.labels[scene.instances == 0])):
        regions[(scene.instances == 0) & (scene.labels == kind)] = GROUND + number
    for region in np.unique(regions):
        halves = F.avg_pool2d(torch.from_numpy(regions == region).float()[None], 2) >= 0.5
        if 4 * halves.sum() < least_area:
            regions[regions == region] = 0
    return regions


def train_sam(
    sam: Sam, data: MaskedPictures, recipe: SamRecipe, report: Callable[[int, float], None] | None = None
) -> None:
    """Train a SAM with focal and dice loss on simulated prompts, in bf16 autocast.

    Args:
        sam: segment_anything's model, for pictures of the size of `data`.
        data: pictures, each with at least one target.
        recipe: numbers of the training.
        report: called after each step with its number, from 1, and loss.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(decay_groups(sam, recipe.weight_decay), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.steps, min(1.0, recipe.warmup / recipe.steps), cycle_momentum=False
    )
    sam.train()
    for step in range(1, recipe.steps + 1):
        rows = torch.randint(len(data.images), (recipe.batch_size,), generator=generator)
        targets = pick_targets(data.regions[rows], recipe, generator)
        with fast_arithmetic():
            loss = batch_loss(sam, data.images[rows], targets, recipe, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if report:
            report(step, loss.item())
    sam.eval()


def pick_targets(regions: Tensor, recipe: SamRecipe, generator: torch.Generator) -> Tensor:
    """Draw the targets of some pictures: (B, H, W) uint8 regions to (B, targets, H, W) bool masks.

    Raises:
        ValueError: a picture has no region.
    """
    picked = []
    for picture in regions:
        present = picture.flatten().bincount(minlength=256)
        present[0] = 0
        if not present.any():
            raise ValueError("a picture has no region to be a target; lower least_area or draw larger pictures")
        objects, ground = present[:GROUND] > 0, present[GROUND:] > 0
        # Each kind of target with its share, each region of a kind alike; all of it where one kind is missing.
        weights = torch.cat([
            objects * (1 - recipe.ground_share if ground.any() else 1.0) / objects.sum().clamp(min=1),
            ground * (recipe.ground_share if objects.any() else 1.0) / ground.sum().clamp(min=1),
        ])  # fmt: skip
        picked.append(torch.multinomial(weights, recipe.targets, replacement=True, generator=generator))
    return regions[:, None] == torch.stack(picked)[:, :, None, None]


def batch_loss(sam: Sam, images: Tensor, targets: Tensor, recipe: SamRecipe, generator: torch.Generator) -> Tensor:
    """The mean loss of all predictions for a batch.

    Args:
        sam: the model.
        images: (B, 3, H, W) uint8.
        targets: (B, T, H, W) bool; every second one is asked for with a box, the others with a point.
        recipe, generator: numbers of the training, and what decides the prompts.
    """
    features = sam.image_encoder(sam.preprocess(images.float())).repeat_interleave(targets.shape[1], dim=0)
    masks = targets.flatten(0, 1)
    side = sam.image_encoder.img_size
    rounds = int(torch.randint(1, recipe.rounds + 1, (1,), generator=generator))
    small = shrink_masks(masks, sam.prompt_encoder.mask_input_size)
    points = random_clicks(torch.zeros_like(small[0::2]), small[0::2], side, generator)
    starts = [(slice(0, None, 2), Prompts(points[0][:, None], points[1][:, None]))]
    if len(masks) > 1:
        boxes = loose_boxes(masks[1::2], recipe.box_noise, recipe.box_limit, generator)
        starts.append((slice(1, None, 2), Prompts.from_boxes(boxes)))
    losses = [
        iterated_loss(sam, features[part], start, small[part], rounds, recipe, generator) for part, start in starts
    ]
    return torch.cat(losses).mean()


def iterated_loss(
    sam: Sam,
    features: Tensor,
    prompts: Prompts,
    targets: Tensor,
    rounds: int,
    recipe: SamRecipe,
    generator: torch.Generator,
) -> Tensor:
    """Predict, click where it is wrong, and predict again with the mask just predicted as a prompt.

    One of the later rounds has no new click: SAM shall also improve a mask by itself.

    Args:
        sam: the model.
        features: (P, C, h, w) of each target's image.
        prompts: the first ones, a point or a box each.
        targets: (P, 4h, 4w) bool.
        rounds: number of predictions.
        recipe, generator: numbers of the training, and what decides the clicks.

    Returns:
        (P,) loss, the mean over the rounds.
    """
    clickless = int(torch.randint(1, max(2, rounds), (1,), generator=generator))
    losses: list[Tensor] = []
    guess: Tensor | None = None
    for number in range(rounds):
        if guess is not None:
            prompts = prompts.with_masks(guess)
            if number != clickless:
                prompts = prompts.with_clicks(*random_clicks(guess > 0, targets, sam.image_encoder.img_size, generator))
        is_ambiguous = guess is None and prompts.boxes is None
        masks, quality = predict_masks(sam, features, prompts, multimask=is_ambiguous)
        losses.append(prediction_loss(masks, quality, targets, recipe.focal_weight, recipe.focal_alpha))
        guess = likeliest_mask(masks, quality).detach()
    return torch.stack(losses).mean(dim=0)


def prediction_loss(masks: Tensor, quality: Tensor, targets: Tensor, focal_weight: float, focal_alpha: float) -> Tensor:
    """Loss of the best mask, and of the IoU expected of all (Segment Anything, sec. A "Losses").

    Args:
        masks: (P, m, H, W) logits.
        quality: (P, m) expected IoU.
        targets: (P, H, W) bool.
        focal_weight: of the focal loss; the dice loss and the squared error of the IoU have 1.
        focal_alpha: weight of the object's pixels in it.

    Returns:
        (P,) losses.
    """
    truth = targets[:, None].expand_as(masks)
    values = truth.to(masks.dtype)
    focal = sigmoid_focal_loss(masks, values, alpha=focal_alpha, gamma=2.0).mean(dim=(-2, -1))
    best = (focal_weight * focal + dice_loss(masks, values)).min(dim=1).values
    return best + F.mse_loss(quality, mask_iou(masks.detach() > 0, truth), reduction="none").mean(dim=1)


def dice_loss(masks: Tensor, targets: Tensor) -> Tensor:
    """1 - Dice coefficient of logits and targets in {0, 1}, (..., H, W) each, with one pixel added to both sums."""
    probability = masks.sigmoid()
    common = (probability * targets).sum(dim=(-2, -1))
    return 1 - (2 * common + 1) / (probability.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1)) + 1)


def mask_iou(predicted: Tensor, targets: Tensor) -> Tensor:
    """IoU of bool masks (..., H, W); 0 where both are empty."""
    common = (predicted & targets).sum(dim=(-2, -1))
    return common / (predicted | targets).sum(dim=(-2, -1)).clamp(min=1)
