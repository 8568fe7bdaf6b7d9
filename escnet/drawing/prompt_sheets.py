"""Sheets that show how a segmentation came about: correlation maps and pseudo prompts, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from escnet.drawing.lettering import Lettering, label_font, shortened
from escnet.drawing.overlay import FAINT, INK, PAPER, percent, tinted
from escnet.drawing.palette import palette
from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.vocabulary import Vocabulary


def draw_prompts(
    image: np.ndarray,
    labels: np.ndarray,
    vocabulary: Vocabulary,
    correlations: Sequence[Tensor],
    prompts: Sequence[PseudoPrompts],
    rows: Tensor | None = None,
    max_classes: int = 6,
    tile: int = 220,
) -> Image.Image:
    """A sheet with one row for each of the classes most present in a prediction.

    Columns: the predicted mask, CLIP's correlation map, and for each block the pseudo prompts that it was given (the
    K objects in K tints, their points as dots) and the correlation map that it returned. Each map is scaled from its
    own minimum to its own maximum, which stand below it.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integers, indices into `vocabulary.class_names`.
        vocabulary: the words of the prediction.
        correlations: (1, M, h, w) CLIP's maps, then those after each block.
        prompts: the prompts of each block, for the same M rows.
        rows: (1, M) the vocabulary rows to which the maps belong; None for all in order.
        max_classes: the most classes shown.
        tile: pixels of the longer side of a tile.

    Raises:
        ValueError: when there are no correlation maps.
    """
    if not correlations:
        raise ValueError("there are no correlation maps to draw: this model keeps none")
    areas = np.bincount(labels.ravel(), minlength=vocabulary.num_classes)
    index = _maps_of_classes(vocabulary, correlations[-1], rows, areas)[:max_classes]
    size = _tile_size(labels.shape, tile)
    photo = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    sheet = _Sheet(size, columns=2 + len(correlations) - 1 + len(prompts), rows=len(index))
    for line, (class_id, row, position) in enumerate(index):
        name, share = vocabulary.class_names[class_id], areas[class_id] / labels.size
        if row >= len(vocabulary.names):
            name += f" ({', '.join(vocabulary.rows[row])})"
        sheet.heading(line, f"{name}   {percent(share)}")
        mask = Image.fromarray(labels == class_id).resize(size, Image.Resampling.NEAREST)
        column = sheet.add(line, 0, "prediction", Image.composite(photo, _dimmed(photo), mask))
        maps = [c[0, position].float().cpu().numpy() for c in correlations]
        column = sheet.add(line, column, "CLIP correlation", *_map_tile(maps[0], size))
        for block in range(max(len(prompts), len(maps) - 1)):
            if block < len(prompts):
                found = prompts[block].classes(slice(position, position + 1))
                column = sheet.add(line, column, f"prompts of block {block + 1}", *_prompt_tile(photo, found))
            if block + 1 < len(maps):
                column = sheet.add(line, column, f"after block {block + 1}", *_map_tile(maps[block + 1], size))
    return sheet.canvas


def _maps_of_classes(
    vocabulary: Vocabulary, correlation: Tensor, rows: Tensor | None, areas: np.ndarray
) -> list[tuple[int, int, int]]:
    """(class, vocabulary row, index of its map) of each class that has a map, the largest class first.

    The background speaks through that of its words which has the highest peak. Classes of no area are left out,
    unless all are.
    """
    known = range(correlation.shape[1]) if rows is None else rows[0].tolist()
    peaks = correlation[0].amax(dim=(1, 2)).tolist()
    best: dict[int, tuple[int, int]] = {}
    for position, row in enumerate(known):
        class_id = vocabulary.row_to_class[row]
        if class_id not in best or peaks[position] > peaks[best[class_id][1]]:
            best[class_id] = (row, position)
    order = sorted(best, key=lambda c: (-areas[c], c))
    return [(c, *best[c]) for c in order if areas[c] > 0 or areas[order[0]] == 0]


def _tile_size(shape: tuple[int, int], longer: int) -> tuple[int, int]:
    """(width, height) with the aspect of the picture, but never thinner than 1 to 3."""
    aspect = min(3.0, max(1 / 3, shape[1] / shape[0]))
    return (longer, round(longer / aspect)) if aspect >= 1 else (round(longer * aspect), longer)


def _dimmed(photo: Image.Image) -> Image.Image:
    return Image.blend(photo.convert("L").convert("RGB"), Image.new("RGB", photo.size, INK), 0.6)


def _map_tile(values: np.ndarray, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """A map (h, w) in colours from its minimum to its maximum, and these two in words."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    colours = matplotlib.colormaps["viridis"](scaled, bytes=True)[..., :3]
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST), f"{low:.3f} to {high:.3f}"


