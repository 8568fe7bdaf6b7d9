"""One picture of the world: ground, objects, masks and a caption, all decided by one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from escnet.miniature.world.classes import STUFF, words
from escnet.miniature.world.glyphs import Glyph
from escnet.miniature.world.stuff import TEXTURES, noise

PREFIXES = ("a photo of", "a picture of", "an image of", "a drawing of", "a close view of", "")
# Of each object at least this share stays visible, and this many pixels of a picture of 128.
_LEAST_VISIBLE = 0.35
_PLACEMENTS = 8
_TEXTURE_REFERENCE = 128


@dataclass(frozen=True)
class SceneStyle:
    """What pictures are like.

    Attributes:
        size: side of a picture in pixels, 32 to 1024.
        objects: fewest and most objects.
        object_size: smallest and largest longer side of an object, as shares of the picture's side.
        repeats: probability that one of the objects stands there two to four times.
        horizon: probability that there are two kinds of ground.
        ground_named: probability that the caption says what the ground is; it always does if there is nothing else.
        unit: pixels per unit of the ground's textures; default: such that a picture shows as much ground at any size.
    """

    size: int = 128
    objects: tuple[int, int] = (1, 5)
    object_size: tuple[float, float] = (0.2, 0.5)
    repeats: float = 0.25
    horizon: float = 0.6
    ground_named: float = 1.0
    unit: float | None = None

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise ValueError(f"size has to be 32..1024 pixels, got {self.size}")
        for name, (low, high), least in (("objects", self.objects, 0), ("object_size", self.object_size, 0.02)):
            if not least <= low <= high:
                raise ValueError(f"{name} has to be (lowest, highest) of at least {least}, got {(low, high)}")


class Scene(NamedTuple):
    """A picture with its truth; ids are indices into `classes.words()`.

    Attributes:
        image: (size, size, 3) uint8, RGB.
        labels: (size, size) int16 id of each pixel.
        instances: (size, size) uint8, 0 for ground, k for the k-th object.
        caption: what is in it: "a photo of a pear, a whale on sand and grass".
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    caption: str


def compose(glyphs: Sequence[Glyph], rng: np.random.Generator, style: SceneStyle | None = None) -> Scene:
    """Draw a picture of some of the glyphs.

    Args:
        glyphs: the objects to choose from.
        rng: decides everything.
        style: what the picture is like.
    """
    style = style or SceneStyle()
    ground, labels = _draw_ground(rng, style)
    canvas = Image.fromarray(ground.astype(np.uint8))
    instances = np.zeros(labels.shape, dtype=np.uint8)
    chosen = _choose(glyphs, rng, style)
    placed = [glyph for glyph in chosen if _place(glyph, canvas, labels, instances, rng, style)]
    image = _light(np.asarray(canvas, dtype=np.float32), rng)
    things = list(dict.fromkeys(glyph.word for glyph in placed))
    is_named = rng.random() < style.ground_named or not things
    ground = np.unique(labels[instances == 0]).tolist() if is_named else []
    return Scene(image, labels, instances, _caption(things, ground, rng))


def _draw_ground(rng: np.random.Generator, style: SceneStyle) -> tuple[np.ndarray, np.ndarray]:
    """The ground (size, size, 3) and its labels, one kind or two that meet at an uneven horizon."""
    side, unit = style.size, style.unit or style.size / _TEXTURE_REFERENCE
    kinds = rng.choice(len(STUFF), size=2, replace=False)
    table = words()
    below, above = (TEXTURES[table[STUFF[kind]].name](rng, side, unit) for kind in kinds)
    is_above = np.zeros((side, side), dtype=bool)
    if rng.random() < style.horizon:
        columns = np.linspace(-0.5, 0.5, side, dtype=np.float32)
        line = rng.uniform(0.3, 0.7) + rng.uniform(-0.15, 0.15) * columns + 0.1 * (noise(rng, side, side / 3)[0] - 0.5)
        is_above = np.arange(side)[:, None] < line * side
    ground = np.where(is_above[..., None], above, below)
    labels = np.where(is_above, STUFF[kinds[1]], STUFF[kinds[0]]).astype(np.int16)
    return np.clip(ground, 0, 255), labels


