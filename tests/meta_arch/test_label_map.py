"""Label maps taken strip by strip or from the rows that contend, against the whole tensor at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.meta_arch import label_map as label_map_module
from escnet.meta_arch.contending_rows import contending_rows
from escnet.meta_arch.label_map import label_map


def interpolate(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[None].float(), size, mode="bilinear", align_corners=False)[0]


def all_rows(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`label_map` as it was before rows were left out."""
    height = size[0]
    logits = torch.cat([logits, logits.logsumexp(dim=0, keepdim=True)]).float()
    position = ((torch.arange(height) + 0.5) * (logits.shape[1] / height) - 0.5).clamp(min=0)
    above = position.floor().long().clamp(max=logits.shape[1] - 1)
    below = (above + 1).clamp(max=logits.shape[1] - 1)
    resized = torch.lerp(logits[:, above], logits[:, below], (position - above).view(1, -1, 1))
    resized = interpolate(resized, size)
    best, labels = resized[:-1].max(dim=0)
    return labels, (best - resized[-1]).exp()


def smooth(rows: int, height: int, width: int) -> Tensor:
    """As a model's: each row is smooth, few stand out, and a little noise."""
    coarse = F.interpolate(3 * torch.randn(1, rows, 4, 3), (height, width), mode="bicubic")[0]
    return coarse + torch.randn(rows, 1, 1) + 0.1 * torch.randn(rows, height, width)


def noise(rows: int, height: int, width: int) -> Tensor:
    return torch.randn(rows, height, width)


