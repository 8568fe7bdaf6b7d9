"""Averages of weights: by hand-worked values, at their ends, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from escnet.pretrained.files import WeightsError
from escnet.pretrained.merging import interpolate, unit_mean, weighted_average


def models() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two models of a matrix, a half-precision bias and a count."""
    a = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([0.5, 1.5]).half(), "n": torch.tensor(7)}
    b = {"w": torch.tensor([[3.0, 2.0], [-1.0, 0.0]]), "b": torch.tensor([2.5, 1.5]).half(), "n": torch.tensor(7)}
    return a, b


def test_interpolation_by_hand() -> None:
    a, b = models()
    merged = interpolate(a, b, 0.25)
    assert merged["w"].tolist() == [[1.5, 2.0], [2.0, 3.0]] and merged["b"].tolist() == [1.0, 1.5]
    assert merged["b"].dtype == torch.float16 and merged["n"] == 7
    for alpha, end in ((0, a), (1, b)):
        assert all(torch.equal(value, end[name]) for name, value in interpolate(a, b, alpha).items())
    assert a["w"].tolist() == models()[0]["w"].tolist()


def test_the_result_has_the_wider_type() -> None:
    half, full = {"w": torch.ones(1).half()}, {"w": torch.full((1,), 1 + 2**-12)}
    for a, b in ((half, full), (full, half)):
        assert interpolate(a, b, 0.5)["w"].item() == 1 + 2**-13


def test_the_ends_are_exact_for_any_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = ({"w": torch.randn(1000, generator=generator) * 10 ** torch.arange(1000).fmod(9)} for _ in range(2))
    assert torch.equal(interpolate(a, b, 0)["w"], a["w"]) and torch.equal(interpolate(a, b, 1)["w"], b["w"])


def test_the_weighted_average_by_hand() -> None:
    a, b = models()
    ours = {"w": torch.tensor([[1.0, 1.0], [0.0, 0.0]]), "b": torch.tensor([3.0, 1.0])}
    theirs = {"w": torch.tensor([[3.0, 1.0], [5.0, 0.0]]), "b": torch.tensor([1.0, 9.0])}
    merged = weighted_average(a, b, ours, theirs)
    # (1·1 + 3·3)/4; equal; only theirs; nothing known, so the mean of 4 and 0.
    assert merged["w"].tolist() == [[2.5, 2.0], [-1.0, 2.0]]
    assert merged["b"].tolist() == [1.0, 1.5] and merged["n"] == 7
    # F_a = 0.75, F_b = 0.25·3: (0.75·1 + 0.75·3)/1.5; nothing known: 0.75·4.
    assert weighted_average(a, b, ours, theirs, 0.25)["w"].tolist() == [[2.0, 2.0], [-1.0, 3.0]]


def test_equal_importance_is_interpolation() -> None:
    a, b = models()
    same = {"w": torch.full((2, 2), 0.3), "b": torch.full((2,), 0.3)}
    for alpha in (0.0, 0.2, 1.0):
        merged, expected = weighted_average(a, b, same, same, alpha), interpolate(a, b, alpha)
        for name, value in merged.items():
            torch.testing.assert_close(value, expected[name])


def test_a_mean_of_one() -> None:
    scaled = unit_mean({"w": torch.tensor([[1.0, 5.0]]), "b": torch.tensor([0.0, 2.0])})
    assert scaled["w"].tolist() == [[0.5, 2.5]] and scaled["b"].tolist() == [0.0, 1.0]
    with pytest.raises(WeightsError, match="is 0"):
        unit_mean({"w": torch.zeros(3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.zeros(1)}, "only in the second: extra"),
        ({"w": None}, "only in the first: w"),
        ({"w": torch.zeros(2, 3)}, r"of different shapes: w \(2, 2\) and \(2, 3\)"),
        ({"n": torch.tensor(8)}, "no floats, and different: n"),
        ({"n": torch.tensor(7.0)}, "no floats, and different: n"),
    ],
)
def test_models_of_two_architectures_are_refused(change: dict, message: str) -> None:
    a, b = models()
    b = {name: value for name, value in {**b, **change}.items() if value is not None}
    importance = {"w": torch.ones(2, 2), "b": torch.ones(2)}
    for merge in (lambda: interpolate(a, b, 0.5), lambda: weighted_average(a, b, importance, importance)):
        with pytest.raises(WeightsError, match=message):
            merge()


def test_importances_that_do_not_fit_are_refused() -> None:
    a, b = models()
    good = {"w": torch.ones(2, 2), "b": torch.ones(2)}
    for faulty, message in (
        ({"w": torch.ones(2, 2)}, "b differs between the two models, and has no importance"),
        (good | {"w": torch.ones(4)}, r"the second model; misshapen: w \(4,\) for \(2, 2\)"),
        (good | {"b": torch.tensor([1.0, -1.0])}, "negative or not finite: b"),
        (good | {"b": torch.tensor([1.0, float("nan")])}, "negative or not finite: b"),
        (good | {"v": torch.ones(2)}, "unknown: v"),
    ):
        with pytest.raises(WeightsError, match=message):
            weighted_average(a, b, good, faulty)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_is_a_share(alpha: float) -> None:
    a, b = models()
    with pytest.raises(ValueError, match="between 0, the first model alone, and 1"):
        interpolate(a, b, alpha)
