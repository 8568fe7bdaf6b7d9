"""Where a word alone makes CLIP-Guided SAM look: how much of the region that it is asked with lies on the thing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from escnet.config import load_config
from escnet.meta_arch.clip_guided_sam import ClipGuidedSam
from escnet.miniature.experiments import Options
from escnet.miniature.guided_ability import LEAST_AREA
from escnet.miniature.guided_tables import CONFIG
from escnet.miniature.world.classes import GLYPH_SETS, words
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import compose
from escnet.predictor import Segmenter
from escnet.vocabulary import Vocabulary

QUESTION = "How much of the region that a word gives lies on the thing, and how much of the thing in it (not trained)?"
PICTURES = 60
SETS = ("novel", "base")
SIMILARITIES: dict[str, Options] = {
    "cosine": (),
    "norm over the tokens": ("MODEL.GUIDED.NORM", "cells"),
    "cosine, less the empty text": ("MODEL.GUIDED.SUBTRACT_EMPTY", "True"),
}
THRESHOLDS = (0.6, 0.7, 0.8, 0.9, 0.95)
# No other pictures are drawn with this seed.
_SEED = 997


class Overlap(NamedTuple):
    """Of a region and a thing, both on the grid of the mask prompts.

    Attributes:
        on_thing: share of the region that lies on the thing.
        covered: share of the thing that lies in the region.
    """

    on_thing: float
    covered: float


def write_up_regions(common: Options = ()) -> str:
    """The table in Markdown: percent, the mean over all things of the pictures; a row for each kind and threshold."""
    lines = []
    for (name, kind), threshold in product(SIMILARITIES.items(), THRESHOLDS):
        options = (*common, *kind, "MODEL.GUIDED.THRESHOLD", str(threshold))
        model = Segmenter.from_config(load_config(CONFIG, options)).model
        cells = []
        for glyphs in SETS:
            found = list(overlaps(model, glyphs, PICTURES))
            for values in zip(*found, strict=True):
                cells.append(f"{100 * statistics.mean(values):.1f}")
        lines.append([name, threshold, *cells])
    headers = ["similarity", "threshold", *(f"{name}: {what}" for name in SETS for what in ("on the thing", "covered"))]
    return tabulate(lines, headers=headers, tablefmt="pipe", disable_numparse=True)


@torch.no_grad()
def overlaps(model: ClipGuidedSam, name: str, pictures: int) -> Iterator[Overlap]:
    """Of each thing in so many new pictures of a set of glyphs."""
    glyphs, names = load_glyphs(name), [word.name for word in words()]
    for number in range(pictures):
        scene = compose(glyphs, np.random.default_rng([_SEED, number]))
        features = model.encode(torch.from_numpy(scene.image.transpose(2, 0, 1).copy()))
        labels = torch.from_numpy(scene.labels.astype(np.int64))
        for row in labels.unique().tolist():
            thing = labels == row
            if row not in GLYPH_SETS[name] or thing.sum() < LEAST_AREA:
                continue
            similarity = model.similarity(features, Vocabulary([names[row]]))
            region = model.prompting.prompter(similarity, model.mask_size, similarity.new_zeros(1)).region[0]
            yield overlap(region.cpu(), thing)


def overlap(region: Tensor, thing: Tensor) -> Overlap:
    """Of a region (h, w) bool and a thing (H, W) bool, which is brought to the region's grid by area."""
    area = F.interpolate(thing[None, None].float(), tuple(region.shape), mode="area")[0, 0]
    shared = (area * region).sum().item()
    return Overlap(shared / max(region.sum().item(), 1), shared / area.sum().item())
