"""Pictures of what a model says: class overlays with a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from escnet.drawing.lettering import Lettering, label_font, shortened
from escnet.drawing.palette import palette

__all__ = ["draw_legend", "label_font", "overlay", "palette", "percent", "shortened", "tinted"]

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
    font, letters, step, margin, gap = label_font(size), Lettering(size), 2 * size, size, 3 * size
    names = [shortened(name, letters, 22 * size) for _, name, _ in entries]
    name_width = math.ceil(max(letters.getlength(name) for name in names))
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
        letters.draw(draw, (x + 2.6 * size, y), name, INK)
        draw.text((x + width, y), figures, FAINT, font, anchor="rm")
    return panel


def percent(share: float) -> str:
    """A fraction in percent with one decimal."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %")
