"""A small CLIP, trained from captions alone: contrastive loss, average pooling, patch dropout.

Pictures are small (48 pixels, mostly of one object) while the model is trained; it is used at a higher resolution
with interpolated positions, as CLIP is in ESC-Net (sec. 4, "Implementation details").
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from escnet.data.mojiscenes.glyphs import load_glyphs
from escnet.data.mojiscenes.scene import SceneStyle, compose
from escnet.data.preparation_tasks import worker_pool
from escnet.layers.clip_encoder import ClipImageEncoder, ClipTextEncoder

MODEL = "escnet-moji"
LOGIT_SCALE_LIMIT = math.log(100)
_CHUNK = 500


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes:
        single, several: pictures of one object, and of more.
        single_share: share of the former.
        pictures: drawn once, before the first step.
        steps, batch_size: as usual.
        learning_rate: its peak; linear warm-up, then a half cosine to zero.
    """

    single: SceneStyle
    several: SceneStyle
    single_share: float
    pictures: int
    steps: int
    batch_size: int
    learning_rate: float
    warmup: int


# A unit of ground has as many pixels as in a picture of 128, so these are cut-outs of such pictures.
_CUT_OUT = {"repeats": 0.0, "horizon": 0.5, "ground_named": 0.5, "unit": 1.0}
LOW = Stage(
    SceneStyle(size=48, objects=(1, 1), object_size=(0.5, 0.95), **_CUT_OUT),
    SceneStyle(size=48, objects=(2, 3), object_size=(0.35, 0.65), **_CUT_OUT),
    single_share=2 / 3, pictures=100_000, steps=3500, batch_size=256, learning_rate=1e-3, warmup=200,
)  # fmt: skip
HIGH = Stage(
    SceneStyle(size=96, objects=(1, 1), object_size=(0.25, 0.6), **_CUT_OUT),
    SceneStyle(size=96, objects=(2, 4), object_size=(0.25, 0.55), **_CUT_OUT),
    single_share=1 / 3, pictures=24_000, steps=500, batch_size=128, learning_rate=3e-4, warmup=50,
)  # fmt: skip


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
        stages: most of it at a low resolution, then some at a higher one, as CLIP's ViT-L/14@336 was (CLIP, sec. 2.4).
        weight_decay: of matrices; biases, norms and the logit scale have none.
        seed: of the weights, the pictures and their order.
    """

    stages: tuple[Stage, ...] = (LOW, HIGH)
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    seed: int = 0


def draw_captioned(stage: Stage, seed: int) -> Captioned:
    """Draw the pictures of a stage, of base and novel glyphs, on all cores; the same for any number of them."""
    chunks = [(start, min(start + _CHUNK, stage.pictures)) for start in range(0, stage.pictures, _CHUNK)]
    with worker_pool(os.cpu_count() or 1) as pool:
        parts = list((pool.map if pool else map)(partial(_draw_chunk, stage, seed), chunks))
    images, captions, words = zip(*parts, strict=True)
    return Captioned(
        torch.from_numpy(np.concatenate(images)),
        [caption for part in captions for caption in part],
        torch.from_numpy(np.concatenate(words)),
    )


def _draw_chunk(stage: Stage, seed: int, part: tuple[int, int]) -> tuple[np.ndarray, list[str], np.ndarray]:
    glyphs = load_glyphs("base") + load_glyphs("novel")
    images, captions, words = [], [], []
    for number in range(*part):
        rng = np.random.default_rng([seed, number])
        is_single = rng.random() < stage.single_share
        scene = compose(glyphs, rng, stage.single if is_single else stage.several)
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
    stage: Stage,
    recipe: ClipRecipe,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train a CLIP for one stage with the symmetric contrastive loss (CLIP, sec. 2.3), in bf16 autocast.

    Args:
        model: open_clip's CLIP.
        tokenizer: its tokenizer.
        data: the pictures of the stage, at least one batch of them.
        stage, recipe: numbers of the training.
        report: called after each step with its number, from 1, and loss.
    """
    image_encoder, text_encoder = ClipImageEncoder(model.visual), ClipTextEncoder(model, tokenizer)
    tokens = tokenizer(data.captions, context_length=text_encoder.context_length)
    optimizer = torch.optim.AdamW(_parameter_groups(model, recipe), lr=stage.learning_rate, betas=recipe.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, stage=stage))
    model.train()
    for step, rows in enumerate(_batches(len(data.captions), stage, recipe.seed), start=1):
        # The fused attention is slow in bf16 on a CPU, in its backward pass.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            images = F.normalize(image_encoder.pool(normalise(data.images[rows])), dim=-1)
            texts = text_encoder.embed(tokens[rows], len(rows))
        loss = contrastive_loss(images.float(), texts.float(), model.logit_scale)
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


def _parameter_groups(model: nn.Module, recipe: ClipRecipe) -> list[dict]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _rate(step: int, stage: Stage) -> float:
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - stage.warmup) / max(1, stage.steps - stage.warmup))


def _batches(count: int, stage: Stage, seed: int) -> Iterator[Tensor]:
    """The batches of a stage; each epoch in an order of its own, a last incomplete batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    step = 0
    while step < stage.steps:
        order = torch.randperm(count, generator=generator)
        for rows in order.split(stage.batch_size)[: count // stage.batch_size]:
            if step == stage.steps:
                return
            step += 1
            yield rows
