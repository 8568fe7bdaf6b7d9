"""Promptable training over the interface alone: prompts of each round, and that losses reach the model."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from escnet.losses.masks import prediction_loss
from escnet.meta_arch.interfaces import MaskPrediction, PromptableModel, Prompts
from escnet.training.tasks.promptable import PromptableTask, Prompting, batch_loss, iterated_loss
from escnet.vocabulary import Vocabulary

TARGETS = torch.zeros(2, 2, 8, 8, dtype=torch.bool)
TARGETS[:, 0, :4] = True
TARGETS[:, 1, :, 4:] = True


class Constant(PromptableModel):
    """The same logit everywhere; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.5))
        self.asked: list[tuple[int, bool, bool, bool]] = []

    @property
    def input_size(self) -> int:
        return 8

    @property
    def mask_size(self) -> tuple[int, int]:
        return 4, 4

    def encode(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3), keepdim=True)

    def masks(
        self, features: Tensor, prompts: Prompts, words: Vocabulary | None = None, multimask: bool = False
    ) -> MaskPrediction:
        assert len(features) == len(prompts.points)
        self.asked.append((prompts.points.shape[1], prompts.boxes is not None, prompts.masks is not None, multimask))
        logits = self.logit.expand(len(features), 3 if multimask else 1, 4, 4)
        return MaskPrediction(logits, logits.mean(dim=(2, 3)))


class Task(PromptableTask):
    def batches(self, start_iteration: int) -> None:
        raise NotImplementedError

    optimizer = schedule = batches


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_later_round_has_no_new_click_and_all_have_the_last_mask() -> None:
    model, targets = Constant(), TARGETS.flatten(0, 1)[:, :4, :4]
    first = Prompts(torch.zeros(4, 1, 2), torch.ones(4, 1))

    def answer(prompts: Prompts, is_ambiguous: bool) -> tuple[MaskPrediction, Tensor]:
        prediction = model.masks(torch.zeros(4, 3, 1, 1), prompts, multimask=is_ambiguous)
        return prediction, prediction_loss(*prediction, targets, 20.0, 0.75)

    loss = iterated_loss(answer, first, targets, 4, model.input_size, generator())
    assert loss.shape == (4,)
    clicks = [asked[0] for asked in model.asked]
    assert clicks[0] == 1 and clicks[-1] == 3
    steps = [after - before for before, after in pairwise(clicks)]
    assert sorted(steps) == [0, 1, 1]
    assert [asked[2:] for asked in model.asked] == [(False, True)] + [(True, False)] * 3


def test_every_second_target_is_asked_for_with_a_box() -> None:
    model = Constant()
    batch_loss(model, torch.zeros(2, 3, 8, 8), TARGETS, Prompting(rounds=1), generator())
    assert model.asked == [(1, False, False, True), (0, True, False, False)]


def test_the_loss_is_scaled_once_and_reaches_the_model() -> None:
    gradients = []
    for factor in (1.0, 8.0):
        task = Task(Constant(), Prompting(), random_seed=0)
        losses = task.backward((torch.zeros(2, 3, 8, 8), TARGETS), lambda loss, factor=factor: factor * loss)
        gradients.append(task.model.logit.grad.item())
        assert not losses["masks"].requires_grad
    assert gradients[0] != 0
    assert gradients[1] == pytest.approx(8 * gradients[0])
