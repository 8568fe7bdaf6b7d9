"""Pseudo prompts worked out by hand on tiny maps."""

from __future__ import annotations

import pytest
import torch

from escnet.layers.pseudo_prompts import PseudoPromptGenerator


def on_class_axis(probability):
    """A two-class correlation whose softmax over the classes gives `probability` to class 0."""
    p = torch.tensor(probability)
    return torch.stack([p.log(), (1 - p).log()])[None]


def test_two_objects_by_hand():
    correlation = on_class_axis(
        [
            [0.9, 0.8, 0.1, 0.1, 0.1],
            [0.7, 0.1, 0.1, 0.1, 0.6],
            [0.1, 0.1, 0.1, 0.1, 0.95],
        ]
    )
    prompts = PseudoPromptGenerator(num_prompts=2, alpha=0.55)(correlation, 1.0)
    objects = {tuple(p) for p in prompts.points[0, 0].tolist()}
    assert objects == {(0.0, 0.0), (4.0, 2.0)}
    assert prompts.labels[0, 0].tolist() == [1, 1]
    first = prompts.points[0, 0].tolist().index([0.0, 0.0])
    masks = prompts.masks[0, 0].int()
    assert masks[first].tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert masks[1 - first].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]
    assert prompts.boxes[0, 0, first].tolist() == [0, 0, 1, 1]
    assert prompts.boxes[0, 0, 1 - first].tolist() == [4, 1, 4, 2]


def test_fewer_cells_than_objects_leave_padding():
    correlation = on_class_axis([[0.9, 0.1, 0.1], [0.1, 0.1, 0.7]])
    prompts = PseudoPromptGenerator(num_prompts=4, alpha=0.5)(correlation, 1.0)
    assert sorted(prompts.labels[0, 0].tolist()) == [-1, -1, 1, 1]
    valid = prompts.labels[0, 0] > 0
    assert {tuple(p) for p in prompts.points[0, 0][valid].tolist()} == {(0.0, 0.0), (2.0, 1.0)}
    assert not prompts.masks[0, 0][~valid].any()
    assert prompts.points.isfinite().all() and prompts.boxes.isfinite().all()


def test_an_empty_region_keeps_the_most_probable_cell():
    prompts = PseudoPromptGenerator(num_prompts=3, alpha=0.9)(on_class_axis([[0.1, 0.3], [0.2, 0.15]]), 1.0)
    assert prompts.labels[0, 0].tolist().count(1) == 1
    assert prompts.points[0, 0][prompts.labels[0, 0] > 0].tolist() == [[1.0, 0.0]]
    assert prompts.region[0, 0].int().tolist() == [[0, 1], [0, 0]]


def test_space_axis_cuts_at_a_share_of_the_peak():
    correlation = torch.tensor([[[[0.0, -1.0, -2.0]]]])
    generator = PseudoPromptGenerator(num_prompts=1, alpha=0.3, softmax_axis="space")
    prompts = generator(correlation, 1.0)  # exp of 0, -1, -2: 1, 0.37, 0.14
    assert prompts.region[0, 0].tolist() == [[True, True, False]]
    softmax = correlation.flatten(2).softmax(-1)
    torch.testing.assert_close(prompts.probability.flatten(2), softmax / softmax.amax(-1, keepdim=True))
    assert generator(correlation, 2.0).region[0, 0].tolist() == [[True, False, False]]


def test_no_gradient_passes():
    correlation = torch.rand(1, 3, 4, 4, requires_grad=True)
    prompts = PseudoPromptGenerator(2)(correlation, 10.0)
    assert not prompts.points.requires_grad and not prompts.probability.requires_grad


def test_classes_takes_a_part():
    prompts = PseudoPromptGenerator(2)(torch.rand(1, 5, 4, 4), 10.0)
    part = prompts.classes(slice(1, 3))
    assert torch.equal(part.points, prompts.points[:, 1:3])
    assert torch.equal(part.masks, prompts.masks[:, 1:3])


@pytest.mark.parametrize("arguments", [{"num_prompts": 0}, {"alpha": 1.5}, {"softmax_axis": "time"}])
def test_bad_settings_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PseudoPromptGenerator(**arguments)