def _choose(glyphs: Sequence[Glyph], rng: np.random.Generator, style: SceneStyle) -> list[Glyph]:
    count = int(rng.integers(style.objects[0], style.objects[1] + 1))
    chosen = [glyphs[i] for i in rng.choice(len(glyphs), size=min(count, len(glyphs)), replace=False)]
    if rng.random() < style.repeats and count > 1:
        flock = int(rng.integers(2, 5))
        chosen = [chosen[0]] * flock + chosen[flock:]
        rng.shuffle(chosen)
    return chosen


def _place(
    glyph: Glyph,
    canvas: Image.Image,
    labels: np.ndarray,
    instances: np.ndarray,
    rng: np.random.Generator,
    style: SceneStyle,
) -> bool:
    """Draw an object where it leaves enough of itself and of the others visible; False if no such place was found."""
    side = style.size
    before = np.bincount(instances.ravel(), minlength=1)
    for _ in range(_PLACEMENTS):
        longer = side * rng.uniform(*style.object_size)
        picture, silhouette = _turn(glyph, longer, rng)
        x, y = (int(rng.uniform(-0.3 * part, side - 0.7 * part)) for part in picture.size)
        window = (slice(max(y, 0), max(y + picture.height, 0)), slice(max(x, 0), max(x + picture.width, 0)))
        inside = np.asarray(silhouette)[max(-y, 0) : side - y, max(-x, 0) : side - x] > 127
        area = np.count_nonzero(np.asarray(silhouette) > 127)
        if not area or np.count_nonzero(inside) < _LEAST_VISIBLE * 1.5 * area:
            continue
        covered = np.bincount(instances[window][inside], minlength=len(before))
        if np.any((before - covered)[1:] < _LEAST_VISIBLE * before[1:]):
            continue
        canvas.paste(picture, (x, y), picture)
        labels[window][inside] = glyph.word
        instances[window][inside] = len(before)
        return True
    return False


def _turn(glyph: Glyph, longer: float, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """The glyph at its size, perhaps flipped, rotated by up to 25 degrees, a little lighter or darker."""
    scale = longer / max(glyph.picture.size)
    size = tuple(max(1, round(part * scale)) for part in glyph.picture.size)
    flip, angle, gain = rng.random() < 0.5, rng.uniform(-25, 25), rng.uniform(0.8, 1.15)
    parts = []
    for part in (glyph.picture, glyph.silhouette):
        part = part.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        if flip:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        parts.append(part.rotate(angle, Image.Resampling.BILINEAR, expand=True))
    picture, silhouette = parts
    *colours, alpha = picture.split()
    colours = [band.point(lambda value: min(255, int(value * gain))) for band in colours]
    return Image.merge("RGBA", (*colours, alpha)), silhouette


def _light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, a tint, light from one side, and noise."""
    side = len(image)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    slope = rng.uniform(-0.12, 0.12, 2)
    light = 1 + (slope[0] * ramp[None] + slope[1] * ramp[:, None]).astype(np.float32)
    gain = (rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    grain = rng.standard_normal((side, side), dtype=np.float32) * rng.uniform(0, 6)
    lit = (image - 128) * float(rng.uniform(0.85, 1.1)) + 128
    return np.clip(lit * light[..., None] * gain + grain[..., None], 0, 255).astype(np.uint8)


def _caption(things: list[int], ground: list[int], rng: np.random.Generator) -> str:
    table = words()
    rng.shuffle(things)
    rng.shuffle(ground)
    seen = ", ".join(with_article(table[index].name) for index in things)
    where = " and ".join(table[index].name for index in ground)
    joint = " on " if seen and where else ""
    return f"{PREFIXES[int(rng.integers(len(PREFIXES)))]} {seen}{joint}{where}".strip()


def with_article(name: str) -> str:
    """ "an apple", "a pear", "grapes"."""
    if name.endswith("s") and not name.endswith("ss") and name not in _SINGULAR_WITH_S:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


_SINGULAR_WITH_S = ("octopus", "cactus", "bus", "compass")
