"""The sweep between two models, with a judge that reads their weights; and the plot of two abilities."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from escnet.evaluation.wise_ft import SweepPoint, input_side, save_sweep_plot, sweep, sweep_plot
from escnet.meta_arch.interfaces import InferenceOptions
from escnet.pretrained.files import WeightsError


def judge(model: nn.Module) -> dict[str, float]:
    assert not model.training and not torch.is_grad_enabled()
    value = model.weight.item()
    return {"accuracy": value, "AP": 1 - value**2}


def model_of(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(value)
    return model


def test_each_model_between_two_is_judged() -> None:
    first, second = model_of(0.2).state_dict(), model_of(0.6).state_dict()
    model = model_of(5).train()
    points = list(sweep(model, first, second, [1, 0, 0.5, 0.25], judge))
    assert [point.alpha for point in points] == [1, 0, 0.5, 0.25]
    assert [point.scores["accuracy"] for point in points] == pytest.approx([0.6, 0.2, 0.4, 0.3])
    assert points[2].scores["AP"] == pytest.approx(1 - 0.16)
    assert model.weight.item() == 5 and model.training


def test_the_model_is_as_before_after_an_error_or_when_the_rest_is_not_asked_for() -> None:
    first, second = model_of(0.2).state_dict(), model_of(0.6).state_dict()
    model = model_of(5)

    def fails(model: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(sweep(model, first, second, [0.5], fails))
    assert model.weight.item() == 5
    points = sweep(model, first, second, [0, 1], judge)
    assert next(points).scores["accuracy"] == pytest.approx(0.2)
    points.close()
    assert model.weight.item() == 5
    with pytest.raises(WeightsError, match="only in the first: weight"):
        list(sweep(model, first, {}, [0.5], judge))


def test_the_models_own_tensors_may_be_an_end() -> None:
    """A state dict shares memory with its model, which is overwritten on the way."""
    model = model_of(0.6)
    second = {name: value.clone() for name, value in model.state_dict().items()}
    points = list(sweep(model, model_of(0.2).state_dict(), second, [0, 0.5, 1], judge))
    assert [point.scores["accuracy"] for point in points] == pytest.approx([0.2, 0.4, 0.6])


def test_the_plot_has_a_point_for_each_alpha_in_their_order(tmp_path: Path) -> None:
    points = [SweepPoint(alpha, {"accuracy": alpha, "AP": 0.5 - alpha / 4}) for alpha in (1, 0, 0.5)]
    figure = sweep_plot(points, "AP", "accuracy", "between", ("teacher", 0.9))
    (axes,) = figure.axes
    curve, line = axes.lines
    assert list(curve.get_xdata()) == [50, 37.5, 25] and list(curve.get_ydata()) == [0, 50, 100]
    assert [text.get_text() for text in axes.texts] == ["α = 0", "α = 0.5", "α = 1"]
    assert [text.xy for text in axes.texts] == [(50, 0), (37.5, 50), (25, 100)]
    assert set(line.get_ydata()) == {90} and line.get_label() == "teacher"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("AP (%)", "accuracy (%)")
    save_sweep_plot(tmp_path / "new/plot.png", figure)
    with Image.open(tmp_path / "new/plot.png") as image:
        assert image.size[0] > 600 and len(image.convert("RGB").getcolors(1 << 24)) > 10


def test_points_that_lie_together_share_a_label() -> None:
    places = {0: (0.4, 0.0), 0.1: (0.4, 0.01), 0.5: (0.3, 0.4), 1: (0.1, 0.41)}
    points = [SweepPoint(alpha, {"AP": ap, "accuracy": accuracy}) for alpha, (ap, accuracy) in places.items()]
    (axes,) = sweep_plot(points, "AP", "accuracy").axes
    assert [text.get_text() for text in axes.texts] == ["α = 0, 0.1", "α = 0.5", "α = 1"]


def test_what_cannot_be_drawn_is_told() -> None:
    with pytest.raises(ValueError, match="no points"):
        sweep_plot([], "AP", "accuracy")
    with pytest.raises(ValueError, match=r"alpha 0\.5 has no score 'AP'"):
        sweep_plot([SweepPoint(0.5, {"accuracy": 1.0})], "AP", "accuracy")


def test_another_input_size_for_a_while() -> None:
    own = InferenceOptions((64, 96))
    model = SimpleNamespace(inference=own)
    with pytest.raises(KeyError), input_side(model, 32):
        assert model.inference.image_size == (32, 32) and model.inference.precision == "fp32"
        raise KeyError
    assert model.inference is own
    with input_side(model, 0):
        assert model.inference is own
