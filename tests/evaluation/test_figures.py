"""Tests of the figures: what is in them, not how pretty it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from escnet.drawing.palette import palette
from escnet.evaluation import figures
from escnet.evaluation.confusion import ConfusionMatrix, SemanticMetrics, semantic_metrics
from escnet.evaluation.figures import class_iou_plot, prediction_and_truth, save_class_iou_plot


def metrics_of(ious: list[float | None], names: list[str] | None = None) -> SemanticMetrics:
    """Metrics with these IoU: of 1000 + id pixels of a class, that share is right, the others go to an absent class."""
    confusion = ConfusionMatrix(len(ious) + 1, ignore_label=-1)
    for i, iou in enumerate(ious):
        if iou is not None:
            right = round((1000 + i) * iou)
            confusion.counts[i, i] = right
            confusion.counts[i, -1] = 1000 + i - right
    return semantic_metrics(confusion, [*(names or [f"class {i}" for i in range(len(ious))]), "absent"])


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw()  # tick labels exist only then
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def labels(figure: Figure) -> list[str]:
    return [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_few_classes_are_all_named_the_best_first(as_dictionary: bool) -> None:
    metrics = metrics_of([0.5, None, 0.0, 0.9, 0.0])
    figure = class_iou_plot(metrics.to_dict() if as_dictionary else metrics, "Model on data")
    assert labels(figure) == ["class 3", "class 0", "class 2", "class 4"]
    found = texts(figure)
    assert "Model on data" in found
    assert {"90.0", "50.0", "0.0"} <= set(found)
    caption = (
        "IoU of the 4 classes in the truth, in percent: mean 35.0, median 25.0, 2 at zero; 2 of 6 classes are not in"
    )
    assert any(text.startswith(caption) for text in found), found


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_of_a_part_that_is_scored_only_this_part_is_shown(as_dictionary: bool) -> None:
    metrics = replace(metrics_of([0.5, None, 0.0, 0.9, 0.0]), scored=(1, 4))
    figure = class_iou_plot(metrics.to_dict() if as_dictionary else metrics, "t")
    assert labels(figure) == ["class 3", "class 2"]
    caption = (
        "IoU of the 2 classes in the truth, in percent: mean 45.0, median 45.0, 1 at zero; 1 of 3 classes are not in "
        "the truth; scored: 3 of 6 classes"
    )
    assert caption in texts(figure)


def test_bars_are_as_long_as_the_iou() -> None:
    axes = class_iou_plot(metrics_of([0.25, 0.75]), "").axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([100, 100, 75, 25], abs=0.1), "tracks, then bars"


@pytest.mark.parametrize(("classes", "columns"), [(1, 1), (11, 1), (59, 2), (150, 3)])
def test_every_class_has_its_name_while_they_fit(classes: int, columns: int) -> None:
    figure = class_iou_plot(metrics_of([(i + 1) / (classes + 1) for i in range(classes)]), "")
    assert len(figure.axes) == columns
    assert labels(figure) == [f"class {i}" for i in reversed(range(classes))]


def test_of_many_classes_the_ends_are_named_and_the_curve_has_all() -> None:
    ious: list[float | None] = [max(0.0, 1 - i / 700) for i in range(847)]
    figure = class_iou_plot(metrics_of(ious), "")
    named = labels(figure)
    best, worst = [f"class {i}" for i in range(18)], [f"class {i}" for i in range(829, 847)]
    assert [name for name in named if name.startswith("class")] == best + worst, "most pixels last"
    assert any("147 at zero" in text for text in texts(figure))
    outline = figure.axes[0].collections[0].get_paths()[0].vertices
    assert outline[:, 0].max() == 847 and outline[:, 1].max() == 100


def test_no_class_in_the_truth_is_said() -> None:
    assert "none of the 3 classes is in the truth" in texts(class_iou_plot(metrics_of([None, None]), "t"))


def test_names_are_neither_mathematics_nor_endless() -> None:
    figure = class_iou_plot(metrics_of([0.5, 0.4], ["$\\frac{$ x$", "very long " * 50]), "$5 and $6")
    drawn = labels(figure)
    assert drawn[0] == "$\\frac{$ x$"
    assert drawn[1].endswith("…") and len(drawn[1]) < 90
    assert "$5 and $6" in texts(figure)


def test_plot_is_saved_as_a_png(tmp_path: Path) -> None:
    save_class_iou_plot(tmp_path / "new" / "plot.png", metrics_of([0.5, 0.1]), "t")
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["plot.png"]


def white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def tint(class_id: int, alpha: float = 0.65) -> np.ndarray:
    return 255 * (1 - alpha) + palette(9)[class_id] * alpha


def test_panels_have_the_same_colours_and_ignored_truth_is_grey() -> None:
    truth, prediction = np.zeros((210, 210), int), np.zeros((210, 210), int)
    truth[105:] = 1
    truth[:, 105:] = 255
    prediction[:105, :105] = 1
    sheet = np.asarray(prediction_and_truth(white(210, 210), prediction, truth, list("abcdefghi"))).astype(int)
    top, left, step = 28, 14, 432  # of the first panel, which is 420 pixels wide
    quarters = [(top + 105, 105), (top + 315, 105), (top + 105, 315)]
    photo, predicted, true = ([sheet[y, left + i * step + x] for y, x in quarters] for i in range(3))
    assert np.array_equal(photo, np.full((3, 3), 255))
    assert np.abs(np.array(predicted) - [tint(1), tint(0), tint(0)]).max() <= 1
    assert np.abs(np.array(true[:2]) - [tint(0), tint(1)]).max() <= 1
    ignored = sheet[top + 20 : top + 400, left + 2 * step + 230 : left + 2 * step + 400]
    assert len(np.unique(ignored.reshape(-1, 3), axis=0)) == 2, "two greys"
    assert np.ptp(ignored, axis=2).max() < 10


def test_the_tint_does_not_depend_on_the_hue_below() -> None:
    red, blue = white(100, 100), white(100, 100)
    red[:], blue[:] = (78, 0, 0), (0, 0, 205)  # equally bright
    labels = np.zeros((100, 100), int)
    sheets = [np.asarray(prediction_and_truth(image, labels, labels, ["a"])).astype(int) for image in (red, blue)]
    assert np.abs(sheets[0][200, 700] - sheets[1][200, 700]).max() <= 1
    assert np.abs(sheets[0][200, 200] - sheets[1][200, 200]).max() > 70


def entries(prediction: np.ndarray, truth: np.ndarray, classes: int, monkeypatch) -> list[tuple[str, str]]:
    seen = []
    draw = figures.draw_legend
    monkeypatch.setattr(figures, "draw_legend", lambda entries, *rest: seen.extend(entries) or draw(entries, *rest))
    names = [f"class {i}" for i in range(classes)]
    prediction_and_truth(white(*truth.shape), prediction, truth, names, ignore_label=65535)
    return [(name, figures) for _, name, figures in seen]


def test_the_legend_has_the_classes_of_both_with_their_iou(monkeypatch) -> None:
    truth = np.array([[0, 0, 0, 0, 2, 65535, 65535, 65535]])
    prediction = np.array([[0, 0, 1, 0, 1, 0, 3, 3]])
    assert entries(prediction, truth, 847, monkeypatch) == [
        ("class 0", "IoU 75.0 %"),
        ("class 1", "not in the truth"),
        ("class 3", "not in the truth"),
        ("class 2", "IoU 0.0 %"),
        ("ignored", "37.5 %"),
    ]


def test_a_long_legend_sums_up_the_rest_and_none_is_empty(monkeypatch) -> None:
    many = np.arange(100).reshape(10, 10)
    found = entries(many, many, 100, monkeypatch)
    assert len(found) == 25 and found[-1] == ("and 76 smaller", "")


def headings(prediction: np.ndarray, truth: np.ndarray, scored: tuple[int, int] | None, monkeypatch) -> list[str]:
    seen = []
    shorten = figures.shortened
    monkeypatch.setattr(figures, "shortened", lambda text, *rest: seen.append(text) or shorten(text, *rest))
    prediction_and_truth(white(*truth.shape), prediction, truth, list("abcd"), scored=scored)
    return [text for text in seen if text]


def test_the_heading_has_the_mean_over_the_scored_classes(monkeypatch) -> None:
    truth, prediction = np.array([[0, 0, 0, 0, 2, 2]]), np.array([[0, 0, 0, 2, 2, 2]])
    assert "mIoU 70.8 %, accuracy 83.3 %" in headings(prediction, truth, None, monkeypatch)
    assert "mIoU 66.7 %, accuracy 83.3 %" in headings(prediction, truth, (1, 4), monkeypatch)
    assert "no scored class in the truth, accuracy 83.3 %" in headings(prediction, truth, (3, 4), monkeypatch)


def test_an_image_without_truth_is_drawn(monkeypatch) -> None:
    found = entries(np.ones((4, 4), int), np.full((4, 4), 65535), 2, monkeypatch)
    assert found == [("class 1", "not in the truth"), ("ignored", "100.0 %")]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4000, 30), (30, 4000), (600, 4000), (3000, 4000), (50, 60)])
def test_sheets_have_a_bearable_size(height: int, width: int) -> None:
    labels = np.zeros((height, width), np.uint16)
    sheet = prediction_and_truth(white(height // 2 + 1, width // 2 + 1), labels, labels, ["a class, " * 30])
    assert 300 < sheet.width <= 1640 and sheet.height < 1800


def test_maps_that_do_not_fit_are_refused() -> None:
    zeros = np.zeros((4, 4), int)
    with pytest.raises(ValueError, match="4x5"):
        prediction_and_truth(white(4, 4), zeros, np.zeros((4, 5), int), ["a"])
    with pytest.raises(ValueError, match="ids 7 in the truth"):
        prediction_and_truth(white(4, 4), zeros, zeros + 7, ["a"])
