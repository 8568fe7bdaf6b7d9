"""Evaluation by clicks and boxes, on a model that knows the truth."""

from __future__ import annotations

import pytest
import torch

from escnet.evaluation.prompting import RegionWords, evaluate_prompting
from escnet.meta_arch.interfaces import MaskPrediction, PromptableModel, Prompts
from escnet.vocabulary import Vocabulary


class Oracle(PromptableModel):
    """Answers with the truth inside the box or, with one click more each, ever more of it."""

    def __init__(self, targets: torch.Tensor) -> None:
        super().__init__()
        self.targets, self.seen = targets, []

    @property
    def input_size(self) -> int:
        return 32

    @property
    def mask_size(self) -> tuple[int, int]:
        return 32, 32

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 1, 8, 8)

    def masks(
        self, features: torch.Tensor, prompts: Prompts, words: Vocabulary | None = None, multimask: bool = False
    ) -> MaskPrediction:
        self.seen.append((prompts.labels.shape[1], prompts.masks is not None, multimask))
        right = torch.where(self.targets, 5.0, -5.0)[:, None]
        if prompts.boxes is None and prompts.labels.shape[1] < 3:
            # It expects most of the last of three masks, which is empty; the second one is right.
            right = torch.cat([-right, right, torch.full_like(right, -5.0)], dim=1) if multimask else -right
        return MaskPrediction(right, torch.arange(float(right.shape[1])).expand(len(right), -1))


GROUND = 128


def test_evaluation_clicks_and_scores() -> None:
    regions = torch.full((2, 32, 32), GROUND, dtype=torch.uint8)
    regions[0, 4:20, 4:20] = 1
    regions[1, 8:30, 2:10] = 2
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    oracle = Oracle(regions < GROUND)
    assert evaluate_prompting(oracle, images, regions, GROUND) == {
        "box": 1.0, "1 click, best of 3": 1.0, "1 click": 0.0, "3 clicks": 1.0, "5 clicks": 1.0, "objects": 2
    }  # fmt: skip
    later = [(count, True, False) for count in range(2, 6)]
    assert oracle.seen == [(0, False, False), (1, False, True), *later]
    regions.fill_(GROUND)
    with pytest.raises(ValueError, match="none of the 2 pictures"):
        evaluate_prompting(oracle, images, regions, GROUND)


class Hearing(Oracle):
    """Notes the words that it is asked with."""

    takes_words = True

    def __init__(self, targets: torch.Tensor) -> None:
        super().__init__(targets)
        self.heard: list[tuple[str, ...]] = []

    def masks(self, features, prompts, words=None, multimask=False):
        self.heard.append(tuple(words.vocabulary.names[row] for row in words.rows))
        return super().masks(features, prompts, None, multimask)


def test_each_object_is_asked_for_with_its_own_word() -> None:
    regions = torch.zeros(2, 32, 32, dtype=torch.uint8)
    regions[0, :8, :8], regions[0, 20:, 20:], regions[1, 4:9, 3:30] = 1, 3, 2
    targets = torch.stack([regions[0] == 1, regions[0] == 3, regions[1] == 2])
    rows = torch.tensor([[0, 2, 0, 1], [0, 0, 1, 0]])
    model = Hearing(targets)
    words = RegionWords(Vocabulary(["ground", "cat", "dog"]), rows)
    evaluate_prompting(model, torch.zeros(2, 3, 32, 32), regions, 10, words=words)
    assert set(model.heard) == {("dog", "cat", "cat")}
    assert len(model.heard) == 6  # a box and five clicks
