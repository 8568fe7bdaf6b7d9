"""Clicks and boxes in a browser, by mouse and by keyboard, for words and without one; and pictures from the camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from escnet.app.models import LoadedModels
from tests.web.user import (
    CASTLE,
    WORDS,
    answer,
    at,
    canvas,
    choose_model,
    classes,
    error,
    segment,
    status,
    upload,
    write,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.web


def start(page: Page, model: str) -> None:
    upload(page, CASTLE)
    write(page, WORDS)
    choose_model(page, model)
    segment(page)


def shares(page: Page) -> dict[str, float]:
    """Of the picture, in percent."""
    figures = page.locator("#view .legend .figures").all_inner_texts()
    return {name: float(text.split(" %")[0]) for name, text in zip(classes(page), figures, strict=True)}


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    frame = canvas(page).bounding_box()
    places = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


def test_a_box_for_a_word(page: Page, models: LoadedModels, encodings: list[str]) -> None:
    start(page, "CLIP-Guided SAM")
    page.get_by_label("For which word").select_option("castle")
    page.get_by_label("draw a box").check()
    with answer(page):
        drag(page, (0.02, 0.6), (0.7, 0.98))
    assert "picture not encoded again" in status(page)
    assert encodings == ["CLIP-Guided SAM"]
    box = {"castle": {"box": (0.02 * 384 - 0.5, 0.6 * 384 - 0.5, 0.7 * 384 - 0.5, 0.98 * 384 - 0.5)}}
    expected = models.segmenter("CLIP-Guided SAM")(CASTLE, WORDS.split(", "), prompts=box)
    share = 100 * np.mean(expected.mask("castle"))
    assert shares(page)["castle"] == pytest.approx(share, abs=1)
    with answer(page):
        page.get_by_role("button", name="Forget clicks and boxes").click()
    assert shares(page)["castle"] != pytest.approx(share, abs=0.05)


def test_clicks_without_a_word_by_mouse_and_keyboard(page: Page) -> None:
    start(page, "SAM-CLIP")
    assert page.locator("#view .pointing option").all_inner_texts() == ["no word: one mask"]
    page.get_by_label("click on it").check()
    with answer(page):
        canvas(page).click(position=at(page, 0.15, 0.9))
    assert classes(page) == ["what is pointed at"]
    assert "expected IoU" in status(page)
    assert not page.get_by_role("button", name="Labels (PNG)").is_visible()
    page.get_by_label("click beside it").check()
    canvas(page).focus()
    page.keyboard.press("ArrowUp")
    with answer(page):
        page.keyboard.press("Enter")
    assert classes(page) == ["what is pointed at"]
    with answer(page):
        page.get_by_role("button", name="Forget clicks and boxes").click()
    assert "castle" in classes(page)


def test_a_point_beside_alone_says_what_is_missing(page: Page) -> None:
    start(page, "CLIP-Guided SAM")
    page.get_by_label("click beside it").check()
    canvas(page).click(position=at(page, 0.5, 0.5))
    assert error(page).startswith('the prompts of "castle": all points have the label 0')
    assert "castle" in classes(page)


def test_a_model_without_prompts_offers_none(page: Page) -> None:
    start(page, "ESC-Net")
    assert not page.locator("#view .pointing").is_visible()
    assert page.get_by_text("This model takes no clicks or boxes.").is_visible()


def test_a_picture_from_the_camera(page: Page) -> None:
    page.get_by_label("Capture from camera").click()
    access = page.get_by_text("Click to Access Webcam")
    access.wait_for()
    access.click()
    # A camera needs a moment until it has a picture.
    page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0")
    page.get_by_label("capture photo").click()
    page.wait_for_function("[...document.querySelectorAll('#picture img')].some((one) => one.naturalWidth > 0)")
    write(page, WORDS)
    segment(page)
    assert classes(page)
