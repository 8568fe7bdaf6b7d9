"""Segmenting a picture of any size in overlapping tiles, of which a band is held; out come bands of labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from escnet.encoded_image import evaluating
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.meta_arch.label_map import label_map
from escnet.meta_arch.sliding_window import LEAST_PROBABILITY, window_starts
from escnet.meta_arch.window_average import FALLOFFS, WindowAverage, window_weight
from escnet.predictor import Segmenter
from escnet.vocabulary import Vocabulary
from escnet.word_lists import WordList

# Of the pixels of a band that is given out at once.
_BAND_PIXELS = 1 << 22


class RowSource(Protocol):
    """A picture that is read from the top to the bottom."""

    size: tuple[int, int]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, W, 3) uint8 RGB."""


@dataclass(frozen=True)
class ArrayRows:
    """A picture in memory, (H, W, 3) uint8 RGB, as a source of rows."""

    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.pixels.shape[:2]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, W, 3)"""
        return self.pixels[start:stop]


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut.

    Attributes:
        tile: side of a tile in pixels. It is rounded so that a cell of the model's logits has whole pixels.
        overlap: the least share that neighbours have in common, 0 <= overlap < 1.
        falloff: how the weight of a tile falls off to its edge, one of `FALLOFFS`.
        batch_size: tiles that share a pass of the model.

    Raises:
        ValueError: for other values.
    """

    tile: int
    overlap: float = 1 / 3
    falloff: str = "linear"
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise ValueError(f"a tile of {self.tile} pixels has none; give its side in pixels, such as 768")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"the overlap of tiles is {self.overlap:g}; it is a share from 0 to less than 1")
        if self.falloff not in FALLOFFS:
            raise ValueError(f"the falloff of tiles is {self.falloff!r}; it is one of {', '.join(FALLOFFS)}")
        if self.batch_size < 1:
            raise ValueError(f"the batch size is {self.batch_size}; a batch needs at least one tile")


class LabelBand(NamedTuple):
    """Rows of a picture that are segmented.

    Attributes:
        top: the first row.
        labels: (h, W) int32, indices into the class names.
        scores: (h, W) float32, the probability of each label.
        pixels: (h, W, 3) uint8 RGB.
    """

    top: int
    labels: np.ndarray
    scores: np.ndarray
    pixels: np.ndarray


