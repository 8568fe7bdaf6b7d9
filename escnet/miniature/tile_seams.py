"""Do tiles leave seams? Mosaics of miniature pictures, in tiles that overlap and are weighted in several ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from escnet.config import load_config
from escnet.data.images import read_image
from escnet.data.label_spaces import read_training_labels
from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.labelling.tiles import TileGrid, Tiling, segment_tiles, tile_grid
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.meta_arch.label_map import label_map
from escnet.meta_arch.segmentation import Segmentation
from escnet.meta_arch.sliding_window import LEAST_PROBABILITY, SlidingWindow
from escnet.meta_arch.window_average import window_weight
from escnet.predictor import Segmenter
from escnet.vocabulary import Vocabulary

# Pixels of a miniature picture's side, of which a mosaic has ROWS by COLUMNS less what its random beginning leaves out.
SIDE, ROWS, COLUMNS = 128, 3, 3
TILINGS = (
    (0.0, "uniform"),
    *((overlap, falloff) for overlap in (0.25, 1 / 3, 0.5) for falloff in ("uniform", "linear", "cosine")),
)


@dataclass(frozen=True)
class Seams:
    """How the label map of one mosaic came out.

    Attributes:
        name: of the way.
        tiles: segmented.
        at_borders: share of neighbouring cells with different labels across the border of a tile.
        elsewhere: the same of all other neighbours, without those across the borders of the mosaic's pictures.
        agreement: share of pixels with the label that TEST.SLIDING gives with SIZE being the picture's.
        accuracy: share of pixels with the true label.
        miou: mean IoU over the classes that are there.
    """

    name: str
    tiles: int
    at_borders: float
    elsewhere: float
    agreement: float
    accuracy: float
    miou: float


class RememberingModel(nn.Module):
    """A model that is run once for images that it is given again, by one vocabulary.

    Args:
        model: that is run.
    """

    def __init__(self, model: SegmentingModel) -> None:
        super().__init__()
        self.model, self.inference, self.device = model, model.inference, model.device
        self.answers: dict[bytes, Segmentation] = {}

    def encode(self, images: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The images themselves."""
        return [images] if isinstance(images, Tensor) else list(images)

    def segment(self, images: Sequence[Tensor], vocabulary: Vocabulary) -> Segmentation:
        """What the model says, or has said before."""
        key = b"".join(image.numpy().tobytes() for image in images)
        if key not in self.answers:
            self.answers[key] = self.model.segment(self.model.encode(images), vocabulary)
        return self.answers[key]


@dataclass(frozen=True)
class Mosaic:
    """Pictures side by side, beginning anywhere in the first, so that their borders are not those of tiles.

    Attributes:
        pixels: (H, W, 3) uint8.
        truth: (H, W) int32 train ids.
        offset: (rows, columns) that are left out of the first picture.
    """

    pixels: np.ndarray
    truth: np.ndarray
    offset: tuple[int, int]