def with_ties(rows: int, height: int, width: int) -> Tensor:
    """Whole numbers, and each row twice."""
    return smooth(-(-rows // 2), height, width).round().repeat(2, 1, 1)[:rows]


def constant(rows: int, height: int, width: int) -> Tensor:
    return torch.randn(rows, 1, 1).round().expand(rows, height, width)


def with_padding(rows: int, height: int, width: int) -> Tensor:
    """Every third row is as low as it can be."""
    logits = smooth(rows, height, width)
    logits[1::3] = torch.finfo(torch.float).min
    return logits


KINDS = [smooth, noise, with_ties, constant, with_padding]
GRIDS_AND_SIZES = [
    ((8, 10), (16, 20)),
    ((8, 10), (37, 53)),
    ((8, 10), (8, 10)),
    ((8, 10), (9, 11)),
    ((8, 10), (3, 5)),
    ((8, 10), (1, 1)),
    ((8, 10), (5, 200)),
    ((24, 24), (96, 161)),
    ((2, 2), (90, 70)),
    ((2, 9), (150, 9)),
    ((1, 7), (20, 50)),
    ((7, 1), (20, 50)),
    ((1, 1), (30, 40)),
]


@pytest.fixture
def contending(monkeypatch):
    """Rows are left out wherever they can be, whether or not it pays."""
    monkeypatch.setattr(label_map_module, "LEAST_ROWS", 1)
    monkeypatch.setattr(label_map_module, "LEAST_ENLARGEMENT", 0)
    monkeypatch.setattr(label_map_module, "MOST_CONTENDING", 1)


@pytest.mark.parametrize("size", [(16, 20), (37, 53), (1, 1), (3, 5), (8, 200)])
@pytest.mark.parametrize("strip", [1, 700, 1 << 24])
def test_labels_equal_those_of_the_resized_tensor(monkeypatch, size, strip):
    monkeypatch.setattr(label_map_module, "STRIP_ELEMENTS", strip)
    torch.manual_seed(0)
    logits = torch.randn(6, 8, 10)
    labels, scores = label_map(logits, size)
    resized = interpolate(logits, size)
    assert torch.equal(labels, resized.argmax(0))
    normaliser = interpolate(logits.logsumexp(0)[None], size)[0]
    torch.testing.assert_close(scores, (resized.amax(0) - normaliser).exp())


def test_score_is_the_softmax_where_nothing_is_resized():
    torch.manual_seed(0)
    logits = torch.randn(4, 5, 6)
    torch.testing.assert_close(label_map(logits, (5, 6))[1], logits.softmax(0).amax(0))


@pytest.mark.parametrize("grid,size", GRIDS_AND_SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_leaving_rows_out_changes_nothing(contending, rows: int, kind: Callable, grid, size):
    torch.manual_seed(0)
    logits = kind(rows, *grid)
    labels, scores = label_map(logits, size)
    expected, expected_scores = all_rows(logits, size)
    resized = interpolate(logits, size)
    # Which of two rows is best, if they tie within rounding, is not said.
    for best in (expected, resized.argmax(0)):
        chosen, greatest = resized.gather(0, labels[None]), resized.gather(0, best[None])
        torch.testing.assert_close(chosen, greatest, rtol=0, atol=1e-5)
        assert (labels != best).float().mean() <= (0.2 if kind is with_ties else 0.001)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strip", [1, 700, 20_000])
def test_memory_limits_change_nothing(contending, monkeypatch, strip):
    torch.manual_seed(0)
    logits = smooth(50, 12, 14)
    labels, scores = label_map(logits, (70, 90))
    monkeypatch.setattr(label_map_module, "STRIP_ELEMENTS", strip)
    assert torch.equal(label_map(logits, (70, 90))[0], labels)
    torch.testing.assert_close(label_map(logits, (70, 90))[1], scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    logits = smooth(60, 12, 14).to(dtype)
    labels, scores = label_map(logits, (70, 90))
    expected, expected_scores = all_rows(logits, (70, 90))
    assert scores.dtype == torch.float and (labels != expected).float().mean() < 0.001
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [6, 60])
def test_infinitely_low_rows_never_win(rows):
    torch.manual_seed(0)
    logits = smooth(rows, 12, 14)
    kept = torch.arange(1, rows, 2)
    padded = torch.full_like(logits, -torch.inf)
    padded[kept] = logits[kept]
    labels, scores = label_map(padded, (70, 90))
    expected, expected_scores = all_rows(logits[kept], (70, 90))
    assert torch.equal(labels, kept[expected])
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [6, 60])
def test_infinitely_low_points(rows):
    torch.manual_seed(0)
    logits = smooth(rows, 12, 14)
    logits[1:][torch.rand(rows - 1, 12, 14) < 0.1] = -torch.inf
    labels, scores = label_map(logits, (70, 90))
    assert (labels != all_rows(logits.clamp(min=-1e30), (70, 90))[0]).float().mean() < 0.001
    assert scores.isfinite().all()


@pytest.mark.parametrize("rows", [6, 60])
def test_what_is_not_a_number_is_seen(rows):
    torch.manual_seed(0)
    logits = smooth(rows, 12, 14)
    logits[4, 5, 6] = torch.nan
    labels, scores = label_map(logits, (70, 90))
    expected, expected_scores = all_rows(logits, (70, 90))
    assert torch.equal(labels[scores.isnan()], expected[scores.isnan()])
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_logits_are_not_changed():
    logits = torch.full((2, 3, 3), -torch.inf)
    logits[0] = 1
    before = logits.clone()
    label_map(logits, (9, 9))
    assert torch.equal(logits, before)


def test_only_rows_that_can_win_contend():
    logits = torch.tensor(
        [
            [[1.0, 1.0, 5.0], [1.0, 1.0, 5.0]],
            [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]],
            [[0.0, 0.9, 9.0], [0.9, 0.9, 0.0]],
        ]
    )
    # In the first cell the second row ties at a corner; in the second cell the third row is best at another.
    expected = torch.tensor([[True, True], [True, True], [False, True]])
    for elements in (1, 100):
        assert torch.equal(contending_rows(logits, elements)[:, 0], expected)


def test_all_rows_are_resized_only_where_that_pays(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(label_map_module, "best_contending_rows", None)
    label_map(noise(60, 12, 14), (70, 90))
    label_map(smooth(8, 12, 14), (70, 90))
    label_map(smooth(60, 12, 14), (14, 16))
    monkeypatch.undo()
    monkeypatch.setattr(label_map_module, "_best_rows", None)
    label_map(smooth(60, 12, 14), (70, 90))
