"""Tiles: what comes band by band is what the same sums give when the whole picture is held in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from escnet import Vocabulary
from escnet.labelling.tiles import ArrayRows, TileGrid, Tiling, segment_tiles, tile_grid
from escnet.meta_arch.label_map import label_map
from escnet.predictor import Segmenter

MakeSegmenter = Callable[..., Segmenter]
WORDS = Vocabulary(["red", "green", "blue", "dark"], background=["grey", "pale"])
CELLS = 8


@pytest.fixture
def segmenter(colour_segmenter: MakeSegmenter) -> MakeSegmenter:
    return colour_segmenter


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, so that labels have areas."""
    noise = torch.rand(1, 3, 2 + height // 20, 2 + width // 20, generator=torch.Generator().manual_seed(seed))
    pixels = nn.functional.interpolate(noise, (height, width), mode="bilinear")[0]
    return (255 * pixels).byte().permute(1, 2, 0).numpy()


def starts(cells: int, overlap: float) -> list[int]:
    """Written down anew: as few tiles of 8 cells as keep the overlap, evenly spread."""
    count = 1
    while (cells - CELLS) > (count - 1) * max(1, int(CELLS * (1 - overlap))):
        count += 1
    return [0] if count == 1 else [round(i * (cells - CELLS) / (count - 1)) for i in range(count)]


def in_memory(segment: Segmenter, pixels: np.ndarray, cell: int, overlap: float, weight: Any) -> tuple[Any, Any]:
    """Labels and scores of the whole, all sums held in one tensor; `weight(place)` of a cell, 0 edge to 1 middle."""
    height, width = pixels.shape[:2]
    down, across = (max(-(-side // cell), CELLS) for side in (height, width))
    padded = np.pad(pixels, ((0, down * cell - height), (0, across * cell - width), (0, 0)), "symmetric")
    total, count = torch.zeros(len(WORDS.rows), down, across), torch.zeros(down, across)
    side = torch.tensor([weight(1 - abs(2 * (i + 0.5) / CELLS - 1)) for i in range(CELLS)])
    for top in starts(down, overlap):
        for left in starts(across, overlap):
            tile = padded[top * cell : (top + CELLS) * cell, left * cell : (left + CELLS) * cell]
            model = segment.model
            answer = model.segment(model.encode(torch.from_numpy(tile.copy()).permute(2, 0, 1)), WORDS)
            probabilities = answer.row_probabilities(len(WORDS.rows))[0]
            total[:, top : top + CELLS, left : left + CELLS] += probabilities * (side[:, None] * side)
            count[top : top + CELLS, left : left + CELLS] += side[:, None] * side
    logits = (total / count).clamp(min=torch.finfo(torch.float).tiny).log()
    rows, scores = label_map(logits, (down * cell, across * cell))
    labels = torch.tensor(WORDS.row_to_class)[rows]
    return labels[:height, :width].numpy(), scores[:height, :width].numpy()


@pytest.mark.parametrize(("falloff", "weight"), [("uniform", lambda _: 1.0), ("linear", lambda place: place)])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.5, 0.9])
@pytest.mark.parametrize("keep", [0, 2])
def test_bands_are_the_whole_computed_in_memory(
    segmenter: MakeSegmenter, falloff: str, weight: Any, overlap: float, keep: int
) -> None:
    pixels = picture(203, 150)
    bands = list(segment_tiles(segmenter(keep), pixels, WORDS, Tiling(64, overlap, falloff)))
    labels, scores = in_memory(segmenter(keep), pixels, 8, overlap, weight)
    np.testing.assert_array_equal(np.concatenate([band.labels for band in bands]), labels)
    np.testing.assert_allclose(np.concatenate([band.scores for band in bands]), scores, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([band.pixels for band in bands]), pixels)
    assert len(set(labels.ravel())) > 2
    assert [band.top for band in bands] == np.cumsum([0, *(len(band.labels) for band in bands)])[:-1].tolist()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (64, 64), (65, 63), (70, 301)])
