"""Pictures of what a model says: class overlays with a legend, and sheets of correlation maps and pseudo prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.palette import palette
from escnet.vocabulary import Vocabulary

__all__ = ["draw_legend", "draw_prompts", "label_font", "overlay", "palette", "percent", "shortened", "tinted"]

INK, FAINT, PAPER = (28, 28, 32), (110, 110, 118), (255, 255, 255)
# A legend longer than this is no longer read; the smaller classes are summed up in one last line.
LEGEND_ENTRIES = 40
# Pictures are enlarged, pixel by pixel, until their longer side has this many pixels.
LEAST_SIDE = 320


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
    alpha: float = 0.5,
) -> Image.Image:
    """Tint a picture by class, draw the boundaries, and add a legend of the classes present, the largest first.

    The legend stands at the right of the picture, or below a wide one if it takes less room there, never on it. Small
    pictures are enlarged.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integers, indices into `class_names`.
        class_names: the name of each index.
        scores: (H, W) probability of each label; if given, the legend has the mean of each class.
        alpha: opacity of the tint, 0 to 1.

    Raises:
        ValueError: for shapes that do not agree, labels without a name, or an alpha outside 0..1.
    """
    _check(image, labels, class_names, scores, alpha)
    height, width = labels.shape
    factor = max(1, math.ceil(LEAST_SIDE / max(height, width)))
    # The geometric mean keeps the text small on long, thin pictures.
    size = int(np.clip(math.sqrt(height * width) * factor / 40, 13, 64))

    picture = tinted(image, labels, palette(len(class_names)), alpha, factor, line=max(1, size // 14))
    entries = _legend_entries(labels, class_names, scores)
    longest = max(picture.height, 28 * size)
    right = draw_legend(entries, size, longest)
    layouts = [(picture.width + right.width, max(picture.height, right.height), right, (picture.width, 0))]
    if height <= width:
        below = draw_legend(entries, size, longest, picture.width)
        layouts.append((max(picture.width, below.width), picture.height + below.height, below, (0, picture.height)))
    width, height, legend, corner = min(layouts, key=lambda layout: layout[0] * layout[1])
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(legend, corner)
    canvas.paste(picture, (0, 0))
    return canvas


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


def _check(
    image: np.ndarray, labels: np.ndarray, class_names: Sequence[str], scores: np.ndarray | None, alpha: float
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"the image has to be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    for what, array in (("labels", labels), ("scores", scores)):
        if array is not None and array.shape != image.shape[:2]:
            raise ValueError(f"{what} of shape {array.shape} do not fit an image of shape {image.shape}")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(f"labels {labels.min()}..{labels.max()} do not fit {len(class_names)} class names")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha has to lie in 0..1, got {alpha}")


def tinted(
    image: np.ndarray, labels: np.ndarray, colours: np.ndarray, alpha: float, factor: int, line: int
) -> Image.Image:
    """Tint a picture by class and draw the boundaries in white.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integers, indices into `colours`.
        colours: (N, 3) uint8.
        alpha: opacity of the tint, 0 to 1.
        factor: whole number by which the picture is enlarged.
        line: pixels of the boundaries' width, after the enlargement.
    """
    size = (labels.shape[1] * factor, labels.shape[0] * factor)
    picture = Image.blend(Image.fromarray(image), Image.fromarray(colours[labels]), alpha)
    picture = picture.resize(size, Image.Resampling.NEAREST)
    picture.paste(PAPER, mask=_boundaries(labels, size, line))
    return picture


def _boundaries(labels: np.ndarray, size: tuple[int, int], line: int) -> Image.Image:
    """Lines of `line` pixels where the label changes to the right or downwards, as a mask of (width, height) `size`."""
    labels = labels.repeat(size[1] // labels.shape[0], axis=0).repeat(size[0] // labels.shape[1], axis=1)
    edge = np.zeros(labels.shape, bool)
    edge[line:] |= labels[line:] != labels[:-line]
    edge[:, line:] |= labels[:, line:] != labels[:, :-line]
    return Image.fromarray(edge * np.uint8(200))


def _legend_entries(
    labels: np.ndarray, class_names: Sequence[str], scores: np.ndarray | None
) -> list[tuple[tuple[int, int, int], str, str]]:
    """(colour, name, figures) of each class present, by area; beyond LEGEND_ENTRIES, the rest in one entry."""
    areas = np.bincount(labels.ravel(), minlength=len(class_names))
    totals = None if scores is None else np.bincount(labels.ravel(), scores.ravel(), minlength=len(class_names))
    present = sorted(np.flatnonzero(areas), key=lambda c: -areas[c])
    colours = palette(len(class_names))
    entries = []
    for c in present[:LEGEND_ENTRIES]:
        figures = percent(areas[c] / labels.size)
        if totals is not None:
            figures += f"   p {totals[c] / areas[c]:.2f}"
        entries.append((tuple(colours[c].tolist()), class_names[c], figures))
    rest = present[LEGEND_ENTRIES:]
    if rest:
        entries.append((PAPER, f"and {len(rest)} smaller", percent(areas[rest].sum() / labels.size)))
    return entries


def draw_legend(
    entries: list[tuple[tuple[int, int, int], str, str]], size: int, max_height: int, max_width: int = 0
) -> Image.Image:
    """A panel of (colour, name, figures) entries in columns, in letters of `size` pixels.

    As many columns as fit `max_width`, or more if `max_height` needs them.
    """
    font, step, margin, gap = label_font(size), 2 * size, size, 3 * size
    names = [shortened(name, font, 22 * size) for _, name, _ in entries]
    name_width = math.ceil(max(font.getlength(name) for name in names))
    width = 3 * size + name_width + 2 * size + math.ceil(max(font.getlength(figures) for _, _, figures in entries))
    fitting = (max_width - 2 * margin + gap) // (width + gap)
    needed = math.ceil(len(entries) * step / (max_height - margin))
    per_column = math.ceil(len(entries) / max(fitting, needed))
    columns = math.ceil(len(entries) / per_column)
    across, down = columns * (width + gap) - gap, min(per_column, len(entries)) * step
    panel = Image.new("RGB", (2 * margin + across, margin + down), PAPER)
    draw = ImageDraw.Draw(panel)
    for i, ((colour, _, figures), name) in enumerate(zip(entries, names, strict=True)):
        x, y = margin + i // per_column * (width + gap), margin // 2 + i % per_column * step + size
        draw.rounded_rectangle((x, y - 0.6 * size, x + 1.8 * size, y + 0.6 * size), size // 4, fill=colour)
        draw.text((x + 2.6 * size, y), name, INK, font, anchor="lm")
        draw.text((x + width, y), figures, FAINT, font, anchor="rm")
    return panel


@lru_cache(maxsize=16)
def label_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all drawings, which comes with matplotlib, in letters of `size` pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, its end replaced by an ellipsis if it is wider than `width`."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "…"


def percent(share: float) -> str:
    """A fraction in percent with one decimal."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %")


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
    """The objects and points of one class (B = N = 1) over the dimmed picture, and their number in words."""
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
    caption = f"{found} object{'s' * (found != 1)}, {cells} cell{'s' * (cells != 1)}"
    return drawn.resize(photo.size, Image.Resampling.BOX), caption


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
        font = label_font(16, bold=True)
        y = self.MARGIN + self.TITLE + line * self.step[1] + self.HEADING // 2
        self.draw.text((self.MARGIN, y), shortened(text, font, self.canvas.width - 2 * self.MARGIN), INK, font, "lm")

    def add(self, line: int, column: int, title: str, tile: Image.Image, caption: str = "") -> int:
        """Place a tile and return the next column."""
        x = self.MARGIN + column * self.step[0]
        top = self.MARGIN + self.TITLE + line * self.step[1] + self.HEADING
        if line == 0:
            self.draw.text((x, self.MARGIN), title, INK, label_font(14), "lt")
        self.canvas.paste(tile, (x, top))
        self.draw.text((x, top + tile.height + self.CAPTION // 2), caption, FAINT, label_font(12), "lm")
        return column + 1