def _prompt_tile(photo: Image.Image, prompts: PseudoPrompts) -> tuple[Image.Image, str]:
    """The objects and points of one class (B = N = 1) over the dimmed picture, and the number of points in words."""
    assignment = prompts.assignment[0, 0].cpu().numpy()
    tints = palette(prompts.labels.shape[2])[np.maximum(assignment, 0)]
    opacity = Image.fromarray(np.where(assignment >= 0, 180, 0).astype(np.uint8))
    nearest = Image.Resampling.NEAREST
    objects = Image.fromarray(tints).resize(photo.size, nearest)
    drawn = Image.composite(objects, _dimmed(photo), opacity.resize(photo.size, nearest))
    # Drawn at thrice the size and reduced, for dots with smooth edges.
    drawn = drawn.resize((3 * photo.width, 3 * photo.height), nearest)
    draw = ImageDraw.Draw(drawn)
    cell = np.array(drawn.size) / (assignment.shape[1], assignment.shape[0])
    radius = float(np.clip(cell.min() / 3, 5, 11))  # a cell has to be seen under its dot
    is_object = prompts.labels[0, 0].cpu().numpy() != -1
    for x, y in (prompts.points[0, 0].cpu().numpy()[is_object] + 0.5) * cell:
        draw.circle((x, y), radius, fill=PAPER, outline=INK, width=3)
    found, cells = int(is_object.sum()), int((assignment >= 0).sum())
    caption = f"{found} point{'s' * (found != 1)}, {cells} cell{'s' * (cells != 1)}"
    return drawn.resize(photo.size, Image.Resampling.BOX), caption


@dataclass(frozen=True)
class Example:
    """A picture, its truth and what a model made of it, seen from one of its classes.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth, labels: (H, W) true and predicted ids.
        class_id: the class whose maps and prompts are shown.
        name: of the class.
        maps: (1, 1, h, w) CLIP's map of it, then those after each block.
        prompts: the pseudo prompts of each block for it.
    """

    image: np.ndarray
    truth: np.ndarray
    labels: np.ndarray
    class_id: int
    name: str
    maps: Sequence[Tensor]
    prompts: Sequence[PseudoPrompts]


def draw_examples(examples: Sequence[Example], num_classes: int, tile: int = 150) -> Image.Image:
    """A sheet with one row for each example, from left to right as the model works.

    Columns: the image, the truth, CLIP's map of the example's class, for each block the pseudo prompts that
    it was given and the map that it returned, and the prediction. Truth and prediction have the same colours.

    Args:
        examples: all of one model.
        num_classes: N.
        tile: pixels of the longer side of a tile.
    """
    size = _tile_size(examples[0].image.shape[:2], tile)
    first = examples[0]
    sheet = _Sheet(size, columns=3 + len(first.maps) + len(first.prompts), rows=len(examples))
    colours = palette(num_classes)
    for line, example in enumerate(examples):
        photo = Image.fromarray(example.image).resize(size, Image.Resampling.BICUBIC)

        def coloured(labels: np.ndarray, example: Example = example) -> Image.Image:
            return tinted(example.image, labels, colours, 0.65, 1, 1).resize(size, Image.Resampling.NEAREST)

        sheet.heading(line, example.name)
        column = sheet.add(line, 0, "image", photo)
        column = sheet.add(line, column, "truth", coloured(example.truth))
        maps = [of_class[0, 0].float().cpu().numpy() for of_class in example.maps]
        column = sheet.add(line, column, "CLIP's map", *_map_tile(maps[0], size))
        for block, after in enumerate(maps[1:]):
            if block < len(example.prompts):
                tile_of_prompts = _prompt_tile(photo, example.prompts[block])
                column = sheet.add(line, column, f"prompts of block {block + 1}", *tile_of_prompts)
            column = sheet.add(line, column, f"after block {block + 1}", *_map_tile(after, size))
        is_class = example.labels == example.class_id
        union = (is_class | (example.truth == example.class_id)).sum()
        iou = (is_class & (example.truth == example.class_id)).sum() / max(1, union)
        sheet.add(line, column, "prediction", coloured(example.labels), f"IoU of the class {iou:.2f}")
    return sheet.canvas


class _Sheet:
    """Tiles in rows and columns, with a title on each column, a heading on each row, a caption under each tile."""

    MARGIN, TITLE, HEADING, CAPTION, GAP = 20, 34, 30, 24, 10

    def __init__(self, tile: tuple[int, int], columns: int, rows: int) -> None:
        self.step = (max(tile[0], 150) + self.GAP, self.HEADING + tile[1] + self.CAPTION + self.GAP)
        self.tile = tile
        width = 2 * self.MARGIN + columns * self.step[0] - self.GAP
        height = self.MARGIN + self.TITLE + rows * self.step[1] + self.MARGIN // 2
        self.canvas = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.canvas)

    def heading(self, line: int, text: str) -> None:
        letters = Lettering(16, bold=True)
        y = self.MARGIN + self.TITLE + line * self.step[1] + self.HEADING // 2
        letters.draw(self.draw, (self.MARGIN, y), shortened(text, letters, self.canvas.width - 2 * self.MARGIN), INK)

    def add(self, line: int, column: int, title: str, tile: Image.Image, caption: str = "") -> int:
        """Place a tile and return the next column."""
        x = self.MARGIN + column * self.step[0]
        top = self.MARGIN + self.TITLE + line * self.step[1] + self.HEADING
        if line == 0:
            self.draw.text((x, self.MARGIN), title, INK, label_font(14), "lt")
        self.canvas.paste(tile, (x, top))
        self.draw.text((x, top + tile.height + self.CAPTION // 2), caption, FAINT, label_font(12), "lm")
        return column + 1
