"""Figures of an evaluation: IoU of all classes, sorted, and one image's prediction beside its truth."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image, ImageDraw

from escnet.drawing.lettering import drawable
from escnet.drawing.overlay import FAINT, INK, PAPER, draw_legend, label_font, percent, shortened, tinted
from escnet.drawing.palette import palette
from escnet.evaluation.confusion import ConfusionMatrix, SemanticMetrics, semantic_metrics
from escnet.evaluation.scored_classes import is_scored
from escnet.safe_files import replacing

# Up to so many classes, each has a bar with its name; of more, only the best and the worst are named.
_ALL_NAMED = 180
_NAMED_AT_ENDS = 18
_BARS_PER_COLUMN = 30
# Inches.
_HEADINGS, _ROW = 0.75, 0.185
_BAR, _MEAN, _TRACK, _ZERO = "#3572b0", "#c8541a", "#eef0f3", "#b3261e"

# Pixels of the longer side of a panel: of three beside one another, of three below one another.
_BESIDE, _BELOW = 420, 900
_LEGEND_ENTRIES = 24
LegendEntry = tuple[tuple[int, int, int], str, str]
_IGNORED, _HATCH = (190, 190, 194), (150, 150, 156)


def save_class_iou_plot(path: str | os.PathLike[str], metrics: SemanticMetrics | Mapping[str, Any], title: str) -> None:
    """Write what `class_iou_plot` draws as a PNG, never half of it."""
    figure = class_iou_plot(metrics, title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def class_iou_plot(metrics: SemanticMetrics | Mapping[str, Any], title: str) -> Figure:
    """Bars of the IoU of each scored class in the truth, the best first, and their mean.

    With few classes, every one has its name. With many, the bars are drawn as one filled curve, and the best and the
    worst are named beside it; among classes of equal IoU, those with more pixels count as worse.

    Args:
        metrics: of the evaluation, or what its `to_dict` gave.
        title: above the figure.
    """
    fields = metrics.to_dict() if isinstance(metrics, SemanticMetrics) else metrics
    classes, scored = fields["classes"], fields.get("scored_classes")
    shown = [entry for i, entry in enumerate(classes) if is_scored(i, scored)]
    # None marks a class that is not in the truth.
    present = [entry for entry in shown if entry["iou"] is not None]
    present.sort(key=lambda entry: (-entry["iou"], entry["truth_pixels"]))
    names, ious = [entry["name"] for entry in present], 100 * np.array([entry["iou"] for entry in present])
    if not present:
        figure = _figure(1.2)
    elif len(present) <= _ALL_NAMED:
        figure = _all_bars(names, ious)
    else:
        figure = _curve_and_ends(names, ious)
    part = [] if scored is None else [f"scored: {len(shown)} of {len(classes)} classes"]
    _headings(figure, title, "; ".join([_summary(ious, len(shown)), *part]))
    return figure


def prediction_and_truth(
    image: np.ndarray,
    prediction: np.ndarray,
    truth: np.ndarray,
    class_names: Sequence[str],
    ignore_label: int = 255,
    alpha: float = 0.65,
    scored: Sequence[int] | None = None,
) -> Image.Image:
    """Photograph, prediction and truth beside one another; see `predictions_and_truth`."""
    return predictions_and_truth(
        image, {"prediction": prediction}, truth, class_names, ignore_label, alpha=alpha, scored=scored
    )


def predictions_and_truth(
    image: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    truth: np.ndarray,
    class_names: Sequence[str],
    ignore_label: int = 255,
    alpha: float = 0.65,
    scored: Sequence[int] | None = None,
) -> Image.Image:
    """Photograph, predictions and truth beside one another (wide ones below), in the same colours, with one legend.

    The legend has the classes of the last prediction and of the truth, the largest first, with their IoU in this image.
    Truth that is ignored is hatched grey. Large images are shrunk: a sheet of three is at most about 1300 pixels wide.

    Args:
        image: (H', W', 3) uint8 RGB; of any size, since it is resized to the panels.
        predictions: by the title of their panel, (H, W) class ids each, at least one.
        truth: (H, W) class ids or the ignore label.
        class_names: N names.
        ignore_label: id of unlabelled truth.
        alpha: opacity of the tint, 0 to 1.
        scored: first id and end of the classes that mIoU is the mean of; None: all.

    Raises:
        ValueError: the maps differ in size or hold ids out of range, or the scored classes are not among the N.
    """
    size, down = _panel_size(*truth.shape)
    photo = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    # Under a tint the photo's own hues would make one class look like another.
    grey = np.asarray(photo.convert("L").convert("RGB"))
    colours = palette(len(class_names))
    panels = [("photo", "", photo)]
    for title, prediction in predictions.items():
        confusion = ConfusionMatrix(len(class_names), ignore_label)
        confusion.update(prediction, truth)
        metrics = semantic_metrics(confusion, class_names, scored)
        shown = tinted(grey, _nearest(prediction, size), colours, alpha, factor=1, line=1)
        panels.append((title, _scores(metrics), shown))
    ignored = truth == ignore_label
    shown_truth = tinted(grey, _nearest(np.where(ignored, 0, truth), size), colours, alpha, factor=1, line=1)
    panels.append(("truth", "", _hatched(shown_truth, _nearest(ignored, size))))
    return _sheet(panels, down, _legend_entries(metrics, prediction, ignored, colours))


def _figure(height: float) -> Figure:
    """A figure with `height` inches below the headings."""
    total = height + _HEADINGS
    # The layout makes room for the longest name.
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, height / total))
    figure = Figure(figsize=(11, total), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _headings(figure: Figure, title: str, caption: str) -> None:
    """Title and caption at a fixed distance from the top, whatever the figure's height."""
    height = figure.get_figheight()
    title = drawable(title, installed_fonts=False)
    figure.text(0.012, 1 - 0.12 / height, title, va="top", fontsize=14, fontweight="bold", parse_math=False)
    figure.text(0.012, 1 - 0.45 / height, caption, va="top", fontsize=10, color="#555555", parse_math=False)


