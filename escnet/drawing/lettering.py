"""Letters of any script in drawings: from the fonts that are there, and as escapes where none has them."""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

# Of the optional extra "fonts": Noto, for scripts that matplotlib's DejaVu Sans lacks.
FONT_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
_WEIGHTS = {False: 400, True: 700}


class _Face(NamedTuple):
    path: Path
    characters: frozenset[int]


class Lettering:
    """Letters of one size, in which text of any script is measured and drawn.

    Each part of a text is set in the first font that has it: DejaVu Sans, which comes with matplotlib, then those of
    `FONT_PACKAGES` that are installed.

    Args:
        size: of the letters, in pixels.
        bold: bold letters, where the font has them.
    """

    def __init__(self, size: int, bold: bool = False) -> None:
        self.size = size
        self.bold = bold

    def getlength(self, text: str) -> float:
        """The pixels of the width of a text."""
        return sum(_font(path, self.size, self.bold).getlength(part) for path, part in _parts(text, self.bold))

    def draw(self, canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: tuple[int, ...]) -> None:
        """Draw a text, `place` being (x, y) of its left end and of the middle of a line."""
        x, y = place
        main = label_font(self.size, self.bold)
        ascent, descent = main.getmetrics()
        # As Pillow rounds the anchor "lm"; fonts of different heights share the baseline.
        baseline = y + math.ceil((ascent - descent) / 2)
        for path, part in _parts(text, self.bold):
            font = _font(path, self.size, self.bold)
            canvas.text((x, baseline), part, fill, font, "ls")
            x += font.getlength(part)


def drawable(text: str, installed_fonts: bool = True) -> str:
    """A text on one line, with an escape such as \\u72d7 for each character that no font has; never an empty box.

    Args:
        text: any text.
        installed_fonts: also count on the fonts of `FONT_PACKAGES`; False for DejaVu Sans alone, as matplotlib draws.
    """
    faces = _faces(False, FONT_PACKAGES if installed_fonts else ())
    return "".join(
        character if any(ord(character) in face.characters for face in faces) else _escape(character)
        for character in " ".join(text.split())
    )


def label_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans in letters of `size` pixels, for text that is known to need no other script."""
    return _font(_own_face(bold).path, size, bold)


def shortened(text: str, font: ImageFont.FreeTypeFont | Lettering, width: float) -> str:
    """The text as `drawable` returns it, its end replaced by an ellipsis if it is wider than `width`."""
    text = drawable(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "…"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _parts(text: str, bold: bool) -> list[tuple[Path, str]]:
    """A text cut where the font changes: (path of the font, part) each."""
    faces = _faces(bold, FONT_PACKAGES)
    parts: list[tuple[_Face, str]] = []
    for character in drawable(text):
        face = next(face for face in faces if ord(character) in face.characters)
        # Marks and joiners, which many fonts have, belong to the letter before them.
        if parts and not character.isascii() and ord(character) in parts[-1][0].characters:
            face = parts[-1][0]
        if parts and face is parts[-1][0]:
            parts[-1] = (face, parts[-1][1] + character)
        else:
            parts.append((face, character))
    return [(face.path, part) for face, part in parts]


@lru_cache(maxsize=8)
def _faces(bold: bool, packages: tuple[str, ...]) -> tuple[_Face, ...]:
    """The fonts in the order in which they are asked for a character."""
    own = (_own_face(True), _own_face(False)) if bold else (_own_face(False),)
    return own + tuple(_face(path) for package in packages for path in _font_files(package))


@lru_cache(maxsize=2)
def _own_face(bold: bool) -> _Face:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return _face(Path(matplotlib.get_data_path(), "fonts", "ttf", name))


def _face(path: Path) -> _Face:
    return _Face(path, frozenset(FT2Font(str(path)).get_charmap()))


def _font_files(package: str) -> list[Path]:
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    files = sorted(file for folder in folders or () for file in Path(folder).iterdir())
    return [file for file in files if file.suffix in (".ttf", ".ttc", ".otf") and "Italic" not in file.name]


@lru_cache(maxsize=64)
def _font(path: Path, size: int, bold: bool) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(path, size)
    try:
        axes = font.get_variation_axes()
    except OSError:  # not a font of variable weight
        return font
    weights = {b"Weight": _WEIGHTS[bold]}
    font.set_variation_by_axes([weights.get(axis["name"], axis["default"]) for axis in axes])
    return font
