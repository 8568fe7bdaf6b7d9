"""What a user does with the page, and what he sees."""

from __future__ import annotations

import base64
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

CASTLE = Path(__file__).parents[2] / "escnet" / "app" / "examples" / "castle.jpg"
WORDS = "castle, water, carpet, duck"


def upload(page: Page, file: Path) -> None:
    """Choose a file, and wait until the server has it."""
    with page.expect_response(lambda response: "/upload?" in response.url) as answered:
        page.locator("#picture input[type=file]").set_input_files(file)
    assert answered.value.ok
    # The page knows the path a moment later: it then has a button that removes the picture.
    page.locator("#picture").get_by_label("Remove Image").or_(page.locator("#picture img")).first.wait_for()


def copy_picture(page: Page, file: Path) -> None:
    """Put a picture on the clipboard, as another program would."""
    page.evaluate(
        """async (url) => {
            const bitmap = await createImageBitmap(await (await fetch(url)).blob());
            const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
            canvas.getContext('2d').drawImage(bitmap, 0, 0);
            const png = await canvas.convertToBlob({ type: 'image/png' });
            await navigator.clipboard.write([new ClipboardItem({ 'image/png': png })]);
        }""",
        f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}",
    )


def drop(page: Page, file: Path, target: Locator) -> None:
    """Drag a file of the machine into the browser and let go of it over the middle of something."""
    box = target.bounding_box()
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})


@contextmanager
def another_picture(page: Page) -> Iterator[None]:
    """Wait until the field of the picture shows another one than before the block."""
    source = "document.querySelector('#picture .image-frame img')?.src ?? ''"
    before = page.evaluate(source)
    yield
    page.wait_for_function(f"({source}) && ({source}) !== {before!r}")


def write(page: Page, words: str, background: str = "") -> None:
    page.locator("#words textarea").fill(words)
    page.locator("#background textarea, #background input").fill(background)


def choose_model(page: Page, name: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=name).click()


def segment(page: Page) -> None:
    with answer(page):
        page.get_by_role("button", name="Segment", exact=True).click()


@contextmanager
def answer(page: Page) -> Iterator[None]:
    """Wait until another answer is drawn than before the block."""
    before = drawn(page)
    yield
    page.wait_for_function(
        f"(document.querySelector('#view [data-drawn]')?.dataset.drawn ?? '') !== {before!r}", timeout=20_000
    )


def drawn(page: Page) -> str:
    """The number of the answer that is seen; "" before the first."""
    return page.evaluate("document.querySelector('#view [data-drawn]')?.dataset.drawn ?? ''")


def status(page: Page) -> str:
    return page.locator("#view .status").inner_text()


def error(page: Page) -> str:
    """Waits for it."""
    shown = page.locator("#view .error")
    shown.wait_for(state="visible")
    return shown.inner_text()


def classes(page: Page) -> list[str]:
    return page.locator("#view .legend .name").all_inner_texts()


def canvas(page: Page) -> Locator:
    found = page.locator("#view canvas")
    found.scroll_into_view_if_needed()
    return found


def at(page: Page, x: float, y: float) -> dict[str, float]:
    """The place on the canvas of a share of the picture's width and height, as playwright's `position`."""
    box = canvas(page).bounding_box()
    return {"x": x * box["width"], "y": y * box["height"]}


def colour(page: Page, x: float, y: float) -> list[int]:
    """RGB that the canvas shows there."""
    return page.evaluate(
        """([x, y]) => {
            const canvas = document.querySelector('#view canvas');
            const place = [Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1];
            return [...canvas.getContext('2d').getImageData(...place).data].slice(0, 3);
        }""",
        [x, y],
    )


def download(page: Page, button: str, folder: Path) -> Path:
    """Press a button, and wait for its file."""
    with page.expect_download() as expected:
        page.get_by_role("button", name=button).click()
    path = folder / expected.value.suggested_filename
    expected.value.save_as(path)
    return path