class TileGrid:
    """Where tiles lie on a picture, and on the grid of cells that their logits share.

    A tile has `cells` of logits, each of `cell` pixels, and begins with a cell. For a smaller picture it has the longer
    side; where tiles go beyond a picture, it is mirrored.

    Attributes:
        size: (H, W) of the picture.
        cells: (h, w) cells of a tile.
        cell: (height, width) of a cell in pixels.
        grid: cells of the whole picture.
        tops, lefts: the first row of each row of tiles, and the first column of each column, in cells.
    """

    def __init__(self, size: tuple[int, int], cells: tuple[int, int], tiling: Tiling) -> None:
        self.size, self.cells = size, cells
        side = min(tiling.tile, max(size))
        self.cell = tuple(max(1, round(side / count)) for count in cells)
        self.grid = tuple(max(-(-s // c), n) for s, c, n in zip(size, self.cell, cells, strict=True))
        self.tops, self.lefts = (window_starts(g, n, tiling.overlap) for g, n in zip(self.grid, cells, strict=True))

    @property
    def tile(self) -> tuple[int, int]:
        """(height, width) of a tile in pixels."""
        return self.cells[0] * self.cell[0], self.cells[1] * self.cell[1]

    @property
    def count(self) -> int:
        """The number of tiles."""
        return len(self.tops) * len(self.lefts)

    def held_bytes(self, rows: int) -> int:
        """What is held of the picture at most, whatever its height, of a vocabulary of so many rows.

        The probabilities of a band that is one tile high, in fp32, and the pixels of as many rows and a cell.
        """
        pixels = 3 * (self.tile[0] + self.cell[0]) * self.grid[1] * self.cell[1]
        return 4 * self.cells[0] * self.grid[1] * (rows + 1) + pixels


def segment_tiles(
    segmenter: Segmenter,
    picture: RowSource | np.ndarray,
    words: WordList | str | Vocabulary,
    tiling: Tiling,
    grid: TileGrid | None = None,
) -> Iterator[LabelBand]:
    """Segment a picture tile by tile, each at the model's own size, and give out its label map band by band.

    The probabilities of tiles that overlap are averaged on the grid of their logits. A class that the model leaves out
    in a tile has probability 0 there. Rows of the picture are read once, in order.

    Args:
        segmenter: with the model.
        picture: (H, W, 3) uint8 RGB, or what gives its rows.
        words: as for a call of the segmenter.
        tiling: how the picture is cut.
        grid: `tile_grid` of the same picture and words, where it is known already.

    Yields:
        The bands, which follow each other from the top to the bottom.

    Raises:
        VocabularyError: for words that cannot be used.
    """
    source = ArrayRows(picture) if isinstance(picture, np.ndarray) else picture
    vocabulary = segmenter.vocabulary(words)
    grid = grid or tile_grid(segmenter, source.size, vocabulary, tiling)
    bands = _Bands(grid, segmenter.model.device, vocabulary)
    weight = window_weight(grid.cells, tiling.falloff).to(segmenter.model.device)
    sums = WindowAverage(weight, (len(vocabulary.rows), grid.cells[0], grid.grid[1]))
    for top, following in pairwise([*grid.tops, grid.grid[0]]):
        bands.read(source, top)
        for start in range(0, len(grid.lefts), tiling.batch_size):
            lefts = grid.lefts[start : start + tiling.batch_size]
            tiles = [bands.tile(top, left) for left in lefts]
            for left, probabilities in zip(lefts, _probabilities(segmenter.model, tiles, vocabulary), strict=True):
                sums.add(probabilities, 0, left)
        yield from bands.give_out(sums.take(following - top), following)


def tile_grid(segmenter: Segmenter, size: tuple[int, int], words: Vocabulary, tiling: Tiling) -> TileGrid:
    """Where the tiles of a picture (H, W) lie. The model is run once, on black, to see the cells of its logits."""
    with evaluating(segmenter.model) as model:
        black = torch.zeros(3, *model.inference.image_size, dtype=torch.uint8)
        cells = model.segment(model.encode(black), words).logits.shape[-2:]
    return TileGrid(size, tuple(cells), tiling)


def _probabilities(model: SegmentingModel, tiles: list[np.ndarray], vocabulary: Vocabulary) -> Iterator[Tensor]:
    """(R, h, w) of each tile (H, W, 3), of all rows of the vocabulary."""
    images = [torch.from_numpy(np.ascontiguousarray(tile)).permute(2, 0, 1) for tile in tiles]
    with evaluating(model):
        segmentation = model.segment(model.encode(images), vocabulary)
    for i in range(len(tiles)):
        yield segmentation.of_image(i).row_probabilities(len(vocabulary.rows))[0]


class _Bands:
    """The rows of a picture that are read and not given out yet, and the last probabilities that these begin with."""

    def __init__(self, grid: TileGrid, device: torch.device, vocabulary: Vocabulary) -> None:
        self.grid = grid
        self.to_class = torch.tensor(vocabulary.row_to_class, device=device)
        self.first = self.held = 0
        self.pixels = np.empty((0, grid.grid[1] * grid.cell[1], 3), np.uint8)
        # Of the row of cells before `first`, and of those from it on.
        self.probabilities: Tensor | None = None

    def read(self, source: RowSource, top: int) -> None:
        """Read on to the end of the tiles that begin with a row of cells."""
        height, width = self.grid.size
        start, stop = self.first * self.grid.cell[0] + len(self.pixels), top * self.grid.cell[0] + self.grid.tile[0]
        new = [source.rows(start, min(stop, height))] if start < height else []
        new = [np.pad(rows, ((0, 0), (0, self.pixels.shape[1] - width), (0, 0)), "symmetric") for rows in new]
        self.pixels = np.concatenate([self.pixels, *new])
        if stop > height:
            below = stop - max(start, height)
            self.pixels = np.pad(self.pixels, ((0, below), (0, 0), (0, 0)), "symmetric")

    def tile(self, top: int, left: int) -> np.ndarray:
        """The pixels of the tile that begins with a cell, which have been read."""
        y, x = (top - self.first) * self.grid.cell[0], left * self.grid.cell[1]
        return self.pixels[y : y + self.grid.tile[0], x : x + self.grid.tile[1]]

    def give_out(self, average: Tensor, end: int) -> Iterator[LabelBand]:
        """The bands that are known when the probabilities (R, h, w) of the rows of cells up to `end` are."""
        known = average if self.probabilities is None else torch.cat([self.probabilities, average], dim=1)
        top = end - known.shape[1]
        is_last = end == self.grid.grid[0]
        # A pixel lies between the middles of two cells: the last row of cells waits for the one below.
        last = end if is_last else end - 1
        step = max(1, _BAND_PIXELS // (self.grid.cell[0] * self.pixels.shape[1]))
        while self.first < last:
            stop = min(self.first + step, last)
            band = known[:, max(self.first - 1, 0) - top : stop + 1 - top]
            yield from self._band(band, self.first - max(self.first - 1, 0), stop)
        self.probabilities = None if is_last else known[:, max(self.first - 1, 0) - top :].clone()

    def _band(self, probabilities: Tensor, above: int, stop: int) -> Iterator[LabelBand]:
        """The band of the rows of cells from the first to `stop`, of probabilities with `above` rows before these."""
        cell, (height, width) = self.grid.cell[0], self.grid.size
        size = probabilities.shape[1] * cell, self.pixels.shape[1]
        labels, scores = label_map(probabilities.clamp(min=LEAST_PROBABILITY).log(), size)
        start = self.first * cell
        # Nothing of what is mirrored.
        rows = min(stop * cell, height) - start
        here = slice(above * cell, above * cell + rows), slice(0, width)
        pixels, self.pixels = self.pixels[:rows, :width], self.pixels[(stop - self.first) * cell :]
        self.first = stop
        if rows > 0:
            labels = self.to_class[labels[here]].cpu().numpy().astype(np.int32)
            yield LabelBand(start, labels, scores[here].float().cpu().numpy(), pixels)
