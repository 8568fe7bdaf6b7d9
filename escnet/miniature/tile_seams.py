"""Do tiles leave seams? Mosaics of miniature pictures, in tiles that overlap and are weighted in several ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
from escnet.meta_arch.window_average import FALLOFFS, window_weight
from escnet.predictor import Segmenter
from escnet.vocabulary import Vocabulary

# Pictures of a mosaic, less what its random beginning leaves out.
ROWS, COLUMNS = 3, 3
OVERLAPS = (0.0, 0.25, 1 / 3, 0.5)


@dataclass(frozen=True)
class Seams:
    """How the label map of one mosaic came out.

    Attributes:
        name: of the way.
        tiles: segmented.
        at_borders: share of neighbouring cells with different labels across the border of a tile.
        elsewhere: the same of all other neighbours, without those across the borders of the mosaic's pictures.
        agreement: share of pixels with the label that TEST.SLIDING gives with SIZE being the picture's.
        agreement_in_one_pass: the same with what one pass of the model over the whole gives, without any window.
        accuracy: share of pixels with the true label.
        miou: mean IoU over the classes that are there.
    """

    name: str
    tiles: int
    at_borders: float
    elsewhere: float
    agreement: float
    agreement_in_one_pass: float
    accuracy: float
    miou: float


class _Reference(NamedTuple):
    """What the label maps (H, W) of tiles are held against."""

    sliding: np.ndarray
    one_pass: np.ndarray


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
        side: of a picture, in pixels.
        offset: (rows, columns) that are left out of the first picture.
    """

    pixels: np.ndarray
    truth: np.ndarray
    side: int
    offset: tuple[int, int]


def make_mosaic(data: EvaluationData, seed: int, rows: int = ROWS, columns: int = COLUMNS) -> Mosaic:
    """A mosaic of random pictures of a miniature dataset, one row and one column smaller than so many pictures."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(data.records))[: (rows + 1) * (columns + 1)]
    chosen = np.resize(chosen, (rows + 1, columns + 1))
    side = len(read_image(data.records[0]["file_name"]))
    top, left = (int(n) for n in generator.integers(side // 8, side * 7 // 8, 2))
    here = slice(top, top + rows * side), slice(left, left + columns * side)
    records = [[data.records[i] for i in row] for row in chosen]
    pixels = [np.concatenate([read_image(r["file_name"]) for r in row], axis=1) for row in records]
    truth = [
        np.concatenate([read_training_labels(r["sem_seg_file_name"], data.space) for r in row], axis=1)
        for row in records
    ]
    return Mosaic(np.concatenate(pixels)[here], np.concatenate(truth)[here], side, (top, left))


def measure_seams(
    segmenter: Segmenter,
    data: EvaluationData,
    seed: int,
    scale: int = 1,
    mosaic_size: tuple[int, int] = (ROWS, COLUMNS),
    overlaps: Sequence[float] = OVERLAPS,
) -> Iterator[Seams]:
    """Segment one mosaic in all ways.

    Args:
        segmenter: with the model.
        data: of which the mosaic is made.
        seed: of the mosaic.
        scale: tiles have so many times as many pixels a side as a picture.
        mosaic_size: (rows, columns) of pictures.
        overlaps: of tiles; without an overlap weights are uniform, else they fall off in each way.
    """
    mosaic, words = make_mosaic(data, seed, *mosaic_size), data.space.vocabulary
    size, tile = mosaic.truth.shape, mosaic.side * scale
    sliding = _labels_with(segmenter, mosaic, words, sliding=SlidingWindow(size, (tile, tile), 1 / 3))
    reference = _Reference(sliding, _labels_with(segmenter, mosaic, words, image_size=size, sliding=None))
    # Where there are no tiles, their borders are those of the tiles that would be.
    borders = tile_grid(segmenter, size, words, Tiling(tile))
    yield _judge("one pass", 1, reference.one_pass, reference, mosaic, data, borders)
    yield _judge("TEST.SLIDING", borders.count, sliding, reference, mosaic, data, borders)
    # A tile is the same with all weights.
    remembering = Segmenter(RememberingModel(segmenter.model), segmenter.templates)
    for overlap in overlaps:
        for falloff in FALLOFFS if overlap else ("uniform",):
            tiling = Tiling(tile, overlap, falloff)
            grid = tile_grid(remembering, size, words, tiling)
            labels = np.concatenate([b.labels for b in segment_tiles(remembering, mosaic.pixels, words, tiling, grid)])
            yield _judge(f"{overlap:.2f} {falloff}", grid.count, labels, reference, mosaic, data, grid)


def mean_seams(results: Sequence[Sequence[Seams]]) -> list[tuple[Seams, float]]:
    """Means over the mosaics, (mosaics of (ways)), and the standard deviation of mIoU over these."""
    means = []
    for way in zip(*results, strict=True):
        figures = ("at_borders", "elsewhere", "agreement", "agreement_in_one_pass", "accuracy", "miou")
        mean = {name: float(np.mean([getattr(seams, name) for seams in way])) for name in figures}
        means.append((replace(way[0], **mean), float(np.std([seams.miou for seams in way], ddof=len(way) > 1))))
    return means


def differing_pixels(segmenter: Segmenter, pixels: np.ndarray, words: Vocabulary, tiling: Tiling) -> tuple[int, int]:
    """How many labels are others than those of the same averages with all tiles and the whole map in memory.

    Args:
        segmenter: with the model.
        pixels: (H, W, 3) uint8, of whole cells, so that no tile goes beyond it.
        words: the vocabulary.
        tiling: how the picture is cut.

    Returns:
        the labels that differ, and how many classes there are in the map: where there is one, nothing can differ.
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
    differing = torch.tensor(words.row_to_class)[rows].numpy() != labels
    return int(differing.sum()), len(np.unique(labels))


