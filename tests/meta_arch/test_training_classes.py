"""ESC-Net trained on a part of the vocabulary: which classes are kept, and that the loss is that of these alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from escnet import Vocabulary
from escnet.config import load_config
from escnet.layers.class_choice import positions
from escnet.losses.segmentation import segmentation_loss
from escnet.meta_arch.esc_net import ESCNet

CONFIG = Path(__file__).parents[2] / "configs" / "camvid" / "escnet.yaml"
WORDS = Vocabulary([f"thing {i}" for i in range(12)])


def make_model(*opts: object) -> ESCNet:
    torch.manual_seed(0)
    common = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", "(48, 64)", "MODEL.ESC.WINDOW", "4"]
    model = build_model(load_config(CONFIG, [*common, *map(str, opts)]))
    for block in model.blocks:
        torch.nn.init.normal_(block.fusion.change.weight, std=0.5)
    return model


def make_targets() -> torch.Tensor:
    targets = torch.full((2, 48, 64), -1)
    targets[0, :20], targets[0, 20:40] = 3, 7
    targets[1, :, :30], targets[1, :, 30:31] = 11, 0
    return targets


def test_present_classes_are_kept_and_others_drawn_at_random() -> None:
    model, targets = make_model("MODEL.ESC.TRAIN_CLASSES", 5), make_targets()
    drawn: set[int] = set()
    for seed in range(30):
        torch.manual_seed(seed)
        rows = model.training_rows(targets, 12)
        assert rows.shape == (2, 5)
        assert {3, 7} <= set(rows[0].tolist()) and {0, 11} <= set(rows[1].tolist())
        for row in rows:
            assert row.tolist() == sorted(set(row.tolist()))
        drawn |= set(rows[0].tolist())
    assert drawn == set(range(12))


def test_no_present_class_is_ever_left_out() -> None:
    model = make_model("MODEL.ESC.TRAIN_CLASSES", 2)
    targets = torch.arange(6).repeat_interleave(8)[None, :, None].expand(1, 48, 64)
    assert model.training_rows(targets, 12).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_number_is_drawn_for_each_step() -> None:
    model = make_model("MODEL.ESC.TRAIN_CLASSES", 5, "MODEL.ESC.TRAIN_LEAST", 3)
    torch.manual_seed(0)
    rows = [model.training_rows(make_targets(), 12) for _ in range(60)]
    assert {row.shape[1] for row in rows} == {3, 4, 5}
    assert all({3, 7} <= set(row[0].tolist()) for row in rows)
    # Without TRAIN_CLASSES, up to all of them.
    free = make_model("MODEL.ESC.TRAIN_LEAST", 10)
    rows = [free.training_rows(make_targets(), 12) for _ in range(60)]
    assert {12 if row is None else row.shape[1] for row in rows} == {10, 11, 12}


@pytest.mark.parametrize("count", (0, 12, 40))
def test_all_classes_are_kept_unless_fewer_are_asked_for(count: int) -> None:
    assert make_model("MODEL.ESC.TRAIN_CLASSES", count).training_rows(make_targets(), 12) is None


def test_positions_by_hand() -> None:
    targets = torch.tensor([[[3, 7, -1]], [[5, 5, 0]]])
    rows = torch.tensor([[1, 3, 7], [0, 2, 5]])
    assert positions(targets, rows, 8).tolist() == [[[1, 2, -1]], [[2, 2, 0]]]


def test_the_loss_is_that_of_a_vocabulary_of_the_kept_classes() -> None:
    """Of one image: the model sees the kept classes only, so a shorter vocabulary gives the same loss."""
    targets, image = make_targets()[:1], torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    model = make_model("MODEL.ESC.TRAIN_CLASSES", 4, "MODEL.ESC.AUX_LOSS", 0.5).train()
    torch.manual_seed(5)
    losses = model.losses(image, targets, WORDS)
    torch.manual_seed(5)
    kept = model.training_rows(targets, 12)[0].tolist()
    shorter = Vocabulary([WORDS.names[row] for row in kept])
    expected = (
        make_model("MODEL.ESC.AUX_LOSS", 0.5)
        .train()
        .losses(image, positions(targets, torch.tensor([kept]), 12), shorter)
    )
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)


def test_inference_keeps_all_classes() -> None:
    model, image = make_model("MODEL.ESC.TRAIN_CLASSES", 4).eval(), torch.zeros(1, 3, 48, 64)
    with torch.no_grad():
        assert model.segment(model.encode(image), WORDS).logits.shape[1] == 12


def test_gradients_are_finite_when_everything_is_ignored() -> None:
    model = make_model("MODEL.ESC.TRAIN_CLASSES", 4).train()
    loss = model.losses(torch.zeros(1, 3, 48, 64), torch.full((1, 48, 64), -1), WORDS)["loss_sem_seg"]
    loss.backward()
    assert loss.item() == 0
    assert segmentation_loss(torch.zeros(1, 2, 2, 2), torch.full((1, 4, 4), -1)).item() == 0
