"""The example pictures of the page, with words that fit them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "examples"
ATTRIBUTION = (
    "The example pictures are made of OpenMoji's glyphs: all emojis designed by OpenMoji, the open-source emoji and "
    "icon project. License: CC BY-SA 4.0."
)


class ExamplePicture(NamedTuple):
    """A picture and what is typed for it."""

    title: str
    file: Path
    words: str
    background: str


EXAMPLES = (
    ExamplePicture(
        "Croissant", FOLDER / "croissant_and_taxi.jpg", "croissant|bread, taxi, snow", "wooden floor, grass"
    ),
    ExamplePicture("Castle", FOLDER / "castle.jpg", "castle, water, carpet, duck", ""),
    ExamplePicture("Pineapple", FOLDER / "pineapple.jpg", "pineapple, pear, water, gravel", ""),
)
