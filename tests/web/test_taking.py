"""Pictures that are pasted and dropped, as a browser gives them, and what is said of what is no picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from escnet.app.models import LoadedModels
from escnet.data.images import read_image
from tests.web.user import CASTLE, WORDS, another_picture, classes, copy_picture, download, drop, error, segment, write

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.web

PINEAPPLE = CASTLE.with_name("pineapple.jpg")


def test_a_picture_is_pasted_by_keys_and_by_the_button(page: Page, models: LoadedModels, tmp_path: Path) -> None:
    copy_picture(page, CASTLE)
    # Where words are written, too.
    page.locator("#words textarea").focus()
    with another_picture(page):
        page.keyboard.press("Control+V")
    assert page.locator("#words textarea").input_value() == ""
    write(page, WORDS)
    segment(page)
    # The clipboard has it as PNG, without loss.
    expected = models.segmenter("ESC-Net")(read_image(CASTLE), WORDS.split(", "))
    labels = np.asarray(Image.open(download(page, "Labels (PNG)", tmp_path)))
    assert np.mean(labels == expected.labels) > 0.99
    copy_picture(page, PINEAPPLE)
    with another_picture(page):
        page.get_by_label("Paste from clipboard").first.click()
    write(page, "pineapple, snow")
    segment(page)
    assert "pineapple" in classes(page)
    assert not page.broken


def test_what_is_on_the_clipboard_and_no_picture(page: Page) -> None:
    page.evaluate("navigator.clipboard.writeText('castle, water')")
    page.get_by_label("Paste from clipboard").first.click()
    assert error(page).startswith("there is no picture on the clipboard")
    page.locator("#words textarea").focus()
    page.keyboard.press("Control+V")
    assert page.locator("#words textarea").input_value() == "castle, water"
    page.evaluate("() => { navigator.clipboard.read = () => Promise.reject(new Error('Read permission denied.')) }")
    page.get_by_label("Paste from clipboard").first.click()
    page.wait_for_function("document.querySelector('#view .error').textContent.includes('denied')")
    assert error(page).endswith("press Ctrl-V")
    assert not page.broken


def test_a_picture_is_dropped_on_its_field_on_another_picture_and_beside(
    new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    tabs = len(page.context.pages)
    field = page.locator("#picture")
    with another_picture(page):
        drop(page, CASTLE, field)
    with another_picture(page):
        drop(page, PINEAPPLE, field)
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    drop(page, notes, field)
    assert error(page) == "notes.txt: is not an image of a format that browsers know"
    # The picture that is there stays.
    write(page, "pineapple, snow")
    segment(page)
    assert "pineapple" in classes(page)
    with another_picture(page):
        drop(page, CASTLE, page.locator("#view canvas"))
    write(page, WORDS)
    segment(page)
    assert "castle" in classes(page)
    assert len(page.context.pages) == tabs and not page.broken
