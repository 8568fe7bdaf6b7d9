"""The plot of mIoU over cost: what is in it, and that no label covers another."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.text import Annotation, Text
from PIL import Image

from escnet.evaluation.systems.plot import CostPoint, cost_plot, save_cost_plot

POINTS = [
    CostPoint("alone", (0.01, 5.0), (0.2, 0.3)),
    *(CostPoint(f"of a crowd, {i}", (1.0 + i / 100, 50 + i), (0.5 + i / 1000, 0.6)) for i in range(5)),
]


def test_a_panel_for_each_cost_with_all_names() -> None:
    figure = cost_plot(POINTS, ("seconds", "GFLOPs"), ("unseen", "seen"))
    assert [axes.get_xlabel() for axes in figure.axes] == ["seconds", "GFLOPs"]
    for i, axes in enumerate(figure.axes):
        assert axes.get_xscale() == "log"
        labels = {text.get_text(): text for text in axes.texts}
        assert list(labels) == [point.name for point in POINTS]
        assert all(labels[p.name].xy == (p.costs[i], 100 * p.scores[0]) for p in POINTS)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["unseen", "seen"]


def test_labels_of_points_that_lie_together_stand_apart() -> None:
    figure = cost_plot(POINTS, ("seconds", "GFLOPs"), ("unseen", "seen"))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text, renderer) for text in axes.texts if isinstance(text, Annotation)]
        assert len(boxes) == len(POINTS)
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_files_are_what_their_endings_say(tmp_path: Path) -> None:
    figure = cost_plot([CostPoint("x", (0.1,), (0.2,))], ("seconds",), ("mIoU",))
    for ending in ("png", "svg"):
        save_cost_plot(tmp_path / f"plot.{ending}", figure)
    assert Image.open(tmp_path / "plot.png").width > 500
    assert "<svg" in (tmp_path / "plot.svg").read_text()[:1000]


@pytest.mark.parametrize("points", [[], [CostPoint("x", (0.0,), (0.1,))], [CostPoint("x", (1.0,), (0.1, 0.2))]])
def test_what_cannot_be_drawn_is_refused(points: list[CostPoint]) -> None:
    with pytest.raises(ValueError, match=r"no points|do not fit"):
        cost_plot(points, ("seconds",), ("mIoU",))