def test_strange_sizes(segmenter: MakeSegmenter, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    bands = list(segment_tiles(segmenter(), pixels, WORDS, Tiling(64)))
    cell = max(1, round(min(64, max(size)) / CELLS))
    labels, _ = in_memory(segmenter(), pixels, cell, 1 / 3, lambda place: place)
    np.testing.assert_array_equal(np.concatenate([band.labels for band in bands]), labels)


def test_cells_of_any_number_of_pixels_agree_but_for_rounding(segmenter: MakeSegmenter) -> None:
    pixels = picture(300, 222)
    labels, _ = in_memory(segmenter(), pixels, 7, 1 / 3, lambda place: place)
    bands = list(segment_tiles(segmenter(), pixels, WORDS, Tiling(58)))
    assert (np.concatenate([band.labels for band in bands]) != labels).mean() < 1e-4


def test_a_tile_larger_than_the_picture_is_the_picture(segmenter: MakeSegmenter) -> None:
    pixels = picture(64, 64)
    whole = segmenter()(pixels, WORDS)
    (band,) = segment_tiles(segmenter(), pixels, WORDS, Tiling(4096))
    np.testing.assert_array_equal(band.labels, whole.labels)
    np.testing.assert_allclose(band.scores, whole.scores, atol=1e-6)


def test_batches_change_nothing(segmenter: MakeSegmenter) -> None:
    pixels = picture(150, 150)
    one, three = segmenter(2), segmenter(2)
    alone = list(segment_tiles(one, pixels, WORDS, Tiling(64)))
    together = list(segment_tiles(three, pixels, WORDS, Tiling(64, batch_size=3)))
    assert max(one.model.passes) == 1 and max(three.model.passes) == 3
    np.testing.assert_array_equal(
        np.concatenate([band.labels for band in alone]), np.concatenate([band.labels for band in together])
    )


class CountedRows(ArrayRows):
    """Notes how far a picture was read."""

    read = 0

    def rows(self, start: int, stop: int) -> np.ndarray:
        assert start == self.read, "a row is read twice, or left out"
        object.__setattr__(self, "read", stop)
        return super().rows(start, stop)


@pytest.mark.parametrize("height", [500, 2000])
def test_what_is_held_does_not_grow_with_the_height(segmenter: MakeSegmenter, height: int) -> None:
    tiling, tool = Tiling(64, 1 / 3), segmenter()
    source = CountedRows(picture(height, 100))
    grid = tile_grid(tool, source.size, WORDS, tiling)
    before, done, most_rows, most_tiles = len(tool.model.passes), 0, 0, 0
    for band in segment_tiles(tool, source, WORDS, tiling, grid):
        tiles = len(tool.model.passes) - before
        # Rows of tiles whose sums are not given out: those that reach below what is.
        open_tiles = sum(1 for n in range(tiles) if (grid.tops[n // len(grid.lefts)] + CELLS) * 8 > done + 8)
        most_rows, most_tiles = max(most_rows, source.read - done), max(most_tiles, open_tiles)
        done += len(band.labels)
    assert done == source.read == height
    assert most_rows <= 64 + 8
    assert most_tiles <= 2 * len(grid.lefts)
    assert len(tool.model.passes) - before == grid.count
    assert grid.held_bytes(6) == TileGrid((64, 100), (CELLS, CELLS), tiling).held_bytes(6)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_impossible_overlap_is_told(overlap: float) -> None:
    with pytest.raises(ValueError, match="the overlap of tiles is"):
        Tiling(64, overlap)


def test_other_impossible_tilings_are_told() -> None:
    with pytest.raises(ValueError, match="a tile of 0 pixels"):
        Tiling(0)
    with pytest.raises(ValueError, match="one of uniform, linear, cosine"):
        Tiling(64, falloff="steep")


def test_a_single_class_is_everywhere(segmenter: MakeSegmenter) -> None:
    (band,) = segment_tiles(segmenter(), picture(20, 30), "wall", Tiling(64))
    assert not band.labels.any()
    np.testing.assert_allclose(band.scores, 1)
