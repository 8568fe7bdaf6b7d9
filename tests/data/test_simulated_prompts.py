"""Simulated prompts: where clicks and boxes lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from escnet.data.simulated_prompts import (
    centre_clicks,
    clicks_inside,
    exact_boxes,
    loose_boxes,
    random_clicks,
    shrink_masks,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, size: int = 12, seed: int = 0) -> torch.Tensor:
    """Bool masks of a few random rectangles, none of them empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), dtype=bool)
    for mask in masks:
        for _ in range(3):
            x, y = rng.integers(0, size - 2, 2)
            mask[y : y + rng.integers(2, 7), x : x + rng.integers(2, 7)] = True
    return torch.from_numpy(masks)


def test_shrunk_masks_keep_cells_covered_by_half() -> None:
    mask = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    assert shrink_masks(mask[None], (2, 2)).tolist() == [[[True, False], [False, True]]]


def test_random_clicks_lie_in_the_error_region_with_its_sign() -> None:
    targets, predicted = blobs(50), blobs(50, seed=1)
    predicted[:5] = targets[:5]
    points, labels = random_clicks(predicted, targets, 24, generator())
    # Two pixels of SAM's input are one of the masks, whose middle is half a pixel off.
    cells = ((points + 0.5) / 2 - 0.5).long()
    assert torch.equal((cells + 0.5) * 2 - 0.5, points)
    hit = torch.arange(50), cells[:, 1], cells[:, 0]
    assert torch.equal(targets[hit].float(), labels)
    assert (predicted[hit] != targets[hit])[5:].all()
    assert labels[:5].all()
    assert 0 < labels[5:].sum() < 45


def test_random_clicks_reach_every_wrong_pixel() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.bool)
    target[0, 0] = True
    predicted = ~target
    predicted[0, 0, 1] = True
    points, _ = random_clicks(predicted.repeat(200, 1, 1), target.repeat(200, 1, 1), 2, generator())
    assert {tuple(point) for point in points.tolist()} == {(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)}


def deepest_by_brute_force(region: np.ndarray) -> np.ndarray:
    """The distance of each pixel of a region to the nearest one outside it or outside the picture."""
    height, width = region.shape
    outside = [
        (y, x)
        for y in range(-1, height + 1)
        for x in range(-1, width + 1)
        if not (0 <= y < height and 0 <= x < width and region[y, x])
    ]
    depth = np.zeros(region.shape)
    for y, x in zip(*np.nonzero(region), strict=True):
        depth[y, x] = min(math.hypot(y - b, x - a) for b, a in outside)
    return depth


def test_clicks_inside_reach_every_pixel_of_their_own_mask_and_repeat() -> None:
    targets = torch.zeros(2, 4, 8, dtype=torch.bool)
    targets[0, 1, 2:5], targets[1, 3, 7] = True, True
    points = clicks_inside(targets, 32, 60, [np.random.RandomState(seed) for seed in (0, 1)])
    again = clicks_inside(targets, 32, 60, [np.random.RandomState(seed) for seed in (0, 1)])
    assert points.shape == (2, 60, 2) and torch.equal(points, again)
    # A pixel of the masks is 4 wide and 8 high there.
    assert {tuple(point) for point in points[0].tolist()} == {(9.5, 11.5), (13.5, 11.5), (17.5, 11.5)}
    assert {tuple(point) for point in points[1].tolist()} == {(29.5, 27.5)}


def test_centre_clicks_are_farthest_from_what_is_right() -> None:
    targets, predicted = blobs(12, 9), blobs(12, 9, seed=1)
    predicted[0], predicted[1] = False, targets[1]
    points, labels = centre_clicks(predicted, targets, 9)
    for point, label, guess, target in zip(points, labels, predicted.numpy(), targets.numpy(), strict=True):
        regions = [target & ~guess, guess & ~target] if (guess != target).any() else [target]
        depth = np.max([deepest_by_brute_force(region) for region in regions], axis=0)
        x, y = point.int().tolist()
        assert depth[y, x] == pytest.approx(depth.max())
        assert label == target[y, x]


def test_boxes_go_through_the_outer_edges() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:5, 1:7] = True
    assert exact_boxes(mask, 8).tolist() == [[0.5, 1.5, 6.5, 4.5]]
    loose = loose_boxes(mask.repeat(4000, 1, 1), 8, 0.1, 0.7, generator()) - exact_boxes(mask, 8)
    assert loose.abs().max() == pytest.approx(0.7)
    assert loose[:, 1].std().item() == pytest.approx(0.3, rel=0.1)
    assert loose.mean(dim=0).abs().max() < 0.05


def test_boxes_are_in_pixels_of_the_input_whatever_the_size_of_the_masks() -> None:
    large = blobs(20, 12).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    torch.testing.assert_close(exact_boxes(blobs(20, 12), 48), exact_boxes(large, 48))
    wide = torch.zeros(1, 4, 8, dtype=torch.bool)
    wide[0, 1:3, 2:6] = True
    assert exact_boxes(wide, 16).tolist() == [[3.5, 3.5, 11.5, 11.5]]
    spread = loose_boxes(wide.repeat(4000, 1, 1), 16, 0.1, 0.7, generator()) - exact_boxes(wide, 16)
    assert spread.abs().max() == pytest.approx(0.7) and spread[:, 1].std().item() > 0.4


def test_clicks_are_where_the_masks_are_and_not_where_they_are_drawn() -> None:
    chance = generator()
    with FakeTensorMode(allow_non_fake_inputs=True):
        masks = torch.zeros(2, 8, 8, dtype=torch.bool, device="cuda")
        points, labels = random_clicks(masks, shrink_masks(masks, (8, 8)), 16, chance)
    assert points.device.type == labels.device.type == "cuda"
