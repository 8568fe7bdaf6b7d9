"""What a small CLIP has learned: words of whole pictures, of single objects in its dense features, and retrieval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.evaluation.classification import nearest_class, pool_masks, retrieval_recall
from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.miniature.clip_recipe import Captioned, normalise
from escnet.miniature.world.classes import BASE, NOVEL, words
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import compose
from escnet.vocabulary import Vocabulary

OBJECTS = (*BASE, *NOVEL)
_BATCH, _SCENE_SEED = 100, 0


@dataclass(frozen=True)
class ClipFigures:
    """Shares in 0..1.

    Attributes:
        zero_shot: pictures of one object whose pooled feature is nearest to its word, of all objects' words.
        zero_shot_novel: the same, of the novel objects alone (all words compete).
        mask_pooled: objects in larger pictures whose mean dense feature inside the mask is nearest to their word.
        mask_pooled_novel: the same, of the novel objects alone.
        image_to_text, text_to_image: retrieval R@1 among the pictures; equal captions count as right.
        pictures: among how many.
    """

    zero_shot: float
    zero_shot_novel: float
    mask_pooled: float
    mask_pooled_novel: float
    image_to_text: float
    text_to_image: float
    pictures: int


@torch.no_grad()
def evaluate_clip(
    image_encoder: ClipImageEncoder,
    text_encoder: ClipTextEncoder,
    captioned: Captioned,
    scenes: int = 200,
) -> ClipFigures:
    """Measure a CLIP on pictures that it was not trained on.

    Args:
        image_encoder, text_encoder: its towers; the dense features are those of `image_encoder.dense`.
        captioned: pictures as in training, for words and retrieval.
        scenes: number of larger pictures, for the dense features.
    """
    table = words()
    objects = text_encoder.encode(Vocabulary([table[i].name for i in OBJECTS]))
    pooled = torch.cat(
        [F.normalize(image_encoder(normalise(part)).pooled, dim=-1) for part in captioned.images.split(_BATCH)]
    )
    is_single = captioned.words >= 0
    right, novel = _is_right(pooled[is_single], captioned.words[is_single], objects)
    tokens = text_encoder.tokenizer(captioned.captions, context_length=text_encoder.context_length)
    image_to_text, text_to_image = retrieval_recall(pooled, text_encoder.embed(tokens, 256), captioned.captions)
    dense, truth = _mask_pooled(image_encoder, scenes)
    dense_right, dense_novel = _is_right(dense, truth, objects)
    return ClipFigures(
        zero_shot=right.mean().item(),
        zero_shot_novel=right[novel].mean().item(),
        mask_pooled=dense_right.mean().item(),
        mask_pooled_novel=dense_right[dense_novel].mean().item(),
        image_to_text=image_to_text,
        text_to_image=text_to_image,
        pictures=len(pooled),
    )


def _is_right(features: Tensor, truth: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each (n, D) feature is nearest to its word, as float; and whether its word is novel."""
    predicted = torch.tensor(OBJECTS)[nearest_class(features, objects)]
    return (predicted == truth).float(), truth >= NOVEL.start


def _mask_pooled(encoder: ClipImageEncoder, scenes: int) -> tuple[Tensor, Tensor]:
    """Pooled dense features (K, D) of all objects of some pictures, and their words (K,)."""
    glyphs = load_glyphs("base") + load_glyphs("novel")
    features, truth = [], []
    for number in range(scenes):
        scene = compose(glyphs, np.random.default_rng([_SCENE_SEED, number]))
        dense = encoder(normalise(torch.from_numpy(scene.image).permute(2, 0, 1)[None]), pooled=False).dense[0]
        instances = torch.from_numpy(scene.instances)
        masks = torch.stack([instances == k for k in range(1, int(instances.max()) + 1)])
        masks = masks[masks.any(dim=(1, 2))]
        features.append(pool_masks(dense, masks))
        truth += [int(scene.labels[mask.numpy()][0]) for mask in masks]
    return torch.cat(features), torch.tensor(truth)
