"""Training of a promptable model on simulated prompts (Segment Anything, sec. A "Training algorithm")."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from escnet.data.simulated_prompts import BOX_NOISE, loose_boxes, random_clicks, shrink_masks
from escnet.losses.masks import prediction_loss
from escnet.meta_arch.interfaces import MaskPrediction, PromptableModel, Prompts
from escnet.training.tasks.interface import SequentialTask

Answer = Callable[[slice, Prompts, bool], tuple[MaskPrediction, Tensor]]


@dataclass(frozen=True)
class Prompting:
    """How a model is asked for its targets, and how its answers are judged.

    Attributes:
        rounds: most predictions for a target; each step draws their number, from 1.
        box_noise, box_limit: of the boxes to start from, as a share of their sides and in pixels.
        focal_weight: of the focal loss, where the Dice loss has 1.
        focal_alpha: weight of the object's pixels in the focal loss; the others have 1 - focal_alpha.
    """

    rounds: int = 5
    box_noise: float = BOX_NOISE
    box_limit: float = 20.0
    focal_weight: float = 20.0
    focal_alpha: float = 0.75


class PromptableTask(SequentialTask):
    """Trains a model to draw masks; batches are images (B, 3, H, W) in 0..255, and targets (B, T, H, W) bool.

    Args:
        model: takes points, boxes and masks.
        prompting: the numbers.
        random_seed: of batches and prompts.
    """

    def __init__(self, model: PromptableModel, prompting: Prompting, random_seed: int) -> None:
        super().__init__(model, random_seed)
        self.prompting = prompting

    def arithmetic(self) -> AbstractContextManager:
        """The precision in which the model is run."""
        return nullcontext()

    def backward(self, batch: tuple[Tensor, Tensor], scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        images, targets = batch
        with self.arithmetic():
            loss = batch_loss(self.model, images, targets, self.prompting, self.generator)
        scale(loss).backward()
        return {"masks": loss.detach()}


def batch_loss(
    model: PromptableModel, images: Tensor, targets: Tensor, prompting: Prompting, generator: torch.Generator
) -> Tensor:
    """The mean loss () of all predictions for a batch.

    Args:
        model: the model.
        images: (B, 3, H, W) in 0..255, of the model's size.
        targets: (B, T, H, W) bool; every second one is asked for with a box, the others with a point.
        prompting: the numbers.
        generator: decides the prompts.
    """
    owners = torch.arange(len(targets)).repeat_interleave(targets.shape[1])
    features = model.of_images(model.encode(images), owners)
    masks = targets.flatten(0, 1).to(features.device)
    small = shrink_masks(masks, model.mask_size)

    def answer(part: slice, prompts: Prompts, is_ambiguous: bool) -> tuple[MaskPrediction, Tensor]:
        prediction = model.masks(features[part], prompts, multimask=is_ambiguous)
        return prediction, prediction_loss(*prediction, small[part], prompting.focal_weight, prompting.focal_alpha)

    return simulate_prompts(answer, masks, small, model.input_size, prompting, generator)


def simulate_prompts(
    answer: Answer, masks: Tensor, small: Tensor, side: int, prompting: Prompting, generator: torch.Generator
) -> Tensor:
    """The mean loss () of a model that is asked for some masks as SAM is in its training.

    Every second mask is asked for with a box, the others with a point; then as `iterated_loss` does.

    Args:
        answer: called with a slice of the masks, their prompts, and whether these are ambiguous; gives the model's
            masks and their losses (P,).
        masks: (P, H, W) bool, none empty.
        small: (P, 4h, 4w) the same at the size of the model's masks, none empty.
        side: of the model's square input.
        prompting: the numbers.
        generator: decides the prompts.
    """
    rounds = int(torch.randint(1, prompting.rounds + 1, (1,), generator=generator))
    points = random_clicks(torch.zeros_like(small[0::2]), small[0::2], side, generator)
    starts = [(slice(0, None, 2), Prompts(points[0][:, None], points[1][:, None]))]
    if len(masks) > 1:
        boxes = loose_boxes(masks[1::2], side, prompting.box_noise, prompting.box_limit, generator)
        starts.append((slice(1, None, 2), Prompts.from_boxes(boxes)))
    losses = [
        iterated_loss(partial(answer, part), start, small[part], rounds, side, generator) for part, start in starts
    ]
    return torch.cat(losses).mean()


def iterated_loss(
    answer: Callable[[Prompts, bool], tuple[MaskPrediction, Tensor]],
    prompts: Prompts,
    targets: Tensor,
    rounds: int,
    side: int,
    generator: torch.Generator,
) -> Tensor:
    """Predict, click where it is wrong, and predict again with the mask just predicted as a prompt.

    One of the later rounds has no new click: the model shall also improve a mask by itself.

    Args:
        answer: the model and its loss, as for `simulate_prompts`.
        prompts: the first ones, a point or a box each.
        targets: (P, 4h, 4w) bool.
        rounds: number of predictions.
        side: of the model's square input.
        generator: decides the clicks.

    Returns:
        (P,) loss, the mean over the rounds.
    """
    clickless = int(torch.randint(1, max(2, rounds), (1,), generator=generator))
    losses: list[Tensor] = []
    guess: Tensor | None = None
    for number in range(rounds):
        if guess is not None:
            prompts = prompts.with_masks(guess)
            if number != clickless:
                prompts = prompts.with_clicks(*random_clicks(guess > 0, targets, side, generator))
        is_ambiguous = guess is None and prompts.boxes is None
        prediction, loss = answer(prompts, is_ambiguous)
        losses.append(loss)
        guess = prediction.likeliest().detach()
    return torch.stack(losses).mean(dim=0)
