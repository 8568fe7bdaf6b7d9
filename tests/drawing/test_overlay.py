"""Tests of the drawings: what is where in a picture, not how pretty it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from escnet.drawing.overlay import LEAST_SIDE, LEGEND_ENTRIES, _legend_entries, overlay
from escnet.drawing.palette import palette
from escnet.drawing.prompt_sheets import _maps_of_classes, _prompt_tile, draw_prompts
from escnet.layers.pseudo_prompts import PseudoPromptGenerator, PseudoPrompts
from escnet.vocabulary import Vocabulary


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def halves(height: int, width: int) -> np.ndarray:
    labels = np.zeros((height, width), np.int32)
    labels[:, width // 2 :] = 1
    return labels


@pytest.mark.parametrize("n", [0, 1, 2, 150, 847, 3000])
def test_palette_is_distinct_and_a_prefix_of_the_longer_one(n: int) -> None:
    colours = palette(n)
    assert colours.shape == (n, 3) and colours.dtype == np.uint8
    assert len({tuple(c) for c in colours.tolist()}) == n
    assert np.array_equal(colours, palette(3500)[:n])


def test_first_colours_are_far_apart() -> None:
    colours = palette(12).astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(axis=-1) + 1000 * np.eye(12, dtype=int)
    assert distance.min() > 60


def test_palette_cannot_be_changed_by_its_user() -> None:
    palette(3)[:] = 0
    assert palette(3).any()


def test_palette_refuses_more_colours_than_there_are() -> None:
    with pytest.raises(ValueError, match="1000000"):
        palette(1_000_000)


def test_overlay_tints_each_side_by_its_class_and_draws_the_boundary() -> None:
    picture = np.asarray(overlay(grey(400, 400), halves(400, 400), ["cat", "dog"], alpha=0.5)).astype(int)
    expected = (128 + palette(2).astype(int)) / 2
    assert np.abs(picture[200, 100] - expected[0]).max() <= 1
    assert np.abs(picture[200, 300] - expected[1]).max() <= 1
    assert picture[200, 200].min() > expected.min()  # whitened
    assert np.abs(picture[200, 190] - expected[0]).max() <= 1


def test_alpha_zero_leaves_the_picture() -> None:
    picture = np.asarray(overlay(grey(400, 400), np.zeros((400, 400), int), ["cat"], alpha=0.0))
    assert (picture[:400, :400] == 128).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 3), (2000, 10), (10, 2000), (400, 400), (330, 400)])
def test_legend_stands_beside_the_picture_and_never_on_it(height: int, width: int) -> None:
    names = ["a class with quite a long name, " * 10, "b"]
    bare = overlay(grey(height, width), np.zeros((height, width), int), names, alpha=0.0)
    factor = max(1, -(-LEAST_SIDE // max(height, width)))
    shown = np.asarray(bare)[: height * factor, : width * factor]
    assert shown.shape[:2] == (height * factor, width * factor)
    assert (shown == 128).all()
    beside = np.array(bare)
    beside[: height * factor, : width * factor] = 255
    assert (beside < 100).any(), "there is no text"
    assert bare.width < width * factor + 1000 and bare.height < height * factor + 1000
    if max(height, width) == 2000:
        assert (bare.height > height) == (width > height), "a long picture does not get longer"


def test_legend_has_the_classes_present_by_area_with_their_figures() -> None:
    labels = np.array([[2, 2, 2, 0]])
    entries = _legend_entries(labels, ["cat", "dog", "sky"], np.array([[0.5, 0.5, 0.8, 0.1]]))
    assert [(name, figures) for _, name, figures in entries] == [("sky", "75.0 %   p 0.60"), ("cat", "25.0 %   p 0.10")]
    assert entries[0][0] == tuple(palette(3)[2].tolist())


def test_a_long_legend_sums_up_the_rest() -> None:
    n = LEGEND_ENTRIES + 10
    entries = _legend_entries(np.arange(n)[None], [str(i) for i in range(n)], None)
    assert len(entries) == LEGEND_ENTRIES + 1
    assert entries[-1][1:] == ("and 10 smaller", "20.0 %")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((3, 4), int)}, "do not fit an image"),
        ({"labels": np.full((4, 4), 2)}, "2 class names"),
        ({"labels": np.full((4, 4), -1)}, "-1"),
        ({"scores": np.zeros((1, 4))}, "scores"),
        ({"image": np.zeros((4, 4), np.uint8)}, "uint8"),
        ({"alpha": 1.5}, "1.5"),
    ],
)
def test_overlay_refuses_what_does_not_fit(change: dict, message: str) -> None:
    arguments = {"image": grey(4, 4), "labels": np.zeros((4, 4), int), "class_names": ["a", "b"], **change}
    with pytest.raises(ValueError, match=message):
        overlay(**arguments)


def prompts_of(correlation: torch.Tensor) -> PseudoPrompts:
    return PseudoPromptGenerator(num_prompts=3, alpha=0.5)(correlation, 100.0)


def test_sheet_has_a_row_for_each_class_and_a_column_for_each_map() -> None:
    vocabulary = Vocabulary(["cat", "dog", "sky"])
    correlation = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = halves(60, 60)

    def size(blocks: int, classes: int) -> tuple[int, int]:
        maps, prompts = [correlation] * (blocks + 1), [prompts_of(correlation)] * blocks
        return draw_prompts(grey(60, 60), labels, vocabulary, maps, prompts, max_classes=classes).size

    step = size(2, 2)[0] - size(1, 2)[0]
    assert step == size(1, 2)[0] - size(0, 2)[0] > 2 * 220
    assert size(1, 1)[1] < size(1, 2)[1] == size(1, 3)[1], "sky is not in the prediction"


def test_sheet_marks_points_and_leaves_padding_out() -> None:
    vocabulary = Vocabulary(["cat"])
    correlation = torch.zeros(1, 1, 4, 4)
    arrays = {
        "boxes": torch.zeros(1, 1, 2, 4),
        "assignment": torch.full((1, 1, 4, 4), -1),
        "probability": correlation,
        "points": torch.tensor([[[[0.0, 0.0], [3.0, 3.0]]]]),
    }
    sheets = []
    for labels in ([1, -1], [1, 1]):
        prompts = PseudoPrompts(labels=torch.tensor([[labels]]), **arrays)
        black = np.zeros((40, 40, 3), np.uint8)
        sheets.append(draw_prompts(black, np.zeros((40, 40), int), vocabulary, [correlation], [prompts], tile=200))
    left, top = (20 + 2 * 210, 84)
    for sheet, second in zip(sheets, (False, True), strict=True):
        tile = np.asarray(sheet)[top : top + 200, left : left + 200]
        assert tile[25, 25].min() > 200
        assert (tile[175, 175].min() > 200) == second
        assert tile[100, 100].max() < 60


def test_several_points_of_one_region_are_points_and_no_objects() -> None:
    region = torch.full((1, 1, 4, 4), -1)
    region[0, 0, :2] = 0
    prompts = PseudoPrompts(
        points=torch.zeros(1, 1, 5, 2),
        labels=torch.ones(1, 1, 5, dtype=torch.long),
        boxes=torch.zeros(1, 1, 5, 4),
        assignment=region,
        probability=torch.zeros(1, 1, 4, 4),
    )
    assert _prompt_tile(Image.new("RGB", (20, 20)), prompts)[1] == "5 points, 8 cells"


def test_maps_are_found_through_the_rows_that_were_kept() -> None:
    vocabulary = Vocabulary(["cat", "dog", "sky"], background=["car", "road"])
    correlation = torch.zeros(1, 3, 2, 2)
    correlation[0, 2] = 1.0
    rows = torch.tensor([[2, 3, 4]])
    areas = np.array([0, 5, 1, 9])
    # dog has no map; "road" peaks higher than "car".
    assert _maps_of_classes(vocabulary, correlation, rows, areas) == [(3, 4, 2), (2, 2, 0)]


def test_a_sheet_is_drawn_even_when_no_class_of_the_prediction_has_a_map() -> None:
    correlation = torch.zeros(1, 1, 2, 2)
    assert _maps_of_classes(Vocabulary(["cat", "dog"]), correlation, torch.tensor([[1]]), np.array([4, 0])) == [
        (1, 1, 0)
    ]


def test_sheet_of_extreme_pictures_and_maps() -> None:
    vocabulary = Vocabulary(["cat"])
    for height, width in ((1, 1), (3000, 10), (10, 3000)):
        maps = [torch.full((1, 1, 2, 2), float("nan")), torch.ones(1, 1, 2, 2)]
        sheet = draw_prompts(grey(height, width), np.zeros((height, width), int), vocabulary, maps, [])
        assert isinstance(sheet, Image.Image) and max(sheet.size) < 1000


def test_sheet_without_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="no correlation maps"):
        draw_prompts(grey(2, 2), np.zeros((2, 2), int), Vocabulary(["cat"]), [], [])