def make_mosaic(data: EvaluationData, seed: int, rows: int = ROWS, columns: int = COLUMNS) -> Mosaic:
    """A mosaic of random pictures of a miniature dataset, one row and one column smaller than so many pictures."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(data.records))[: (rows + 1) * (columns + 1)]
    chosen = np.resize(chosen, (rows + 1, columns + 1))
    top, left = (int(n) for n in generator.integers(SIDE // 8, SIDE * 7 // 8, 2))
    here = slice(top, top + rows * SIDE), slice(left, left + columns * SIDE)
    records = [[data.records[i] for i in row] for row in chosen]
    pixels = [np.concatenate([read_image(r["file_name"]) for r in row], axis=1) for row in records]
    truth = [
        np.concatenate([read_training_labels(r["sem_seg_file_name"], data.space) for r in row], axis=1)
        for row in records
    ]
    return Mosaic(np.concatenate(pixels)[here], np.concatenate(truth)[here], (top, left))


def measure_seams(segmenter: Segmenter, data: EvaluationData, seed: int, scale: int = 1) -> Iterator[Seams]:
    """Segment one mosaic in all ways, tiles having `scale` times as many pixels a side as a picture."""
    mosaic, words, tile = make_mosaic(data, seed), data.space.vocabulary, SIDE * scale
    sliding = _sliding(segmenter, mosaic, data, tile)
    borders = tile_grid(segmenter, mosaic.truth.shape, words, Tiling(tile))
    yield _judge("TEST.SLIDING", sliding, sliding, mosaic, data, borders)
    # A tile is the same with all weights.
    remembering = Segmenter(RememberingModel(segmenter.model), segmenter.templates)
    for overlap, falloff in TILINGS:
        tiling = Tiling(tile, overlap, falloff)
        grid = tile_grid(remembering, mosaic.truth.shape, words, tiling)
        labels = np.concatenate([b.labels for b in segment_tiles(remembering, mosaic.pixels, words, tiling, grid)])
        yield _judge(f"{overlap:.2f} {falloff}", labels, sliding, mosaic, data, grid)


def mean_seams(results: Sequence[Sequence[Seams]]) -> list[tuple[Seams, float]]:
    """Means over the mosaics, (mosaics of (ways)), and the standard deviation of mIoU over these."""
    means = []
    for way in zip(*results, strict=True):
        figures = ("at_borders", "elsewhere", "agreement", "accuracy", "miou")
        mean = {name: float(np.mean([getattr(seams, name) for seams in way])) for name in figures}
        means.append((replace(way[0], **mean), float(np.std([seams.miou for seams in way], ddof=len(way) > 1))))
    return means


def differing_pixels(segmenter: Segmenter, pixels: np.ndarray, words: Vocabulary, tiling: Tiling) -> int:
    """How many labels are others than those of the same averages with all tiles and the whole map in memory.

    Args:
        pixels: (H, W, 3) uint8, of whole cells, so that no tile goes beyond it.
    """
    remembering = Segmenter(RememberingModel(segmenter.model), segmenter.templates)
    size = pixels.shape[:2]
    grid = tile_grid(remembering, size, words, tiling)
    labels = np.concatenate([band.labels for band in segment_tiles(remembering, pixels, words, tiling, grid)])
    weight = window_weight(grid.cells, tiling.falloff)
    total, count = torch.zeros(len(words.rows), *grid.grid), torch.zeros(grid.grid)
    for top in grid.tops:
        for left in grid.lefts:
            y, x = top * grid.cell[0], left * grid.cell[1]
            tile = torch.from_numpy(pixels[y : y + grid.tile[0], x : x + grid.tile[1]].copy()).permute(2, 0, 1)
            answer = remembering.model.segment(remembering.model.encode(tile), words)
            here = slice(top, top + grid.cells[0]), slice(left, left + grid.cells[1])
            total[(slice(None), *here)] += answer.row_probabilities(len(words.rows))[0] * weight
            count[here] += weight
    rows, _ = label_map((total / count).clamp(min=LEAST_PROBABILITY).log(), size)
    return int((torch.tensor(words.row_to_class)[rows].numpy() != labels).sum())


def _sliding(segmenter: Segmenter, mosaic: Mosaic, data: EvaluationData, tile: int) -> np.ndarray:
    """Labels by the sliding windows of the configuration, without a resizing."""
    model, before = segmenter.model, segmenter.model.inference
    model.inference = replace(before, sliding=SlidingWindow(mosaic.truth.shape, (tile, tile), 1 / 3))
    try:
        return segmenter(mosaic.pixels, data.space.vocabulary).labels
    finally:
        model.inference = before


def _judge(
    name: str, labels: np.ndarray, sliding: np.ndarray, mosaic: Mosaic, data: EvaluationData, grid: TileGrid
) -> Seams:
    confusion = ConfusionMatrix(data.space.vocabulary.num_classes)
    confusion.update(labels, mosaic.truth)
    metrics = semantic_metrics(confusion, data.class_names)
    at, elsewhere = np.zeros(2), np.zeros(2)
    for axis, starts in enumerate((grid.tops, grid.lefts)):
        cell, tile, cells = grid.cell[axis], grid.cells[axis], grid.grid[axis]
        # One pixel of each cell; the first of a pair is the neighbour above or to the left.
        sampled = labels[grid.cell[0] // 2 :: grid.cell[0], grid.cell[1] // 2 :: grid.cell[1]]
        changes = (np.diff(sampled, axis=axis) != 0).mean(axis=1 - axis)
        second = np.arange(1, len(changes) + 1)
        pictures = (np.arange(1, 99) * SIDE - mosaic.offset[axis]) / cell
        inside = np.abs(second[:, None] - pictures).min(axis=1) > 1
        edges = {*starts, *(start + tile for start in starts)} - {0, cells}
        is_edge = np.isin(second, list(edges))
        at += changes[inside & is_edge].sum(), (inside & is_edge).sum()
        elsewhere += changes[inside & ~is_edge].sum(), (inside & ~is_edge).sum()
    return Seams(
        name,
        grid.count,
        at[0] / at[1],
        elsewhere[0] / elsewhere[1],
        float((labels == sliding).mean()),
        metrics.pixel_accuracy,
        metrics.miou,
    )


def load(config: str, weights: str, dataset: str) -> tuple[Segmenter, EvaluationData]:
    """The model, and the pictures that mosaics are made of."""
    cfg = load_config(config)
    torch.manual_seed(0)
    return Segmenter.from_config(cfg, weights), EvaluationData.load(dataset, cfg)
