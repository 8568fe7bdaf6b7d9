"""mIoU over cost: a point for each system, in a panel for seconds and one for FLOPs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from escnet.drawing.lettering import drawable
from escnet.safe_files import replacing

_FAINT, _INK, _HALF = "#dddddd", "#333333", 5.0
# Where a label may stand, from its point, in points: the first that is free. (x, y, horizontal alignment)
_PLACES = [
    (side * 8, dy, align)
    for dy in (0, 10, -10, 20, -20, 30, -30, 42, -42)
    for side, align in ((1, "left"), (-1, "right"))
]


@dataclass(frozen=True)
class CostPoint:
    """A system in the plot.

    Attributes:
        name: the label.
        costs: one for each panel, above 0.
        scores: mIoU in 0..1, of the filled marker, then of hollow ones.
    """

    name: str
    costs: Sequence[float]
    scores: Sequence[float]


def cost_plot(
    points: Sequence[CostPoint], costs: Sequence[str], scores: Sequence[str], score_name: str = "mIoU"
) -> Figure:
    """One panel for each cost, with logarithmic axes of it; a system has the same colour in all.

    Args:
        points: at least one.
        costs: names of the panels' axes.
        scores: what the markers are: the filled one, which is labelled, then hollow ones above or below it.
        score_name: of the axis that they share.

    Raises:
        ValueError: no points, or a point that does not fit the names, or whose cost a logarithm cannot show.
    """
    if not points:
        raise ValueError("there are no points to draw")
    for point in points:
        if len(point.costs) != len(costs) or len(point.scores) != len(scores) or min(point.costs) <= 0:
            raise ValueError(f"{point.name}: {point.costs} and {point.scores} do not fit {costs} and {scores}")
    figure = Figure(figsize=(6.2 * len(costs), 4.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    for i, (axes, name) in enumerate(zip(panels, costs, strict=True)):
        for number, point in enumerate(points):
            # Matplotlib's ten colours again and again; the names are what tells the points apart.
            _mark(axes, point.costs[i], [100 * score for score in point.scores], f"C{number}")
        _style(axes, name)
    panels[0].set_ylabel(f"{score_name} (%)")
    if len(scores) > 1:
        panels[0].legend(handles=_markers(scores), frameon=False, fontsize=8.5)
    # Labels are placed where the layout has put the axes.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for i, axes in enumerate(panels):
        _label(axes, [(point.costs[i], 100 * point.scores[0], point.name) for point in points])
    return figure


def save_cost_plot(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write what `cost_plot` drew as PNG or SVG, by the ending of the path; never half of it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=os.path.splitext(path)[1][1:], dpi=130)


def _mark(axes: Axes, cost: float, scores: Sequence[float], colour: str) -> None:
    axes.plot([cost] * len(scores), scores, color=colour, linewidth=0.8, zorder=2)
    axes.plot(cost, scores[0], marker="o", color=colour, markersize=8, zorder=3)
    for score in scores[1:]:
        axes.plot(cost, score, marker="o", color=colour, markersize=6, markerfacecolor="white", zorder=3)


def _markers(scores: Sequence[str]) -> list[Line2D]:
    """Entries of the legend."""
    faces = [_INK, *["white"] * (len(scores) - 1)]
    return [
        Line2D([], [], color=_INK, marker="o", linestyle="", markerfacecolor=face, label=name)
        for face, name in zip(faces, scores, strict=True)
    ]


def _style(axes: Axes, name: str) -> None:
    axes.set_xscale("log", subs=(2, 5))
    axes.xaxis.set_major_formatter(_number)
    axes.xaxis.set_minor_formatter(_number)
    axes.set_xlabel(name)
    axes.margins(x=0.25, y=0.12)
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _number(value: float, _: int) -> str:
    return f"{value:g}"


def _label(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each name beside its point, where it covers neither another point nor another name."""
    renderer = axes.figure.canvas.get_renderer()
    pixels = axes.figure.dpi / 72
    places = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [Bbox.from_extents(x - _HALF, y - _HALF, x + _HALF, y + _HALF) for x, y in places]
    inside = axes.get_window_extent(renderer)
    for x, y, name in points:
        text = axes.annotate(
            drawable(name, installed_fonts=False), (x, y), (0, 0), textcoords="offset points", fontsize=8.5, color=_INK,
            va="center", parse_math=False, annotation_clip=False,
            zorder=2, arrowprops={"arrowstyle": "-", "color": _FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip
        # The text alone, not its line.
        size = Text.get_window_extent(text, renderer)
        best = min(_PLACES, key=lambda place: _collisions(_box(axes, (x, y), place, size, pixels), taken, inside))
        text.set_position(best[:2])
        text.set_horizontalalignment(best[2])
        taken.append(_box(axes, (x, y), best, size, pixels))


def _box(axes: Axes, point: tuple[float, float], place: tuple[float, float, str], size: Bbox, pixels: float) -> Bbox:
    """Where a label would be, in pixels."""
    x, y = axes.transData.transform(point)
    left = x + pixels * place[0] - (size.width if place[2] == "right" else 0)
    bottom = y + pixels * place[1] - size.height / 2
    return Bbox.from_extents(left, bottom, left + size.width, bottom + size.height)


def _collisions(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> int:
    leaves = box.x0 < inside.x0 or box.x1 > inside.x1
    return sum(box.overlaps(other) for other in taken) + 2 * leaves
