"""A small CLIP, trained from captions alone: contrastive loss, average pooling, patch dropout, collages.

Pictures are small (48 pixels, mostly of one object) while the model is trained; it is used at a higher resolution
with interpolated positions, as CLIP is in ESC-Net (sec. 4, "Implementation details"). A CLIP this small tells what is
in a picture, but not where: attention carries the word of an object into the ground around it. So most pictures are
seen in collages of 4 or 9, where the dense features of each cell have to match its caption (CLIM, arXiv 2312.11376).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.miniature.contrastive_encoder import ContrastiveImageEncoder
from escnet.miniature.pretraining import decay_groups, draw_chunks, fast_arithmetic, recipe_trainer
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import SceneStyle, compose
from escnet.training.tasks.contrastive import ContrastiveTask
from escnet.training.trainer import Trainer

MODEL = "escnet-moji"

# A unit of ground has as many pixels as in a picture of 128, so these are cut-outs of such pictures.
_CUT_OUT = {"size": 48, "repeats": 0.0, "horizon": 0.5, "ground_named": 0.2, "unit": 1.0}
SINGLE = SceneStyle(objects=(1, 1), object_size=(0.5, 0.95), **_CUT_OUT)
SEVERAL = SceneStyle(objects=(2, 3), object_size=(0.35, 0.65), **_CUT_OUT)


@dataclass(frozen=True)
class Captioned:
    """Pictures with captions.

    Attributes:
        images: (n, 3, size, size) uint8.
        captions: one for each.
        words: (n,) id of the object where there is one only, else -1.
    """

    images: Tensor
    captions: list[str]
    words: Tensor


@dataclass(frozen=True)
class ClipRecipe:
    """The numbers of the training.

    Attributes:
        single, several: pictures of one object, and of more.
        single_share: share of the former.
        pictures: drawn once, before the first step.
        steps: as usual.
        alone: pictures of a step that are seen each by itself.
        fours, nines: collages of a step; of 2×2 pictures, and of 3×3 pieces of pictures of one object, two thirds of
            their side.
        learning_rate: its peak; linear warm-up, then a half cosine to zero.
        weight_decay: of matrices; biases, norms and the logit scale have none.
        seed: of the weights, the pictures and their order.
    """

    single: SceneStyle = SINGLE
    several: SceneStyle = SEVERAL
    single_share: float = 2 / 3
    pictures: int = 100_000
    steps: int = 4000
    alone: int = 64
    fours: int = 16
    nines: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    seed: int = 0


def draw_captioned(recipe: ClipRecipe, seed: int) -> Captioned:
    """Draw a recipe's pictures of base and novel glyphs, on all cores; the same for any number of them."""
    parts = draw_chunks(partial(_draw_chunk, recipe, seed), recipe.pictures)
    images, captions, words = zip(*parts, strict=True)
    return Captioned(
        torch.from_numpy(np.concatenate(images)),
        [caption for part in captions for caption in part],
        torch.from_numpy(np.concatenate(words)),
    )


def _draw_chunk(recipe: ClipRecipe, seed: int, part: tuple[int, int]) -> tuple[np.ndarray, list[str], np.ndarray]:
    glyphs = load_glyphs("base") + load_glyphs("novel")
    images, captions, words = [], [], []
    for number in range(*part):
        rng = np.random.default_rng([seed, number])
        is_single = rng.random() < recipe.single_share
        scene = compose(glyphs, rng, recipe.single if is_single else recipe.several)
        images.append(scene.image.transpose(2, 0, 1))
        captions.append(scene.caption)
        objects = np.unique(scene.labels[scene.instances > 0])
        words.append(objects[0] if is_single and len(objects) else -1)
    return np.stack(images), captions, np.array(words, dtype=np.int64)


def normalise(images: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 to what CLIP expects."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (images.float() / 255 - mean) / std


class ClipBatch(NamedTuple):
    """What a step is trained on.

    Attributes:
        rows: numbers of the pictures (alone + 4·fours + 9·nines,): those seen alone, then the collages' cells, row by
            row.
        alone: the pictures seen alone (alone,3,s,s).
        fours, nines: the collages (fours,3,2s,2s) and (nines,3,2s,2s).
    """

    rows: Tensor
    alone: Tensor
    fours: Tensor
    nines: Tensor


class ClipTask(ContrastiveTask):
    """Pictures and collages against their captions, in bf16 autocast.

    Args:
        model: open_clip's CLIP.
        tokenizer: its tokenizer.
        data: pictures, some of them of one object.
        recipe: numbers of the training.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[..., Tensor], data: Captioned, recipe: ClipRecipe) -> None:
        super().__init__(model, recipe.seed)
        self.data, self.recipe = data, recipe
        self.image_encoder = ContrastiveImageEncoder(model.visual)
        self.text_encoder = ClipTextEncoder(model, tokenizer)
        self.tokens = tokenizer(data.captions, context_length=self.text_encoder.context_length)

    def batches(self, start_iteration: int) -> Iterator[ClipBatch]:
        while True:
            yield draw_batch(self.data, self.recipe, self.generator)

    def features(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        with fast_arithmetic():
            images = [
                self.image_encoder.pool(normalise(batch.alone)),
                self.image_encoder.pool_cells(normalise(batch.fours), 2).flatten(0, 1),
                self.image_encoder.pool_cells(normalise(batch.nines), 3).flatten(0, 1),
            ]
            texts = self.text_encoder.embed(self.tokens[batch.rows], len(batch.rows))
        return torch.cat(images), texts

    def optimizer(self) -> torch.optim.Optimizer:
        groups = decay_groups(self.model, self.recipe.weight_decay)
        return torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=self.recipe.betas)

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, recipe=self.recipe))


def clip_trainer(
    model: nn.Module, tokenizer: Callable[..., Tensor], data: Captioned, recipe: ClipRecipe, folder: Path
) -> Trainer:
    """The trainer of a CLIP; see `ClipTask` for the arguments, and `recipe_trainer` for the folder."""
    return recipe_trainer(ClipTask(model, tokenizer, data, recipe), recipe, folder)


def _rate(step: int, recipe: ClipRecipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))


def draw_batch(data: Captioned, recipe: ClipRecipe, generator: torch.Generator) -> ClipBatch:
    """What a step is trained on, drawn with replacement.

    Args:
        data: all pictures.
        recipe: how many of which kind.
        generator: decides all.
    """
    one_object = (data.words >= 0).nonzero()[:, 0]
    count, side = len(data.words), data.images.shape[-1] * 2 // 3
    alone = torch.randint(count, (recipe.alone,), generator=generator)
    fours = torch.randint(count, (4 * recipe.fours,), generator=generator)
    nines = one_object[torch.randint(len(one_object), (9 * recipe.nines,), generator=generator)]
    corners = torch.randint(data.images.shape[-1] - side + 1, (len(nines), 2), generator=generator)
    pieces = [
        data.images[row, :, y : y + side, x : x + side]
        for row, (y, x) in zip(nines.tolist(), corners.tolist(), strict=True)
    ]
    return ClipBatch(
        torch.cat([alone, fours, nines]),
        data.images[alone],
        _collages(data.images[fours], 2),
        _collages(torch.stack(pieces), 3),
    )


def _collages(pictures: Tensor, cells: int) -> Tensor:
    """(n·cells²,3,s,s) -> (n,3,cells·s,cells·s), row by row."""
    rows = pictures.unflatten(0, (-1, cells, cells)).permute(0, 3, 1, 4, 2, 5)
    return rows.flatten(4, 5).flatten(2, 3)
