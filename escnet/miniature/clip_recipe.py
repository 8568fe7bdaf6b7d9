"""A small CLIP, trained from captions alone: contrastive loss, average pooling, patch dropout, collages.

Pictures are small (48 pixels, mostly of one object) while the model is trained; it is used at a higher resolution
with interpolated positions, as CLIP is in ESC-Net (sec. 4, "Implementation details"). A CLIP this small tells what is
in a picture, but not where: attention carries the word of an object into the ground around it. So most pictures are
seen in collages of 4 or 9, where the dense features of each cell have to match its caption (CLIM, arXiv 2312.11376).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.miniature.pretraining import decay_groups, draw_chunks, fast_arithmetic
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import SceneStyle, compose

MODEL = "escnet-moji"
LOGIT_SCALE_LIMIT = math.log(100)


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


def train_clip(
    model: nn.Module,
    tokenizer: Callable[..., Tensor],
    data: Captioned,
    recipe: ClipRecipe,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train a CLIP with the symmetric contrastive loss (CLIP, sec. 2.3), in bf16 autocast.

    Args:
        model: open_clip's CLIP.
        tokenizer: its tokenizer.
        data: pictures, some of them of one object.
        recipe: numbers of the training.
        report: called after each step with its number, from 1, and loss.
    """
    image_encoder, text_encoder = ClipImageEncoder(model.visual), ClipTextEncoder(model, tokenizer)
    tokens = tokenizer(data.captions, context_length=text_encoder.context_length)
    optimizer = torch.optim.AdamW(decay_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=recipe.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, recipe=recipe))
    model.train()
    generator = torch.Generator().manual_seed(recipe.seed)
    for step in range(1, recipe.steps + 1):
        rows, alone, fours, nines = draw_batch(data, recipe, generator)
        with fast_arithmetic():
            parts = [
                image_encoder.pool(normalise(alone)),
                image_encoder.pool_cells(normalise(fours), 2).flatten(0, 1),
                image_encoder.pool_cells(normalise(nines), 3).flatten(0, 1),
            ]
            texts = text_encoder.embed(tokens[rows], len(rows))
        images = F.normalize(torch.cat(parts).float(), dim=-1)
        loss = contrastive_loss(images, texts.float(), model.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, LOGIT_SCALE_LIMIT)
        if report:
            report(step, loss.item())
    model.eval()


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of the cross entropies image → text and text → image: (n, D) normalised features of n pairs to ()."""
    logits = logit_scale.exp() * images @ texts.T
    targets = torch.arange(len(logits))
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def _rate(step: int, recipe: ClipRecipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))


def draw_batch(
    data: Captioned, recipe: ClipRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a step is trained on, drawn with replacement.

    Args:
        data: all pictures.
        recipe: how many of which kind.
        generator: decides all.

    Returns:
        The numbers of the pictures (alone + 4·fours + 9·nines,): those seen alone, then the collages' cells, row by
        row; the pictures seen alone (alone,3,s,s); the collages of four (fours,3,2s,2s) and of nine (nines,3,2s,2s).
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
    return (
        torch.cat([alone, fours, nines]),
        data.images[alone],
        _collages(data.images[fours], 2),
        _collages(torch.stack(pieces), 3),
    )


def _collages(pictures: Tensor, cells: int) -> Tensor:
    """(n·cells²,3,s,s) -> (n,3,cells·s,cells·s), row by row."""
    rows = pictures.unflatten(0, (-1, cells, cells)).permute(0, 3, 1, 4, 2, 5)
    return rows.flatten(4, 5).flatten(2, 3)
