"""The contrastive loss against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode

from escnet.losses.contrastive import contrastive_loss


def test_contrastive_loss_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    scale = torch.tensor(2.0).log()
    rows = [[2.0, 1.2], [0.0, 1.6]]
    by_image = [-math.log(math.exp(rows[i][i]) / sum(map(math.exp, rows[i]))) for i in (0, 1)]
    columns = list(zip(*rows, strict=True))
    by_text = [-math.log(math.exp(columns[i][i]) / sum(map(math.exp, columns[i]))) for i in (0, 1)]
    expected = (sum(by_image) / 2 + sum(by_text) / 2) / 2
    assert contrastive_loss(images, texts, scale).item() == pytest.approx(expected, rel=1e-6)


def test_targets_are_where_the_features_are() -> None:
    with FakeTensorMode():
        features = torch.randn(4, 8, device="cuda")
        loss = contrastive_loss(features, features, torch.zeros((), device="cuda"))
    assert loss.device.type == "cuda"
