"""Tests of prompts that are read off similarity maps."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from escnet.layers.similarity_prompts import SimilarityPrompter


def test_the_region_is_what_exceeds_the_threshold_of_the_stretched_map() -> None:
    maps = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    prompts = SimilarityPrompter(points=7, threshold=0.6)(maps, (24, 20), torch.rand(7))
    for number, values in enumerate(maps):
        stretched = (values - values.min()) / (values.max() - values.min())
        fine = F.interpolate(stretched[None, None], (24, 20), mode="bilinear", align_corners=False)[0, 0]
        assert torch.equal(prompts.region[number], fine > 0.6)
        x, y = prompts.points.cells[number].long().unbind(dim=1)
        assert prompts.region[number, y, x].all()
    assert (prompts.points.labels == 1).all()


def test_a_map_without_any_difference_gives_no_prompt() -> None:
    prompts = SimilarityPrompter()(torch.full((1, 4, 4), 0.3), (8, 8), torch.rand(5))
    assert not prompts.region.any()
    assert (prompts.points.labels == -1).all()


def test_scale_and_offset_of_a_map_do_not_matter_and_no_gradient_passes() -> None:
    maps = torch.randn(2, 4, 4, requires_grad=True)
    uniform = torch.rand(5)
    plain, other = (SimilarityPrompter()(x, (8, 8), uniform) for x in (maps, 0.01 * maps + 7))
    assert torch.equal(plain.region, other.region)
    assert torch.equal(plain.points.cells, other.points.cells)
    assert not plain.points.cells.requires_grad
