"""Whether all text can be read, for users who want the page light or dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.web.user import CASTLE, choose_model, error, segment, upload, write

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.web

# Contrast that WCAG 2.2 asks for, of text and of signs without it.
TEXT, SIGN = 4.5, 3.0
CONTRASTS = """(selector) => {
    const numbers = (text) => {
        const values = (text.match(/[\\d.]+/g) || []).map(Number);
        return [...values.slice(0, 3), values[3] ?? 1];
    };
    const over = (top, below) => [...[0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]), 1];
    const luminance = (colour) => {
        const [r, g, b] = colour.slice(0, 3).map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        const below = node.parentElement ? ground(node.parentElement) : [255, 255, 255, 1];
        return over(numbers(getComputedStyle(node).backgroundColor), below);
    };
    const text = (node) => node.matches('textarea, input:not([type=range], [type=radio], [type=checkbox]), select')
        ? node.value : [...node.childNodes].filter((one) => one.nodeType === 3).map((one) => one.data).join('').trim();
    return [...document.querySelectorAll(selector)]
        .filter((node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true }))
        .filter((node) => node.getBoundingClientRect().width > 1 && (selector !== 'body *' || text(node)))
        .map((node) => {
            const below = ground(node);
            const pair = [over(numbers(getComputedStyle(node).color), below), below].map(luminance);
            return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), text(node) || node.outerHTML.slice(0, 60)];
        });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(new_page: Callable[..., Page], scheme: str, screenshots: Path | None) -> None:
    page = new_page(scheme=scheme)
    # Colours that fade from one to the other would be measured on their way.
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; animation: none !important; }")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == (
        "dark" if scheme == "dark" else "normal"
    )
    require_contrast(page)
    upload(page, CASTLE)
    write(page, "castle, water, carpet|wall-to-wall carpet, duck")
    choose_model(page, "CLIP-Guided SAM")
    segment(page)
    page.get_by_role("button", name="How the model came to it").click()
    write(page, "castle, castle")
    page.get_by_role("button", name="Segment", exact=True).hover()
    require_contrast(page)
    page.get_by_role("button", name="Segment", exact=True).click()
    error(page)
    page.locator("#model input").click()
    page.get_by_role("option", name="SAM-CLIP").wait_for()
    require_contrast(page)
    page.keyboard.press("Escape")
    for width in (360, 768, 1440) if screenshots else ():
        page.set_viewport_size({"width": width, "height": 900})
        page.screenshot(path=screenshots / f"page_{scheme}_{width}.png", full_page=True)


def require_contrast(page: Page) -> None:
    found = page.evaluate(CONTRASTS, "body *")
    assert len(found) > 10
    assert [(round(contrast, 2), text) for contrast, text in found if contrast < TEXT] == []
    signs = page.evaluate(CONTRASTS, "#picture button svg")
    assert signs and [(round(contrast, 2), text) for contrast, text in signs if contrast < SIGN] == []
