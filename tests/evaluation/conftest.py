"""What the tests of the evaluation share: random pairs of label maps, and their scores counted pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_maps() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Makes (prediction, truth) pairs: random_maps(num_classes, ignore_label, seed, size)."""
    return _random_maps


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., dict[str, float]]:
    """Counts the scores of such pairs from their definitions: brute_force(pairs, num_classes, ignore_label, scored)."""
    return _brute_force


def _random_maps(num_classes: int, ignore_label: int, seed: int, size: tuple[int, int] = (13, 17)):
    """A (prediction, truth) pair with ignored pixels; whatever the seed, some classes are only in one of the two maps,
    and some in neither."""
    classes = np.random.default_rng(num_classes).permutation(num_classes)
    in_truth = classes[: num_classes * 6 // 10]
    in_prediction = classes[num_classes * 3 // 10 : num_classes * 8 // 10]
    rng = np.random.default_rng(seed)
    truth = rng.choice(in_truth, size)
    guess = rng.choice(in_prediction, size)
    prediction = np.where(rng.random(size) < 0.5, truth, guess)
    truth = np.where(rng.random(size) < 0.2, ignore_label, truth)
    return prediction, truth.astype(np.uint8 if ignore_label == 255 else np.uint16)


def _brute_force(pairs, num_classes: int, ignore_label: int, scored: range | None = None) -> dict[str, float]:
    """The scores from their definitions, one pixel at a time, without a matrix; `scored`: ids, default all."""
    tp, truth_count, prediction_count = ([0] * num_classes for _ in range(3))
    for prediction, truth in pairs:
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t == ignore_label:
                continue
            truth_count[t] += 1
            prediction_count[p] += 1
            tp[t] += p == t
    present = [c for c in range(num_classes) if truth_count[c]]
    ids = range(num_classes) if scored is None else scored
    mean_of = [c for c in ids if truth_count[c]]
    either = [c for c in ids if truth_count[c] or prediction_count[c]]
    iou = {c: tp[c] / (truth_count[c] + prediction_count[c] - tp[c]) for c in present}
    pixels = sum(truth_count)
    return {
        "miou": sum(iou[c] for c in mean_of) / len(mean_of),
        "miou_d2_2021": sum(iou[c] for c in mean_of) / len(either),
        "pixel_accuracy": sum(tp) / pixels,
        "mean_accuracy": sum(tp[c] / truth_count[c] for c in mean_of) / len(mean_of),
        "fw_iou": sum(iou[c] * truth_count[c] / pixels for c in present),
        "class_iou": [iou.get(c, math.nan) for c in range(num_classes)],
    }
