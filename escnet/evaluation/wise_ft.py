"""Wise-FT: models between two sets of weights are judged, and drawn as a curve of two abilities (SAM-CLIP, sec. B)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from escnet.meta_arch.interfaces import SegmentingModel
from escnet.pretrained.merging import interpolate
from escnet.safe_files import replacing

# Share of the height of the curve that a label takes; it is some three times as wide.
_CLOSE = 0.045
_CURVE, _REFERENCE, _FAINT = "#3572b0", "#b3261e", "#dddddd"


class SweepPoint(NamedTuple):
    """A model between two, and how good it is.

    Attributes:
        alpha: α, 0 for the first model, 1 for the second.
        scores: by name, in 0..1.
    """

    alpha: float
    scores: dict[str, float]


def sweep(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    alphas: Sequence[float],
    judge: Callable[[nn.Module], Mapping[str, float]],
) -> Iterator[SweepPoint]:
    """Judge (1 - α) first + α second for each α, one after the other; each is given as soon as it is known.

    Args:
        model: gets the weights; afterwards, and after an error too, it has those that it had.
        first, second: tensors by the names of the model's state, of all of it.
        alphas: in the order in which they are judged.
        judge: scores of a model in evaluation mode.

    Yields:
        A point for each α.

    Raises:
        WeightsError: the two cannot be interpolated.
        ValueError: an α out of 0..1.
    """
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    was_training = model.training
    try:
        for alpha in alphas:
            model.load_state_dict(interpolate(first, second, alpha))
            model.eval()
            with torch.no_grad():
                scores = judge(model)
            yield SweepPoint(alpha, dict(scores))
    finally:
        model.load_state_dict(before)
        model.train(was_training)


@contextmanager
def input_side(model: SegmentingModel, side: int) -> Iterator[None]:
    """Images are meanwhile brought to side × side pixels, and afterwards to the model's own size; 0 is that size."""
    own = model.inference
    model.inference = replace(own, image_size=(side, side)) if side else own
    try:
        yield
    finally:
        model.inference = own


def sweep_plot(
    points: Sequence[SweepPoint], x: str, y: str, title: str = "", reference: tuple[str, float] | None = None
) -> Figure:
    """One ability over the other, with α at each point.

    Args:
        points: of `sweep`, at least one.
        x, y: names of the scores on the axes, which are in percent.
        title: above the figure.
        reference: name and value in 0..1 of a score on the y axis that is marked by a line, such as the teacher's.

    Raises:
        ValueError: no points, or a point without one of the scores.
    """
    if not points:
        raise ValueError("there are no points to draw")
    for point in points:
        missing = [name for name in (x, y) if name not in point.scores]
        if missing:
            raise ValueError(f"the model at alpha {point.alpha:g} has no score {missing[0]!r}")
    points = sorted(points)
    across, up = ([100 * point.scores[name] for point in points] for name in (x, y))
    figure = Figure(figsize=(6.4, 4.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(across, up, color=_CURVE, marker="o", markersize=5, linewidth=1.4)
    for place, alphas in _labels(points, across, up):
        axes.annotate(f"α = {alphas}", place, (6, 5), textcoords="offset points", fontsize=8.5)
    if reference is not None:
        name, value = reference
        axes.axhline(100 * value, color=_REFERENCE, linestyle="--", linewidth=1.2, label=name)
        axes.legend(frameon=False, fontsize=8.5)
    axes.set_xlabel(f"{x} (%)", parse_math=False)
    axes.set_ylabel(f"{y} (%)", parse_math=False)
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    axes.margins(0.12)
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _labels(
    points: Sequence[SweepPoint], across: Sequence[float], up: Sequence[float]
) -> list[tuple[tuple[float, float], str]]:
    """The place and the text of each label; points that are too close for two labels share one, at the first."""
    width, height = (_CLOSE * max(max(values) - min(values), 1e-9) for values in (across, up))
    labels: list[tuple[tuple[float, float], str]] = []
    for point, x, y in zip(points, across, up, strict=True):
        if labels and abs(x - labels[-1][0][0]) < 3 * width and abs(y - labels[-1][0][1]) < height:
            labels[-1] = (labels[-1][0], f"{labels[-1][1]}, {point.alpha:g}")
        else:
            labels.append(((x, y), f"{point.alpha:g}"))
    return labels


def save_sweep_plot(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write what `sweep_plot` drew as a PNG, never half of it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
