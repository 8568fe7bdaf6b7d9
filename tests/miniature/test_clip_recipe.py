"""The recipe of the small CLIP: its data, loss, schedule, and that it learns; and how it is judged."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.miniature import clip_recipe as clip_pretraining
from escnet.miniature import pretraining
from escnet.miniature.clip_evaluation import _retrieval, evaluate_clip, pool_masks
from escnet.miniature.clip_recipe import (
    Captioned,
    ClipRecipe,
    contrastive_loss,
    draw_batch,
    draw_captioned,
    normalise,
    train_clip,
)
from escnet.miniature.world.classes import BASE, NOVEL, words
from escnet.pretrained.clip import build_clip

TINY = ClipRecipe(pictures=48, steps=25, alone=6, fours=1, nines=1, warmup=3, learning_rate=2e-3)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining.os, "cpu_count", lambda: 1)


def test_pictures_have_captions_and_single_objects_their_word() -> None:
    data = draw_captioned(replace(TINY, pictures=60), 3)
    assert data.images.shape == (60, 3, 48, 48)
    assert data.images.dtype == torch.uint8
    assert len(data.captions) == 60
    table = words()
    singles = 0
    for caption, word in zip(data.captions, data.words.tolist(), strict=True):
        if word >= 0:
            singles += 1
            assert word in (*BASE, *NOVEL)
            assert table[word].name in caption
    assert 25 <= singles <= 55
    assert torch.equal(draw_captioned(replace(TINY, pictures=60), 3).images, data.images)
    assert torch.equal(draw_captioned(replace(TINY, pictures=20), 3).images, data.images[:20])
    assert not torch.equal(draw_captioned(replace(TINY, pictures=20), 4).images, data.images[:20])


def test_contrastive_loss_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    scale = torch.tensor(2.0).log()
    rows = [[2.0, 1.2], [0.0, 1.6]]
    by_image = [-math.log(math.exp(rows[i][i]) / sum(map(math.exp, rows[i]))) for i in (0, 1)]
    columns = list(zip(*rows, strict=True))
    by_text = [-math.log(math.exp(columns[i][i]) / sum(map(math.exp, columns[i]))) for i in (0, 1)]
    expected = (sum(by_image) / 2 + sum(by_text) / 2) / 2
    assert contrastive_loss(images, texts, scale).item() == pytest.approx(expected, rel=1e-6)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    recipe = replace(TINY, steps=100, warmup=10)
    rates = [clip_pretraining._rate(step, recipe) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_each_cell_of_a_collage_is_the_picture_of_its_caption() -> None:
    """Pictures that tell their number and place: channel 0 is the number, the others row and column."""
    place = torch.arange(48, dtype=torch.uint8)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    images = torch.stack([torch.stack([torch.full_like(rows, n), rows, columns]) for n in range(20)])
    is_single = torch.arange(20) % 2 == 0
    data = Captioned(images, [str(n) for n in range(20)], torch.where(is_single, 5, -1))
    recipe = replace(TINY, alone=3, fours=2, nines=2)
    rows, alone, fours, nines = draw_batch(data, recipe, torch.Generator().manual_seed(0))
    assert len(rows) == 3 + 8 + 18
    assert torch.equal(alone, data.images[rows[:3]])
    assert fours.shape == nines.shape == (2, 3, 96, 96)
    for cell, row in enumerate(rows[3:11].tolist()):
        y, x = 48 * (cell % 4 // 2), 48 * (cell % 2)
        assert torch.equal(fours[cell // 4, :, y : y + 48, x : x + 48], data.images[row])
    corners = set()
    for cell, row in enumerate(rows[11:].tolist()):
        y, x = 32 * (cell % 9 // 3), 32 * (cell % 3)
        piece = nines[cell // 9, :, y : y + 32, x : x + 32]
        top, left = int(piece[1, 0, 0]), int(piece[2, 0, 0])
        assert torch.equal(piece, data.images[row, :, top : top + 32, left : left + 32])
        assert is_single[row]
        corners.add((top, left))
    assert len(corners) > 9
    again = draw_batch(data, recipe, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip((rows, alone, fours, nines), again, strict=True))


def test_normalised_pixels_are_those_of_clip() -> None:
    assert normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten().tolist() == pytest.approx(
        [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    )


def test_training_lowers_the_loss_and_is_decided_by_the_seed() -> None:
    data = draw_captioned(TINY, 1)

    def train() -> tuple[list[float], dict]:
        torch.manual_seed(0)
        model, tokenizer = build_clip("escnet-mini")
        losses: list[float] = []
        train_clip(model, tokenizer, data, TINY, lambda step, loss: losses.append(loss))
        assert not model.training
        return losses, model.state_dict()

    (first, state), (second, other) = train(), train()
    assert len(first) == 25
    assert np.mean(first[-5:]) < 0.8 * np.mean(first[:3])
    assert first == second
    assert all(torch.equal(value, other[key]) for key, value in state.items())


def test_pooled_masks_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(5, 4, 4, generator=generator)
    masks = torch.rand(3, 16, 16, generator=generator) > 0.5
    for k, pooled in enumerate(pool_masks(dense, masks)):
        total = sum(dense[:, y // 4, x // 4] for y in range(16) for x in range(16) if masks[k, y, x])
        torch.testing.assert_close(pooled, F.normalize(total, dim=0))


def test_a_model_that_knows_nothing_scores_what_chance_gives() -> None:
    torch.manual_seed(0)
    model, tokenizer = build_clip("escnet-mini")
    data = draw_captioned(replace(TINY, pictures=60), 5)
    figures = evaluate_clip(ClipImageEncoder(model.visual), ClipTextEncoder(model, tokenizer), data, scenes=5)
    assert figures.pictures == 60
    assert figures.zero_shot < 0.15
    assert figures.mask_pooled < 0.4
    assert 0 <= figures.image_to_text < 0.3


def test_a_model_that_knows_the_answers_scores_one() -> None:
    """Features set by hand: each caption's own direction, so that retrieval is perfect."""
    data = draw_captioned(replace(TINY, pictures=12), 5)
    codes = {caption: F.one_hot(torch.tensor(i), 12).float() for i, caption in enumerate(dict.fromkeys(data.captions))}

    class Text:
        context_length = 1

        def tokenizer(self, captions: list[str], context_length: int) -> list[str]:
            return captions

        def embed(self, captions: list[str], chunk: int) -> torch.Tensor:
            return torch.stack([codes[caption] for caption in captions])

    pooled = torch.stack([codes[caption] for caption in data.captions])
    assert _retrieval(pooled, Text(), data.captions) == (1.0, 1.0)
    shifted = pooled.roll(1, dims=0)
    assert _retrieval(shifted, Text(), data.captions)[0] < 0.2
