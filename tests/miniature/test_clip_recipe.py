"""The recipe of the small CLIP: its data and schedule, that it learns and resumes; and how it is judged."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transformer import PatchDropout

from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.miniature import clip_recipe as clip_pretraining
from escnet.miniature import pretraining
from escnet.miniature.clip_evaluation import evaluate_clip
from escnet.miniature.clip_recipe import (
    Captioned,
    ClipRecipe,
    clip_trainer,
    draw_batch,
    draw_captioned,
    normalise,
)
from escnet.miniature.world.classes import BASE, NOVEL, words
from escnet.pretrained.clip import build_clip
from escnet.training.trainer import Trainer

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


def trainer_of(data: Captioned, recipe: ClipRecipe, folder: Path, resume: bool = False) -> Trainer:
    torch.manual_seed(0)
    model, tokenizer = build_clip("escnet-mini")
    # Only with patch dropout does the model draw, from PyTorch's global generator.
    model.visual.patch_dropout = PatchDropout(0.5)
    trainer = clip_trainer(model, tokenizer, data, recipe, folder)
    trainer.resume_or_load(resume)
    return trainer


def test_training_lowers_the_loss_and_is_decided_by_the_seed(tmp_path: Path) -> None:
    data = draw_captioned(TINY, 1)

    def train(folder: Path) -> tuple[list[float], dict]:
        trainer = trainer_of(data, TINY, folder)
        losses, backward = [], trainer.task.backward

        def record(*arguments: object) -> dict[str, torch.Tensor]:
            found = backward(*arguments)
            losses.append(found["contrastive"].item())
            return found

        trainer.task.backward = record
        trainer.train()
        return losses, trainer.model.state_dict()

    (first, state), (second, other) = train(tmp_path / "a"), train(tmp_path / "b")
    assert len(first) == 25
    assert np.mean(first[-5:]) < 0.8 * np.mean(first[:3])
    assert first == second
    assert all(torch.equal(value, other[key]) for key, value in state.items())


def test_a_stopped_training_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "CHECKPOINT_PERIOD", 3)
    recipe = replace(TINY, steps=6)
    data = draw_captioned(recipe, 1)
    undisturbed = trainer_of(data, recipe, tmp_path / "undisturbed")
    undisturbed.train()
    trainer = trainer_of(data, recipe, tmp_path / "stopped")
    trainer.max_iter = 5  # one step after the checkpoint, so that the generators have gone on
    trainer.train()
    for name in ("model_final.pth", "model_0000004.pth"):
        (tmp_path / "stopped" / name).unlink(missing_ok=True)
    (tmp_path / "stopped/last_checkpoint").write_text("model_0000002.pth")
    resumed = trainer_of(data, recipe, tmp_path / "stopped", resume=True)
    assert resumed.start_iter == 3
    resumed.train()
    for name, value in undisturbed.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_temperature_stays_within_its_limit(tmp_path: Path) -> None:
    trainer = trainer_of(draw_captioned(TINY, 1), TINY, tmp_path)
    trainer.model.logit_scale.data.fill_(9.0)
    trainer.task.after_step()
    assert trainer.model.logit_scale.exp().item() == pytest.approx(100)


def test_a_model_that_knows_nothing_scores_what_chance_gives() -> None:
    torch.manual_seed(0)
    model, tokenizer = build_clip("escnet-mini")
    data = draw_captioned(replace(TINY, pictures=60), 5)
    figures = evaluate_clip(ClipImageEncoder(model.visual), ClipTextEncoder(model, tokenizer), data, scenes=5)
    assert figures.pictures == 60
    assert figures.zero_shot < 0.15
    assert figures.mask_pooled < 0.4
    assert 0 <= figures.image_to_text < 0.3
