"""Label maps taken strip by strip, against the whole tensor at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from escnet.meta_arch import label_map as label_map_module
from escnet.meta_arch.label_map import label_map


@pytest.mark.parametrize("size", [(16, 20), (37, 53), (1, 1), (3, 5), (8, 200)])
@pytest.mark.parametrize("strip", [1, 700, 1 << 24])
def test_labels_equal_those_of_the_resized_tensor(monkeypatch, size, strip):
    monkeypatch.setattr(label_map_module, "STRIP_ELEMENTS", strip)
    torch.manual_seed(0)
    logits = torch.randn(6, 8, 10)
    labels, scores = label_map(logits, size)
    resized = F.interpolate(logits[None], size, mode="bilinear")[0]
    assert torch.equal(labels, resized.argmax(0))
    normaliser = F.interpolate(logits.logsumexp(0)[None, None], size, mode="bilinear")[0, 0]
    torch.testing.assert_close(scores, (resized.amax(0) - normaliser).exp())


def test_score_is_the_softmax_where_nothing_is_resized():
    torch.manual_seed(0)
    logits = torch.randn(4, 5, 6)
    torch.testing.assert_close(label_map(logits, (5, 6))[1], logits.softmax(0).amax(0))