def _summary(ious: np.ndarray, classes: int) -> str:
    if not len(ious):
        return f"none of the {classes} classes is in the truth"
    parts = [f"IoU of the {len(ious)} classes in the truth, in percent: mean {ious.mean():.1f}"]
    parts.append(f"median {np.median(ious):.1f}")
    if zeros := int((ious == 0).sum()):
        parts.append(f"{zeros} at zero")
    absent = [f"{classes - len(ious)} of {classes} classes are not in the truth"] if classes > len(ious) else []
    return "; ".join([", ".join(parts), *absent])


def _all_bars(names: Sequence[str], ious: np.ndarray) -> Figure:
    """Horizontal bars in up to three columns, read downwards."""
    columns = min(3, math.ceil(len(names) / _BARS_PER_COLUMN))
    per_column = math.ceil(len(names) / columns)
    figure = _figure(_ROW * per_column + 0.35)
    for column, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = slice(column * per_column, (column + 1) * per_column)
        _bars(axes, names[part], ious[part], per_column, ious.mean(), longest=84 // columns)
    return figure


def _curve_and_ends(names: Sequence[str], ious: np.ndarray) -> Figure:
    """All classes as one filled curve on top; the bars of the best and of the worst classes below."""
    heights = (2.8, _ROW * _NAMED_AT_ENDS + 0.5)
    figure = _figure(sum(heights) + 0.2)
    grid = figure.add_gridspec(2, 2, height_ratios=heights)
    curve = figure.add_subplot(grid[0, :])
    curve.fill_between(np.arange(len(ious) + 1), np.append(ious, ious[-1]), step="post", color=_BAR, linewidth=0)
    curve.axhline(ious.mean(), color=_MEAN, linestyle="--", linewidth=1.2)
    curve.text(len(ious), ious.mean() + 2, f"mean {ious.mean():.1f}", color=_MEAN, ha="right", fontsize=9)
    curve.set(xlim=(0, len(ious)), ylim=(0, 100))
    curve.set_xlabel("classes, sorted by IoU", fontsize=9, color="#555555")
    _plain(curve, grid="y")
    ends = (("best", slice(_NAMED_AT_ENDS)), ("worst; of equal ones, most pixels last", slice(-_NAMED_AT_ENDS, None)))
    for column, (heading, part) in enumerate(ends):
        axes = figure.add_subplot(grid[1, column])
        axes.set_title(heading, fontsize=10, loc="left", pad=3)
        _bars(axes, names[part], ious[part], _NAMED_AT_ENDS, ious.mean(), longest=32)
    return figure


def _bars(axes: Axes, names: Sequence[str], ious: np.ndarray, rows: int, mean: float, longest: int) -> None:
    """Horizontal bars with names at the left and values at the right, in `rows` equal rows."""
    places = np.arange(len(names))
    axes.barh(places, np.full(len(names), 100), 0.72, color=_TRACK)
    axes.barh(places, ious, 0.72, color=_BAR)
    axes.vlines(mean, -0.5, len(names) - 0.5, color=_MEAN, linestyle="--", linewidth=1)
    for place, value in zip(places, ious, strict=True):
        text = "<0.1" if 0 < value < 0.05 else f"{value:.1f}"
        colour = _ZERO if value == 0 else "#333333"
        axes.annotate(text, (100, place), (3, 0), textcoords="offset points", va="center", fontsize=8, color=colour)
    axes.set(xlim=(0, 100), ylim=(rows - 0.5, -0.5))
    axes.set_yticks(places, [_cut(name, longest) for name in names], fontsize=8.5)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    _plain(axes, grid="x")


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color="white" if grid == "x" else "#dddddd", linewidth=0.8)
    axes.set_axisbelow(grid == "y")
    axes.tick_params(length=0, labelsize=8.5)
    axes.spines[:].set_visible(False)


