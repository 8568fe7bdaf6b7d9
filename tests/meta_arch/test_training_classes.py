"""ESC-Net trained on a part of the vocabulary: which classes are kept, and that the loss is that of these alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from escnet import Vocabulary
from escnet.config import load_config
from escnet.layers.class_choice import positions, regional_shares
from escnet.losses.segmentation import segmentation_loss
from escnet.meta_arch.correlation_model import Candidates, ClassChoice, CorrelationModel

CONFIG = Path(__file__).parents[2] / "configs" / "camvid" / "escnet.yaml"
WORDS = Vocabulary([f"thing {i}" for i in range(12)])


def make_model(*opts: object) -> CorrelationModel:
    torch.manual_seed(0)
    common = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", "(48, 64)", "MODEL.ESC.WINDOW", "4"]
    model = build_model(load_config(CONFIG, [*common, *map(str, opts)]))
    for block in getattr(model, "blocks", ()):
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


SYSTEMS = (("ESCNet",), ("ESCNet", "MODEL.ESC.FIRST_BLOCKS", 0), ("CostAggregation",))
IN_USE = ("MODEL.ESC.TRAIN_FIRST", 8, "MODEL.ESC.TRAIN_CLASSES", 4)


def make_step(
    monkeypatch: pytest.MonkeyPatch, *opts: object, targets: torch.Tensor | None = None
) -> tuple[CorrelationModel, dict[str, torch.Tensor], list[Candidates]]:
    """A model, the losses of a step, and the words of each of its passes, the first one first."""
    model = make_model("MODEL.META_ARCHITECTURE", *opts).train()
    seen: list[Candidates] = []
    for name in ("early_logits", "refine"):
        whole = getattr(model, name)
        monkeypatch.setattr(
            model, name, lambda features, words, whole=whole: seen.append(words) or whole(features, words)
        )
    return model, model.losses(make_images(), make_targets() if targets is None else targets, WORDS), seen


def make_images() -> torch.Tensor:
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_chooses_as_in_use(system: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    _, losses, seen = make_step(monkeypatch, *system, *IN_USE)
    used = make_model("MODEL.META_ARCHITECTURE", *system, "MODEL.ESC.MAX_CLASSES", 8, "MODEL.ESC.KEEP", 4).eval()
    with torch.no_grad():
        result = used.segment(used.encode(make_images()), WORDS)
    assert torch.equal(seen[0].rows, result.first_rows) and torch.equal(seen[-1].rows, result.rows)
    assert set(losses) == {"loss_sem_seg", "loss_first"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_the_first_pass_leaves_out_is_ignored(system: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pixels of all the classes, the loss of either pass is that of those of its own classes alone."""
    monkeypatch.setattr("escnet.meta_arch.correlation_model.segmentation_loss", lambda *args: calls.append(args) or 0.0)
    calls: list[tuple[torch.Tensor, torch.Tensor, str]] = []
    targets = (torch.arange(48 * 64) % 12).reshape(1, 48, 64).repeat(2, 1, 1)
    _, _, seen = make_step(monkeypatch, *system, *IN_USE, targets=targets)
    (_, fine, _), (early, coarse, _) = calls
    for image in range(2):
        expected = torch.full((12,), -1)
        expected[seen[-1].rows[image]] = torch.arange(4)
        assert torch.equal(fine[image], expected[targets[image]])
        expected[seen[0].rows[image]] = torch.arange(8)
        side = 48 // coarse.shape[-2]
        assert torch.equal(coarse[image], expected[targets[image, ::side, ::side]])
    assert early.shape[1] == 8


def test_the_loss_on_the_first_pass_by_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed = {
        weight: make_step(monkeypatch, "ESCNet", *IN_USE, "MODEL.ESC.FIRST_LOSS", weight)[1] for weight in (0.2, 0.4)
    }
    torch.testing.assert_close(2 * weighed[0.2]["loss_first"], weighed[0.4]["loss_first"])
    model, losses, seen = make_step(monkeypatch, "ESCNet", *IN_USE, "MODEL.ESC.FIRST_LOSS", 0.0)
    assert set(losses) == {"loss_sem_seg"} and [words.number for words in seen] == [8, 4]
    torch.testing.assert_close(losses["loss_sem_seg"], weighed[0.4]["loss_sem_seg"])
    with torch.no_grad():
        assert not model.losses(make_images(), make_targets(), WORDS)["loss_sem_seg"].requires_grad


@pytest.mark.parametrize("system", SYSTEMS)
def test_clip_learns_from_both_passes(system: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("loss_sem_seg", "loss_first"):
        model, losses, _ = make_step(monkeypatch, *system, *IN_USE, "MODEL.CLIP.TRAIN", "attention")
        losses[name].backward()
        for encoder in (model.clip_image, model.clip_text):
            learning = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
            assert learning and all(parameter.grad.abs().sum() > 0 for parameter in learning)


def test_the_first_block_learns_from_the_first_pass() -> None:
    """From images of which the whole pass sees no class that they hold."""
    model = make_model(*IN_USE, "MODEL.ESC.TRAIN_CLASSES", 1).train()
    features = model.encode(make_images())
    first = model._ranked(model.candidates(features, WORDS), 8)
    row = next(row for row in first.rows[0].tolist() if row not in chosen_rows(model, features, first))
    losses = model.losses(make_images()[:1], torch.full((1, 48, 64), row), WORDS)
    assert losses["loss_sem_seg"].item() == 0 and losses["loss_first"].item() > 0
    losses["loss_first"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.blocks[0].parameters())
    assert all(p.grad is None for p in model.blocks[1].parameters())


def chosen_rows(model: CorrelationModel, features: torch.Tensor, first: Candidates) -> list[int]:
    shares = regional_shares(model.early_logits(features, first))
    return first.rows.gather(1, shares.argmax(dim=1, keepdim=True))[0].tolist()


def test_a_number_is_drawn_for_the_classes_of_a_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, seen = make_step(monkeypatch, "ESCNet", *IN_USE, "MODEL.ESC.TRAIN_LEAST", 2)
    for _ in range(12):
        model.losses(make_images(), make_targets(), WORDS)
    assert {words.number for words in seen[::2]} == {8} and {words.number for words in seen[1::2]} == {2, 3, 4}
    assert model.choice.training_range(12) == (2, 4) and model.choice.training_range(3) == (2, 3)
    assert ClassChoice(train=0, train_first=8).training_range(12) == (8, 8)


def test_a_first_pass_in_training_over_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, losses, seen = make_step(monkeypatch, "ESCNet", "MODEL.ESC.TRAIN_FIRST", 40, "MODEL.ESC.TRAIN_CLASSES", 20)
    assert [words.number for words in seen] == [12, 12] and set(losses) == {"loss_sem_seg", "loss_first"}


def test_gradients_of_both_passes_are_finite_when_everything_is_ignored() -> None:
    model = make_model(*IN_USE).train()
    losses = model.losses(make_images(), torch.full((2, 48, 64), -1), WORDS)
    sum(losses.values()).backward()
    assert all(loss.item() == 0 for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
