"""A small SAM, trained to segment from prompts alone, on glyphs that have no names (Segment Anything, sec. 3 and A).

Targets are objects as far as they are visible and, now and then, a kind of ground. Each is asked for with a point or a
loose box first, and then with clicks where the last prediction was wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from escnet.meta_arch.sam import PromptableSam
from escnet.miniature.pretraining import decay_groups, draw_chunks, fast_arithmetic, recipe_trainer
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import Scene, SceneStyle, compose
from escnet.training.tasks.promptable import PromptableTask, Prompting
from escnet.training.trainer import Trainer

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
class SamRecipe(Prompting):
    """The numbers of the training.

    Attributes:
        pictures: drawn once, before the first step.
        steps, batch_size: as usual; each picture of a batch has `targets` targets.
        ground_share: of targets that are a kind of ground.
        least_area: pixels of the smallest target.
        learning_rate: its peak; warm-up, then a half cosine to zero.
        weight_decay: of matrices; biases and norms have none.
        seed: of the weights, the pictures and all that is drawn from them.
        style: of the pictures.
    """

    pictures: int = 12_000
    steps: int = 4500
    batch_size: int = 6
    targets: int = 4
    ground_share: float = 0.25
    least_area: int = 32
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
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


class SamTask(PromptableTask):
    """Focal and Dice loss on simulated prompts, in bf16 autocast.

    Args:
        sam: segment_anything's model, for pictures of the size of `data`.
        data: pictures, each with at least one target.
        recipe: numbers of the training.
    """

    def __init__(self, sam: Sam, data: MaskedPictures, recipe: SamRecipe) -> None:
        super().__init__(PromptableSam(sam), recipe, recipe.seed)
        self.data, self.recipe = data, recipe

    def batches(self, start_iteration: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rows = torch.randint(len(self.data.images), (self.recipe.batch_size,), generator=self.generator)
            yield self.data.images[rows], pick_targets(self.data.regions[rows], self.recipe, self.generator)

    def arithmetic(self) -> AbstractContextManager:
        return fast_arithmetic()

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(decay_groups(self.model, self.recipe.weight_decay), lr=self.recipe.learning_rate)

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        recipe = self.recipe
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, recipe.steps, min(1.0, recipe.warmup / recipe.steps), cycle_momentum=False
        )


def sam_trainer(sam: Sam, data: MaskedPictures, recipe: SamRecipe, folder: Path) -> Trainer:
    """The trainer of a SAM; see `SamTask` for the arguments, and `recipe_trainer` for the folder."""
    return recipe_trainer(SamTask(sam, data, recipe), recipe, folder)


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