def _labels_with(segmenter: Segmenter, mosaic: Mosaic, words: Vocabulary, **inference: Any) -> np.ndarray:
    """Labels (H, W) of a mosaic with other options of inference than the configuration's."""
    model, before = segmenter.model, segmenter.model.inference
    model.inference = replace(before, **inference)
    try:
        return segmenter(mosaic.pixels, words).labels
    finally:
        model.inference = before


def _judge(
    name: str,
    tiles: int,
    labels: np.ndarray,
    reference: _Reference,
    mosaic: Mosaic,
    data: EvaluationData,
    grid: TileGrid,
) -> Seams:
    confusion = ConfusionMatrix(data.space.vocabulary.num_classes)
    confusion.update(labels, mosaic.truth)
    metrics = semantic_metrics(confusion, data.class_names)
    at, elsewhere = np.zeros(2), np.zeros(2)
    for axis, (starts, size) in enumerate(zip((grid.tops, grid.lefts), labels.shape, strict=True)):
        cell, tile, cells = grid.cell[axis], grid.cells[axis], grid.grid[axis]
        # One pixel of each cell; the first of a pair is the neighbour above or to the left.
        sampled = labels[grid.cell[0] // 2 :: grid.cell[0], grid.cell[1] // 2 :: grid.cell[1]]
        changes = (np.diff(sampled, axis=axis) != 0).mean(axis=1 - axis)
        second = np.arange(1, len(changes) + 1)
        pictures = (np.arange(1, size // mosaic.side + 2) * mosaic.side - mosaic.offset[axis]) / cell
        inside = np.abs(second[:, None] - pictures).min(axis=1) > 1
        edges = {*starts, *(start + tile for start in starts)} - {0, cells}
        is_edge = np.isin(second, list(edges))
        at += changes[inside & is_edge].sum(), (inside & is_edge).sum()
        elsewhere += changes[inside & ~is_edge].sum(), (inside & ~is_edge).sum()
    return Seams(
        name,
        tiles,
        at[0] / at[1],
        elsewhere[0] / elsewhere[1],
        float((labels == reference.sliding).mean()),
        float((labels == reference.one_pass).mean()),
        metrics.pixel_accuracy,
        metrics.miou,
    )


def load(config: str, weights: str, dataset: str, options: Sequence[str] = ()) -> tuple[Segmenter, EvaluationData]:
    """The model of a configuration with KEY VALUE options, and the pictures that mosaics are made of."""
    cfg = load_config(config, options)
    torch.manual_seed(0)
    return Segmenter.from_config(cfg, weights), EvaluationData.load(dataset, cfg)
