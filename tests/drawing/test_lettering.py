"""Tests of the letters of drawings: no script is drawn as empty boxes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw

from escnet.drawing import lettering
from escnet.drawing.lettering import Lettering, drawable, label_font, shortened
from escnet.drawing.overlay import overlay

# STIXGeneral, which comes with matplotlib too, has these, and DejaVu Sans does not.
ELSEWHERE = "\u24dd\u27d0"


@pytest.fixture
def own_fonts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "FONT_PACKAGES", ())


@pytest.fixture
def another_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with a font of more characters."""
    package = tmp_path / "fonts_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"), package)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lettering, "FONT_PACKAGES", (package.name,))
    yield
    sys.modules.pop(package.name, None)


def drawn(text: str, bold: bool = False) -> np.ndarray:
    canvas = Image.new("L", (400, 40), 255)
    Lettering(20, bold).draw(ImageDraw.Draw(canvas), (2, 20), text, 0)
    return np.asarray(canvas)


@pytest.mark.usefixtures("own_fonts_only")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat, Käfer, кот, γάτα, قطة, חתול", "cat, Käfer, кот, γάτα, قطة, חתול"),
        ("dog 狗", r"dog \u72d7"),
        ("\U0001f415", r"\U0001f415"),
        ("कु", r"\u0915\u0941"),
        ("bell\a", r"bell\x07"),
        ("two\nlines\u2028of  text", "two lines of text"),
    ],
)
def test_characters_that_no_font_has_become_escapes(text: str, expected: str) -> None:
    assert drawable(text) == drawable(text, installed_fonts=False) == expected
    assert np.array_equal(drawn(text), drawn(expected))


@pytest.mark.usefixtures("own_fonts_only")
def test_plain_text_is_drawn_as_before() -> None:
    canvas = Image.new("L", (400, 40), 255)
    ImageDraw.Draw(canvas).text((2, 20), "cat, edifice", 0, label_font(20), "lm")
    assert np.array_equal(drawn("cat, edifice"), np.asarray(canvas))
    assert Lettering(20).getlength("cat, edifice") == label_font(20).getlength("cat, edifice")


@pytest.mark.usefixtures("another_font")
@pytest.mark.parametrize("bold", [False, True])
def test_an_installed_font_draws_what_the_first_one_lacks(bold: bool) -> None:
    assert drawable(f"a{ELSEWHERE}") == f"a{ELSEWHERE}"
    assert drawable("a\u27d0", installed_fonts=False) == r"a\u27d0"
    single, double = drawn("\u24dd", bold), drawn(ELSEWHERE, bold)
    assert (single < 128).any() and not np.array_equal(single, double)
    boxes = Image.new("L", (400, 40), 255)
    ImageDraw.Draw(boxes).text((2, 20), "\u24dd", 0, label_font(20, bold), "lm")
    assert not np.array_equal(single, np.asarray(boxes))
    letters = Lettering(20, bold)
    assert letters.getlength(f"a{ELSEWHERE}b") > letters.getlength("ab") + 20


def test_noto_draws_the_scripts_of_the_world() -> None:
    for package in lettering.FONT_PACKAGES:
        pytest.importorskip(package)
    for word in ("狗", "猫", "강아지", "कुत्ता", "หมา", "ውሻ", "🐕", "𠮷"):
        assert drawable(word) == word
        assert not np.array_equal(drawn(word), drawn(word, bold=True)) or word == "🐕"


@pytest.mark.usefixtures("own_fonts_only")
def test_legends_have_escapes_instead_of_boxes() -> None:
    image, labels = np.full((400, 400, 3), 128, np.uint8), np.zeros((400, 400), int)
    assert np.array_equal(overlay(image, labels, ["狗, dog"]), overlay(image, labels, [r"\u72d7, dog"]))


def test_shortened_text_ends_in_an_ellipsis_within_its_width() -> None:
    letters = Lettering(20)
    text = shortened("a class with quite a long name", letters, 100)
    assert text.endswith("…") and letters.getlength(text) <= 100
    assert shortened(" a  b ", letters, 100) == "a b"
