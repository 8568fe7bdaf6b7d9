"""Examinations made of label maps: regions and cut-outs worked out by hand, what is on disk, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_masks

from escnet.data.coco_instances import image_file, read_instances
from escnet.data.errors import DatasetError
from escnet.data.examination_folder import CLASSES, OBJECTS, OBJECTS_FILE, WORDS
from escnet.data.image_folders import name_classes, read_image_folder
from escnet.data.images import ImageError, read_image, write_labels
from escnet.data.preparation import regions as module
from escnet.data.preparation.regions import Regions, connected_regions, square_around, write_regions

# 0 touches itself at a corner alone; 1 has two parts; 9 is ignored.
LABELS = np.array(
    [
        [0, 9, 1, 1],
        [2, 0, 9, 9],
        [2, 2, 9, 1],
    ]
)


def test_regions_by_hand() -> None:
    found = [(row, np.argwhere(mask).tolist()) for row, mask in connected_regions(LABELS, range(3), 1)]
    assert found == [
        (0, [[0, 0], [1, 1]]),
        (1, [[0, 2], [0, 3]]),
        (1, [[2, 3]]),
        (2, [[1, 0], [2, 0], [2, 1]]),
    ]
    assert [row for row, _ in connected_regions(LABELS, range(3), 2)] == [0, 1, 2]
    assert [row for row, _ in connected_regions(LABELS, range(1, 2), 1)] == [1, 1]
    assert not list(connected_regions(LABELS, range(3), 4))


@pytest.mark.parametrize(
    ("box", "margin", "rows", "columns"),
    [
        ((10, 20, 10, 4), 0.0, (17, 27), (10, 20)),
        ((10, 20, 10, 4), 0.1, (16, 28), (9, 21)),
        # An odd difference of the sides takes the half pixels too.
        ((10, 20, 4, 5), 0.0, (20, 25), (9, 15)),
        # Cut off at the border: at the top and on the left, at the bottom and on the right.
        ((0, 2, 20, 4), 0.1, (0, 16), (0, 22)),
        ((30, 20, 10, 10), 0.2, (18, 30), (28, 40)),
    ],
)
def test_cut_outs_by_hand(box: tuple[int, ...], margin: float, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    assert square_around(box, (30, 40), margin) == (slice(*rows), slice(*columns))


def write_sample(root: Path, split: str, name: str, labels: np.ndarray) -> None:
    """A label map of CamVid, and a photograph whose grey is 20 times the label."""
    folder = root / "camvid/images" / split
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(labels[..., None] * 20, 3, axis=2).astype(np.uint8)).save(folder / f"{name}.png")
    write_labels(root / "camvid/annotations" / split / f"{name}.png", labels)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with CamVid: on 4 photographs of 40x60, ignored ground, two cars (8) and a sign (6) of 4 pixels."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for number in range(4):
        labels = np.full((40, 60), 11)
        labels[5:15, 2 + number : 12 + number] = 8
        labels[25:35, 30:50] = 8
        labels[20:22, 10:12] = 6
        write_sample(tmp_path, "train" if number < 2 else "val", f"{number}", labels)
    return tmp_path


def own_folder(root: Path, words: str) -> str:
    """The validation split as a user's dataset; 11 is the id of a class in it."""
    folder = root / "mine"
    folder.mkdir()
    (root / "camvid/images/val").rename(folder / "images")
    (root / "camvid/annotations/val").rename(folder / "labels")
    (folder / "classes.txt").write_text("".join(f"{words.format(row)}\n" for row in range(12)))
    return f"folder:{folder}"


