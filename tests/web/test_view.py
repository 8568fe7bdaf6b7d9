"""The view of an answer: hovering, opacity, classes on and off, widths, the keyboard; none of it asks the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from escnet.app.models import LoadedModels
from escnet.data.images import read_image
from escnet.drawing.palette import palette
from tests.web.user import CASTLE, WORDS, at, canvas, colour, drawn, segment, upload, write

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.web

# A place in the water, as shares of the sides, and its pixel of 384 by 384.
WATER = (0.5, 0.1)
PIXEL = (192, 38)


@pytest.fixture
def answered(page: Page) -> Page:
    upload(page, CASTLE)
    write(page, WORDS)
    segment(page)
    page.asked.clear()
    return page


def test_hovering_tells_word_and_score(answered: Page, models: LoadedModels) -> None:
    result = models.segmenter("ESC-Net")(CASTLE, WORDS.split(", "))
    canvas(answered).hover(position=at(answered, *WATER))
    text = answered.locator("#view .pixel").inner_text()
    x, y = (int(part) for part in text.split(":")[0].strip("()").split(", "))
    assert max(abs(x - PIXEL[0]), abs(y - PIXEL[1])) <= 1
    assert text.split(": ")[1] == f"water, score {result.scores[y, x]:.2f}"


def test_opacity_and_classes_ask_nothing(answered: Page) -> None:
    image = read_image(CASTLE)[PIXEL[1], PIXEL[0]].astype(float)
    tint = palette(4)[1].astype(float)
    slider = answered.get_by_label("Opacity")
    for percent in (0, 50, 100):
        slider.fill(str(percent))
        expected = image + percent / 100 * (tint - image)
        # The picture travels as JPEG, and is enlarged smoothly.
        assert np.abs(colour(answered, *WATER) - expected).max() <= 25
    assert answered.locator("#view .opacity output").inner_text() == "100 %"
    assert np.abs(colour(answered, *WATER) - tint).max() <= 1
    answered.get_by_role("checkbox", name="water").uncheck()
    assert np.abs(colour(answered, *WATER) - image).max() <= 25
    answered.get_by_role("checkbox", name="water").check()
    assert np.abs(colour(answered, *WATER) - tint).max() <= 1
    answered.get_by_role("button", name="Hide all").click()
    assert np.abs(colour(answered, *WATER) - image).max() <= 25
    answered.get_by_role("button", name="Show all").click()
    assert np.abs(colour(answered, *WATER) - tint).max() <= 1
    assert [one for one in answered.asked if "queue" in one] == []


def test_a_class_that_is_off_stays_off_for_other_words(answered: Page) -> None:
    answered.get_by_role("checkbox", name="water").uncheck()
    write(answered, "water, castle, snow")
    segment(answered)
    assert not answered.get_by_role("checkbox", name="water").is_checked()
    assert answered.get_by_role("checkbox", name="castle").is_checked()


def test_maps_and_prompts_are_drawn_on_demand(answered: Page) -> None:
    assert answered.locator("#sheet img").count() == 0
    answered.get_by_role("button", name="How the model came to it").click()
    answered.get_by_role("button", name="Draw maps, prompts and blocks").click()
    sheet = answered.locator("#sheet img")
    sheet.wait_for()
    assert sheet.get_attribute("alt") == "CLIP's maps, prompts and blocks of ESC-Net: castle.jpg"
    answered.wait_for_function("document.querySelector('#sheet img').naturalWidth > 800")
    assert _scrolls_sideways(answered) == 0
    segment(answered)
    sheet.wait_for(state="detached")


def test_nothing_is_cut_at_any_width(new_page: Callable[..., Page], screenshots: Path | None) -> None:
    page = new_page(360, 900)
    assert _scrolls_sideways(page) == 0
    upload(page, CASTLE)
    # A name as long as can be, and one without a place to break it.
    write(page, "castle, water, carpet|" + "wall-to-wall " * 3 + ", " + "d" * 30)
    segment(page)
    page.get_by_label("Opacity").fill("60")
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert _scrolls_sideways(page) == 0
        outside = page.evaluate(
            """() => [...document.querySelectorAll('#view *, button, textarea, input')].filter((one) => {
                const box = one.getBoundingClientRect();
                const isSeen = one.checkVisibility() && box.width > 0 && getComputedStyle(one).opacity !== '0';
                return isSeen && (box.left < -0.5 || box.right > innerWidth + 0.5
                    || one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX === 'hidden');
            }).map((one) => one.outerHTML.slice(0, 120))"""
        )
        assert outside == []
        if screenshots:
            page.screenshot(path=screenshots / f"page_{width}.png", full_page=True)


def _scrolls_sideways(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_the_keyboard_is_enough(page: Page) -> None:
    upload(page, CASTLE)
    page.locator("#words textarea").focus()
    page.keyboard.type(WORDS)
    _tab_to(page, "document.activeElement.innerText === 'Segment'")
    assert _outline(page)
    before = drawn(page)
    page.keyboard.press("Enter")
    page.wait_for_function(f"(document.querySelector('#view [data-drawn]')?.dataset.drawn ?? '') !== '{before}'")
    _tab_to(page, "document.activeElement.tagName === 'CANVAS'")
    assert _outline(page)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator("#view .pixel").inner_text().startswith("(202, 191): ")
    _tab_to(page, "document.activeElement.type === 'range'")
    page.keyboard.press("ArrowRight")
    assert page.locator("#view .opacity output").inner_text() == "55 %"
    _tab_to(page, "document.activeElement.dataset.name === 'water'")
    assert _outline(page)
    page.keyboard.press("Space")
    assert not page.get_by_role("checkbox", name="water").is_checked()
    assert page.locator("#view .status").get_attribute("role") == "status"
    assert page.locator("#view .error").get_attribute("role") == "alert"


def _tab_to(page: Page, condition: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate(condition):
            return
    raise AssertionError(f"30 tabs do not reach what has {condition}")


def _outline(page: Page) -> bool:
    """Whether the focus can be seen."""
    return page.evaluate(
        """() => {
            const style = getComputedStyle(document.activeElement);
            return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none';
        }"""
    )