def _cut(name: str, longest: int) -> str:
    name = drawable(name, installed_fonts=False)
    return name if len(name) <= longest else name[: longest - 1].rstrip(" ,") + "…"


def _panel_size(height: int, width: int) -> tuple[tuple[int, int], bool]:
    """((width, height) of a panel, whether the panels stand below one another)."""
    down = width > 2.2 * height
    factor = (_BELOW if down else _BESIDE) / max(height, width)
    return (max(1, round(width * factor)), max(1, round(height * factor))), down


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An (H, W) map at (width, height) `size`, by the label at the centre of each new pixel."""
    across, down = ((np.arange(new) + 0.5) * old / new for new, old in zip(size, labels.shape[::-1], strict=True))
    return labels[np.ix_(down.astype(int), across.astype(int))]


def _hatched(picture: Image.Image, where: np.ndarray) -> Image.Image:
    """Grey with diagonal stripes instead of the picture where the (H, W) mask is set."""
    rows, columns = np.indices(where.shape)
    stripes = np.where(((rows + columns) % 12 < 3)[..., None], _HATCH, _IGNORED).astype(np.uint8)
    return Image.composite(Image.fromarray(stripes), picture, Image.fromarray(where))


def _scores(metrics: SemanticMetrics) -> str:
    if math.isnan(metrics.pixel_accuracy):
        return "all of the truth is ignored"
    miou = "no scored class in the truth" if math.isnan(metrics.miou) else f"mIoU {percent(metrics.miou)}"
    return f"{miou}, accuracy {percent(metrics.pixel_accuracy)}"


def _legend_entries(
    metrics: SemanticMetrics, prediction: np.ndarray, ignored: np.ndarray, colours: np.ndarray
) -> list[LegendEntry]:
    """Of all classes that are seen, so also of those predicted only where the truth is ignored."""
    areas = np.bincount(prediction.ravel(), minlength=len(colours)) + metrics.truth_pixels
    shown = sorted(np.flatnonzero(areas), key=lambda c: (-areas[c], c))
    entries = []
    for c in shown[:_LEGEND_ENTRIES]:
        figures = f"IoU {percent(metrics.class_iou[c])}" if metrics.truth_pixels[c] else "not in the truth"
        entries.append((tuple(colours[c].tolist()), metrics.class_names[c], figures))
    if rest := shown[_LEGEND_ENTRIES:]:
        entries.append((PAPER, f"and {len(rest)} smaller", ""))
    if ignored.any():
        entries.append((_IGNORED, "ignored", percent(ignored.mean())))
    return entries


def _sheet(panels: Sequence[tuple[str, str, Image.Image]], down: bool, entries: list[LegendEntry]) -> Image.Image:
    """Panels with their titles in a row, or `down` a column, and a legend below."""
    size, margin, heading, gap = 14, 14, 28, 12
    width, height = panels[0][2].size
    column = max(width, 300)  # the titles need as much
    step = (0, heading + height + gap // 2) if down else (column + gap, 0)
    panels_width = step[0] * (len(panels) - 1) + column
    panels_height = step[1] * (len(panels) - 1) + heading + height
    legend = draw_legend(entries, size, 100 * size, panels_width)
    total = (2 * margin + max(panels_width, legend.width), panels_height + margin + legend.height)
    canvas = Image.new("RGB", total, PAPER)
    draw = ImageDraw.Draw(canvas)
    bold, regular = label_font(size, bold=True), label_font(size - 1)
    for i, (name, figures, picture) in enumerate(panels):
        x, y = margin + i * step[0], i * step[1]
        draw.text((x, y + heading // 2), name, INK, bold, "lm")
        start = bold.getlength(name) + size
        draw.text((x + start, y + heading // 2), shortened(figures, regular, column - start), FAINT, regular, "lm")
        canvas.paste(picture, (x, y + heading))
    canvas.paste(legend, (0, panels_height + margin // 2))
    return canvas
