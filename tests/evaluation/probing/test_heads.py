"""The heads: shapes, sizes, and pyramid pooling against the same computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from escnet.evaluation.probing.heads import HEADS, PspHead


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_scores_of_each_cell(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS[name](8, 5)
    scores = head(torch.randn(2, 8, 7, 9))
    assert scores.shape == (2, 5, 7, 9)
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_linear_head_does_not_depend_on_the_scale_of_a_channel() -> None:
    torch.manual_seed(0)
    head, features = HEADS["linear"](6, 4), torch.randn(3, 6, 5, 5)
    scaled = features * torch.tensor([1.0, 1e3, 10, 0.5, 1e2, 2])[:, None, None] + 7
    torch.testing.assert_close(head(scaled), head(features), atol=1e-3, rtol=1e-3)
    assert sum(parameter.numel() for parameter in head.parameters()) == 2 * 6 + 4 * 6 + 4


@torch.no_grad()
def test_the_pyramid_averages_over_bins() -> None:
    torch.manual_seed(0)
    head = PspHead(8, 3, channels=10).eval()
    features = torch.randn(1, 8, 6, 6)
    parts = [features]
    for side, (_, convolution, _, _) in zip((1, 2, 3, 6), head.levels, strict=True):
        bins = features.unfold(2, 6 // side, 6 // side).unfold(3, 6 // side, 6 // side).mean(dim=(-1, -2))
        # In evaluation mode a fresh BatchNorm divides by sqrt(1 + eps) alone.
        reduced = torch.einsum("bwij,cw->bcij", bins, convolution.weight[:, :, 0, 0]).div((1 + 1e-5) ** 0.5).relu()
        assert reduced.shape[1] == 2
        parts.append(F.interpolate(reduced, (6, 6), mode="bilinear", align_corners=False))
    torch.testing.assert_close(head(features), head.last(torch.cat(parts, dim=1)))