REGIONS = Regions(("camvid_val", "camvid_train"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_on_disk_is_what_the_tools_read(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "examination"
    assert write_regions(output, REGIONS, workers=1)
    data = read_instances(output / OBJECTS_FILE)
    assert [image["file"] for image in data.images] == [
        *("camvid_val/2.png", "camvid_val/3.png"),
        *("camvid_train/0.png", "camvid_train/1.png"),
    ]
    # 0.5 % of the photograph are 12 pixels, which the signs have not.
    assert [(one["image_id"], one["bbox"], one["area"]) for one in data.annotations[:2]] == [
        (1, [4, 5, 10, 10], 100),
        (1, [30, 25, 20, 10], 200),
    ]
    assert len(data.annotations) == 8 and {one["category_id"] for one in data.annotations} == {9}
    assert data.categories[8] == {"id": 9, "name": "car"} and len(data.categories) == 11
    for one in data.annotations:
        path = image_file(output / OBJECTS, data.images[one["image_id"] - 1])
        assert path.is_symlink()
        pixels = read_image(path)
        assert (pixels[coco_masks.decode(one["segmentation"]).astype(bool)] == 8 * 20).all()

    folder = read_image_folder(output / WORDS)
    assert [image.name for image in folder.images] == [f"car/{number:06d}.jpg" for number in range(1, 9)]
    classes = name_classes(folder, output / CLASSES)
    assert len(classes.words) == 11 and classes.of_folder == (8,)
    assert classes.words[4] == "pavement, sidewalk"
    first, second = (read_image(output / WORDS / image.name) for image in folder.images[:2])
    # The second is 24 pixels wide with its margin, of which 22 are in the photograph: from row 18 to its end.
    assert first.shape == (12, 12, 3) and second.shape == (22, 24, 3)
    assert abs(first[2:-2, 2:-2].astype(int) - 160).max() < 20


def test_the_same_regions_are_found_once_and_others_are_refused(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "examination"
    write_regions(output, REGIONS, workers=1)
    assert not write_regions(output, REGIONS, workers=1)
    write_regions(tmp_path / "again", REGIONS, workers=2)
    assert files(tmp_path / "again") == files(output)
    for others in (replace(REGIONS, limit=1), replace(REGIONS, copy=True), Regions(("camvid_val",))):
        with pytest.raises(ValueError, match="examination: holds other pictures"):
            write_regions(output, others, workers=1)
    # The same names, but other data.
    write_sample(root, "val", "4", np.full((40, 60), 8))
    with pytest.raises(ValueError, match="holds other pictures"):
        write_regions(output, REGIONS, workers=1)


def test_the_least_area_the_limit_and_copies(root: Path, tmp_path: Path) -> None:
    regions = Regions(("camvid_val", "camvid_train"), least_area=4, limit=3, copy=True)
    write_regions(tmp_path / "examination", regions, workers=1)
    data, folder = read_instances(tmp_path / "examination" / OBJECTS_FILE), tmp_path / "examination" / WORDS
    assert len(data.annotations) == 12
    # Signs come before cars; of four signs and eight cars, three are taken, the first and the last among them.
    assert sorted(path.name for path in (folder / "sign").iterdir()) == ["000001.jpg", "000004.jpg", "000010.jpg"]
    assert sorted(path.name for path in (folder / "car").iterdir()) == ["000002.jpg", "000006.jpg", "000012.jpg"]
    assert not any(path.is_symlink() for path in (tmp_path / "examination").rglob("*"))


def test_only_scored_classes_are_objects_and_all_compete(root: Path, tmp_path: Path) -> None:
    name = own_folder(root, "thing {0}, bank/{0}")
    write_regions(tmp_path / "all", Regions((name,), least_area=4), workers=1)
    MetadataCatalog.get(name).set(scored_classes=(6, 8))
    try:
        write_regions(tmp_path / "scored", Regions((name,), least_area=4), workers=1)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    categories = {
        output: {one["category_id"] for one in read_instances(tmp_path / output / OBJECTS_FILE).annotations}
        for output in ("all", "scored")
    }
    assert categories == {"all": {7, 9, 12}, "scored": {7}}
    assert len((tmp_path / "scored" / CLASSES).read_text().splitlines()) == 12
    assert "thing_6\tthing 6, bank/6" in (tmp_path / "scored" / CLASSES).read_text()


def test_nothing_is_left_of_what_is_stopped(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "examination"
    (tmp_path / ".examination.unfinished/words/car").mkdir(parents=True)
    (tmp_path / ".examination.unfinished/words/car/old.jpg").touch()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_instances", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        write_regions(output, REGIONS, workers=1)
    assert not output.exists() and not (tmp_path / ".examination.unfinished").exists()
    output.mkdir()
    assert write_regions(output, REGIONS, workers=1)
    assert not (output / "words/car/old.jpg").exists()


def test_what_makes_no_examination_is_refused(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "examination"
    with pytest.raises(DatasetError, match=r"2.png: is in two of camvid_val\[:1\], camvid_val"):
        write_regions(output, Regions(("camvid_val[:1]", "camvid_val")), workers=1)
    with pytest.raises(DatasetError, match="give a smaller --least-area"):
        write_regions(output, replace(REGIONS, least_area=201), workers=1)
    with pytest.raises(DatasetError, match="not the same classes"):
        write_regions(output, Regions((own_folder(root, "thing {}"), "camvid_train")), workers=1)
    write_labels(root / "camvid/annotations/train/1.png", np.full((3, 4), 8))
    with pytest.raises(ImageError, match=r"1.png: 3x4 pixels .*has 40x60"):
        write_regions(output, Regions(("camvid_train",)), workers=1)
    assert not output.exists()
    output.mkdir()
    (output / "notes.txt").touch()
    with pytest.raises(DatasetError, match="no examination"):
        write_regions(output, Regions(("camvid_train[:1]",)), workers=1)


@pytest.mark.parametrize("change", [{"least_area": 0}, {"limit": 0}, {"margin": -0.1}, {"datasets": ()}])
def test_numbers_that_make_no_examination_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"[01] or more|needs a dataset"):
        replace(REGIONS, **change)


def test_the_description_is_plain_json(root: Path, tmp_path: Path) -> None:
    write_regions(tmp_path / "examination", REGIONS, workers=1)
    described = json.loads((tmp_path / "examination" / module.DESCRIPTION).read_text())
    assert described["regions"]["datasets"] == list(REGIONS.datasets) and described["photographs"] == 4
