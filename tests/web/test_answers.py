"""A picture and words in a browser: masks, another word, files, and sentences about what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from escnet.app.models import LoadedModels
from tests.web.user import (
    CASTLE,
    WORDS,
    answer,
    choose_model,
    classes,
    download,
    error,
    segment,
    status,
    upload,
    write,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.web


def test_a_picture_is_encoded_once_for_all_words(page: Page, encodings: list[str]) -> None:
    upload(page, CASTLE)
    write(page, WORDS)
    segment(page)
    assert classes(page) == ["water", "carpet", "castle"]
    assert "picture encoded in" in status(page)
    assert page.locator("#view .absent").inner_text() == "Nowhere in the picture: duck"
    write(page, "castle, water", "carpet")
    segment(page)
    assert classes(page) == ["water", "background", "castle"]
    assert "picture not encoded again; words in" in status(page)
    assert encodings == ["ESC-Net"]
    choose_model(page, "SAM-CLIP")
    segment(page)
    assert encodings == ["ESC-Net", "SAM-CLIP"]
    assert not page.broken


def test_nothing_is_asked_of_other_machines(page: Page, url: str) -> None:
    with answer(page):
        page.get_by_role("button", name="Pineapple").click()
        page.wait_for_function("document.querySelector('#words textarea').value.includes('pineapple')")
        page.locator("#picture img").wait_for()
        page.get_by_role("button", name="Segment", exact=True).click()
    asked = [one for one in page.asked if not one.startswith(("data:", "blob:"))]
    assert len(asked) > 5
    assert {one.split("/")[2] for one in asked} == {url.split("/")[2]}
    assert "connect-src 'self'" in page.request.get(url).headers["content-security-policy"]


def test_the_three_files(page: Page, models: LoadedModels, tmp_path: Path) -> None:
    upload(page, CASTLE)
    write(page, WORDS)
    segment(page)
    expected = models.segmenter("ESC-Net")(CASTLE, WORDS.split(", "))
    labels = download(page, "Labels (PNG)", tmp_path)
    assert labels.name == "castle_labels.png"
    assert np.array_equal(np.asarray(Image.open(labels)), expected.labels)
    coco = json.loads(download(page, "COCO (JSON)", tmp_path).read_text())
    assert coco["images"][0]["file_name"] == "castle.jpg"
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for annotation in coco["annotations"]:
        mask = expected.mask(names[annotation["category_id"]])
        assert np.array_equal(_decoded(annotation["segmentation"]), mask)
    overlay = Image.open(download(page, "Overlay (PNG)", tmp_path))
    assert np.array_equal(np.asarray(overlay.convert("RGB")), np.asarray(expected.overlay()))


def _decoded(segmentation: dict) -> np.ndarray:
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
    return coco_mask.decode(segmentation).astype(bool)


def test_what_cannot_be_used_is_told_in_one_sentence(page: Page, tmp_path: Path) -> None:
    page.get_by_role("button", name="Segment", exact=True).click()
    assert error(page) == "there is no picture; drop one, take one with the camera, or choose an example"
    bad = tmp_path / "holiday.png"
    bad.write_bytes(b"this is no picture")
    upload(page, bad)
    write(page, "cat")
    page.get_by_role("button", name="Segment", exact=True).click()
    page.wait_for_function("document.querySelector('#view .error').textContent.includes('holiday')")
    assert error(page) == ("holiday.png: is not an image of a known format; remove the file, or save it as PNG or JPEG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cat, cat", 'class 1, "cat", is the same as class 0'),
        ("", "the vocabulary is empty: give at least one class name"),
        ("words.txt", 'class 0, "words.txt", is the name of a file'),
        (", ".join("abcdefghijklm"), "there are 13 words, where this page takes 12"),
    ],
)
def test_words_that_cannot_be_used(page: Page, words: str, message: str) -> None:
    upload(page, CASTLE)
    write(page, words)
    page.get_by_role("button", name="Segment", exact=True).click()
    assert error(page).startswith(message)
    write(page, WORDS)
    segment(page)
    assert not page.locator("#view .error").is_visible()


def test_a_large_picture_is_shrunk_and_a_larger_file_refused(
    new_page: Callable[..., Page], url: str, tmp_path: Path
) -> None:
    page, other = new_page(), new_page()
    large = tmp_path / "large.jpg"
    Image.open(CASTLE).resize((900, 600)).save(large)
    upload(page, large)
    write(page, WORDS)
    segment(page)
    assert "large.jpg has 900 x 600 pixels and was shrunk to 547 x 365 (--max-pixels)" in status(page)
    huge = tmp_path / "huge.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(np.uint8)).save(huge)
    assert huge.stat().st_size > 2**20
    other.locator("#picture input[type=file]").set_input_files(huge)
    other.get_by_text("exceed the maximum allowed size").first.wait_for()
    file = {"name": "huge.png", "mimeType": "image/png", "buffer": huge.read_bytes()}
    assert other.request.post(f"{url}gradio_api/upload", multipart={"files": file}).status == 413


def test_two_users_at_once_get_their_own(new_page: Callable[..., Page], encodings: list[str]) -> None:
    first, second = new_page(), new_page()
    for page, words in ((first, "castle, water"), (second, "carpet, duck")):
        upload(page, CASTLE)
        write(page, words)
    with answer(first), answer(second):
        for page in (first, second):
            page.get_by_role("button", name="Segment", exact=True).click()
    assert set(classes(first)) <= {"castle", "water"}
    assert set(classes(second)) <= {"carpet", "duck"}
    assert encodings == ["ESC-Net"] * 2
    write(first, "snow, water")
    segment(first)
    assert set(classes(second)) <= {"carpet", "duck"}
    assert set(classes(first)) <= {"snow", "water"}


def test_a_browser_cannot_name_a_file_of_the_server(page: Page, url: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    api = url.rstrip("/") + "/gradio_api"
    assert page.request.get(f"{api}/file={secret}").status in (403, 404)
    config = page.evaluate("window.gradio_config")
    run = next(one for one in config["dependencies"] if one["targets"] and len(one["inputs"]) == 4)
    picture = {"path": str(secret), "orig_name": "secret.png", "meta": {"_type": "gradio.FileData"}}
    sent = {"data": [picture, "cat, dog", "", "ESC-Net"], "fn_index": run["id"], "session_hash": "theirs"}
    joined = page.request.post(f"{api}/queue/join", data=sent)
    if joined.ok:
        told = page.request.get(f"{api}/queue/data?session_hash=theirs").text()
        assert '"success":false' in told.replace(" ", "")
        assert "data:image" not in told
