"""datasets/import_annotations.py: every format value by value, what overlaps, what is refused, and real label maps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from escnet import Vocabulary
from escnet.data.folder import read_folder
from escnet.data.images import image_size, read_image, read_labels, write_labels
from escnet.data.inspection import inspect_dataset

SCRIPT = "datasets/import_annotations.py"
Run = Callable[..., tuple[int, str]]
N = 255
SIZE = (6, 8)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with a.jpg, b.jpg and "c d.jpg" of 6x8 pixels (height x width)."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("a", "b", "c d"):
        Image.new("RGB", SIZE[::-1], "grey").save(folder / f"{name}.jpg")
    return folder


def encode_brush(mask: np.ndarray) -> list[int]:
    """Label Studio's run lengths of a mask: values of 8 bits, and lengths of 16, whichever of the four is chosen."""
    flat = np.repeat(mask.ravel(), 4)
    edges = sorted({*np.flatnonzero(np.diff(flat)) + 1, *range(0, flat.size, 65536), flat.size})
    runs = (f"100{end - start - 1:016b}{'11111111' if flat[start] else '00000000'}" for start, end in pairwise(edges))
    text = f"{flat.size:032b}00111{'1111' * 4}{''.join(runs)}"
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


def write(path: Path, contents: Any) -> Path:
    text = contents if isinstance(contents, str) else json.dumps(contents)
    path.write_text(text, encoding="utf-8")
    return path


def labels_of(output: Path, name: str = "a") -> list[list[int]]:
    return read_labels(output / f"labels/{name}.png").tolist()


def filled(*areas: tuple[int, slice, slice], rest: int = N) -> list[list[int]]:
    """A map of 6x8 with areas of a value, later ones on top."""
    found = np.full(SIZE, rest)
    for value, rows, columns in areas:
        found[rows, columns] = value
    return found.tolist()


def coco(annotations: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    contents = {
        "images": [{"id": 5, "file_name": "some/folder/a.jpg", "height": 6, "width": 8}],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "grass, lawn"}],
        "annotations": [{"id": n, "image_id": 5, **one} for n, one in enumerate(annotations)],
    }
    return contents | changes


def square(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths as JSON holds them."""
    runs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}


# Columns 0 to 3, column by column: none outside, 24 inside, 24 outside.
RUNS = {"size": [6, 8], "counts": [0, 24, 24]}


def test_coco_polygons_run_lengths_and_crowds(photographs: Path, run: Run, tmp_path: Path) -> None:
    left, corner = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    left[:, :4] = corner[5, 7] = True
    objects = [
        {"category_id": 9, "segmentation": [square(0, 0, 2, 2), square(6, 4, 8, 6)]},
        {"category_id": 2, "segmentation": runs_of(left)},
        {"category_id": 9, "iscrowd": 1, "segmentation": {"size": [6, 8], "counts": [0, 6, 42]}},
        {
            "category_id": 2,
            "segmentation": runs_of(corner),
        },
    ]
    path, output = write(tmp_path / "export.json", coco(objects)), tmp_path / "mine"
    code, text = run("--annotations", str(path), "--images", str(photographs), "--output", str(output))
    assert code == 0
    # Categories by id: 2 is class 0, 9 is class 1. The crowd, column 0, is seen nowhere: it lies below all others.
    everything = slice(None)
    assert labels_of(output) == filled(
        (0, everything, slice(0, 4)),
        (1, slice(0, 2), slice(0, 2)),
        (1, slice(4, 6), slice(6, 8)),
        (0, slice(5, 6), slice(7, 8)),
    )
    assert (output / "classes.txt").read_text() == "grass, lawn\ncat\n"
    assert "in 1 images regions of two classes overlap, on 11 pixels; the smaller one is seen" in text
    assert "2 photographs in" in text and "are in no annotation" in text
    assert text.splitlines()[-1].startswith(f"import_annotations: folder:{output}: made in")
    assert (output / "images/a.jpg").is_symlink() and not list(tmp_path.glob(".*"))
    assert not inspect_dataset(f"folder:{output}").faults


def test_a_single_class_with_synonyms_is_one_to_readers_of_words(photographs: Path, run: Run, tmp_path: Path) -> None:
    entries = coco([{"category_id": 2, "segmentation": [square(0, 0, 2, 2)]}])
    entries["categories"] = [entry for entry in entries["categories"] if entry["id"] == 2]
    path, output = write(tmp_path / "export.json", entries), tmp_path / "mine"
    assert run("--annotations", str(path), "--images", str(photographs), "--output", str(output))[0] == 0
    names = read_folder(f"folder:{output}").classes
    assert Vocabulary(names) == Vocabulary.parse(output / "classes.txt")
    assert Vocabulary(names).rows == (("grass", "lawn"),)


def task(number: int, image: str, *results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "annotations": [{"id": 1, "result": list(results)}]} | changes


def result(kind: str, label: str | None, size: tuple[int, int] = SIZE, **value: Any) -> dict[str, Any]:
    labels = {} if label is None else {kind: [label]}
    return {
        "id": "r1",
        "type": kind,
        "original_height": size[0],
        "original_width": size[1],
        "image_rotation": 0,
        "value": value | labels,
    }


def rectangle(label: str, x: float, y: float, width: float, height: float, **more: Any) -> dict[str, Any]:
    """In pixels of a picture of 6x8."""
    return result(
        "rectanglelabels", label, x=x * 12.5, y=y * 100 / 6, width=width * 12.5, height=height * 100 / 6, **more
    )


def test_label_studio_brush_polygon_and_rectangle(photographs: Path, run: Run, tmp_path: Path) -> None:
    brush = np.zeros(SIZE, bool)
    brush[0:2, 0:3] = brush[5, 7] = True
    tasks = [
        task(
            1,
            "/data/upload/3/1f2e3d4c-a.jpg",
            result("brushlabels", "sky", format="rle", rle=encode_brush(brush)),
            result("polygonlabels", "road", points=[[50, 0], [100, 0], [100, 50], [50, 50]]),
            rectangle("sky", 6, 1, 1, 4),
            {"id": "x", "type": "choices", "value": {"choices": ["good"]}},
            result("rectanglelabels", None, x=0, y=0, width=1, height=1),
        ),
        task(2, "/data/local-files/?d=sets/c%20d.jpg", rectangle("road", 0, 0, 8, 6)),
        task(3, "s3://bucket/b.jpg", annotations=[{"result": [], "was_cancelled": True}]),
    ]
    # An older export, of which the first of two annotators is taken.
    tasks[1]["completions"] = [*tasks[1].pop("annotations"), {"result": []}]
    path, output = write(tmp_path / "export.json", tasks), tmp_path / "mine"
    code, text = run("--annotations", str(path), "--images", str(photographs), "--output", str(output))
    assert code == 0, text
    assert (output / "classes.txt").read_text() == "road\nsky\n"
    assert labels_of(output) == filled(
        (1, slice(0, 2), slice(0, 3)),
        (1, slice(5, 6), slice(7, 8)),
        (0, slice(0, 3), slice(4, 8)),
        (1, slice(1, 5), slice(6, 7)),
    )
    assert labels_of(output, "c d") == filled(rest=0)
    for line in (
        "1 tasks without an annotation are left out",
        "1 tasks have annotations of several people, of which the first is taken",
        "1 regions without a label are left out",
        "1 results of no region are left out: choices 1",
        "on 2 pixels; the later or higher one is seen",
    ):
        assert f"warning: {line}" in text or line in text


def test_label_studio_turns_rectangles_about_their_corner(photographs: Path, run: Run, tmp_path: Path) -> None:
    # 3 wide and 2 high at (4, 1); a quarter clockwise about (4, 1) it covers columns 2 and 3, rows 1 to 3.
    path = write(tmp_path / "export.json", [task(1, "a.jpg", rectangle("sky", 4, 1, 3, 2, rotation=90))])
    code, _ = run("--annotations", str(path), "--images", str(photographs), "--output", str(tmp_path / "mine"))
    assert code == 0
    assert labels_of(tmp_path / "mine") == filled((0, slice(1, 4), slice(2, 4)))


def test_label_studio_labels_of_a_tag_of_their_own(photographs: Path, run: Run, tmp_path: Path) -> None:
    geometry = result("rectangle", None, x=0, y=0, width=50, height=100)
    labels = {"id": "r1", "type": "labels", "value": {"labels": ["sky"]}}
    path = write(tmp_path / "export.json", [task(1, "a.jpg", geometry, labels)])
    assert run("--annotations", str(path), "--images", str(photographs), "--output", str(tmp_path / "mine"))[0] == 0
    assert labels_of(tmp_path / "mine") == filled((0, slice(None), slice(0, 4)))


def cvat_image(shapes: str, name: str = "a.jpg", size: tuple[int, int] = SIZE) -> str:
    return f'<image id="0" name={quoteattr(name)} width="{size[1]}" height="{size[0]}">{shapes}</image>'


def cvat(*images: str, labels: Sequence[str] = ("sky", "road")) -> str:
    listed = "".join(f"<label><name>{label}</name><color>#fff</color></label>" for label in labels)
    meta = f"<version>1.1</version><meta><task><labels>{listed}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{"".join(images)}</annotations>'


def test_cvat_polygon_box_mask_and_z_order(photographs: Path, run: Run, tmp_path: Path) -> None:
    shapes = (
        '<box label="road" xtl="0" ytl="0" xbr="4" ybr="6" z_order="1"/>'
        '<polygon label="sky" points="2,0;6,0;6,3;2,3" z_order="0"/>'
        '<mask label="sky" rle="1, 2, 1, 2" left="5" top="4" width="3" height="2" z_order="2"/>'
        '<box label="sky" xtl="5" ytl="0" xbr="8" ybr="1" rotation="90" z_order="3"/>'
        '<points label="sky" points="1,1"/><tag label="sky"/>'
    )
    path, output = write(tmp_path / "annotations.xml", cvat(cvat_image(shapes))), tmp_path / "mine"
    # The folder of an export that has been unpacked serves as well as its file.
    code, text = run("--annotations", str(path.parent), "--images", str(photographs), "--output", str(output))
    assert code == 0, text
    # The mask is .## of row 4 and .## of row 5; the box that is turned about (6.5, 0.5) covers column 6, rows -1 to 1.
    assert labels_of(output) == filled(
        (0, slice(0, 3), slice(2, 6)),
        (1, slice(None), slice(0, 4)),
        (0, slice(4, 6), slice(6, 8)),
        (0, slice(0, 2), slice(6, 7)),
    )
    assert "1 shapes that cover nothing known are left out: points 1" in text
    assert (output / "classes.txt").read_text() == "sky\nroad\n"


@pytest.mark.parametrize(
    "palette",
    ['{"sky": 1, "road": 7}', "sky: 1\nroad: 7\n", "sky\t1\nroad\t7\n"],
)
def test_masks_of_ids(photographs: Path, run: Run, tmp_path: Path, palette: str) -> None:
    masks = tmp_path / "masks"
    write_labels(
        masks / "a.png", np.array(filled((1, slice(0, 2), slice(None)), (7, slice(4, 6), slice(None)), rest=0))
    )
    names = write(tmp_path / f"palette.{'json' if palette[0] == '{' else 'txt'}", palette)
    code, text = run(
        *("--annotations", str(masks), "--images", str(photographs), "--output", str(tmp_path / "mine")),
        *("--palette", str(names), "--background-name", "other"),
    )
    assert code == 0, text
    assert labels_of(tmp_path / "mine") == filled((0, slice(0, 2), slice(None)), (1, slice(4, 6), slice(None)), rest=2)
    assert (tmp_path / "mine/classes.txt").read_text() == "sky\nroad\nother\n"


@pytest.mark.parametrize(
    ("name", "palette"),
    [
        ("palette.json", '{"sky": [0, 0, 200], "road": [128, 64, 128]}'),
        ("palette.txt", "sky 0 0 200\nroad 128 64 128\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,200::\nroad:128,64,128::\n"),
    ],
)
def test_masks_of_colours(photographs: Path, run: Run, tmp_path: Path, name: str, palette: str) -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0:2], pixels[4:6] = (0, 0, 200), (128, 64, 128)
    (tmp_path / "masks").mkdir()
    Image.fromarray(pixels).save(tmp_path / "masks/a.png")
    options = (
        "--annotations",
        str(tmp_path / "masks"),
        "--images",
        str(photographs),
        "--output",
        str(tmp_path / "mine"),
    )
    code, text = run(*options, "--palette", str(write(tmp_path / name, palette)))
    assert code == 0, text
    assert labels_of(tmp_path / "mine") == filled((0, slice(0, 2), slice(None)), (1, slice(4, 6), slice(None)))


@pytest.mark.parametrize("pattern", ["{label}/{name}.png", "{name}/{label}.png"])
def test_black_and_white_masks(photographs: Path, run: Run, tmp_path: Path, pattern: str) -> None:
    for label, rows in (("road", slice(2, 6)), ("traffic_light", slice(1, 3)), ("whale", slice(0, 0))):
        mask = np.zeros(SIZE, np.uint8)
        mask[rows] = 255
        path = tmp_path / "masks" / pattern.format(label=label, name="a")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    code, text = run(
        "--annotations", str(tmp_path / "masks"), "--images", str(photographs), "--output", str(tmp_path / "mine")
    )
    assert code == 0, text
    assert labels_of(tmp_path / "mine") == filled((0, slice(2, 6), slice(None)), (1, slice(1, 3), slice(None)))
    assert (tmp_path / "mine/classes.txt").read_text() == "road\ntraffic light\nwhale\n"
    assert "1 classes have not a pixel: whale" in text


def test_held_out_images_again_and_other_settings(photographs: Path, run: Run, tmp_path: Path) -> None:
    tasks = [task(n, f"{name}.jpg", rectangle("sky", 0, 0, 4, 6)) for n, name in enumerate(("a", "b", "c d"))]
    path, output = write(tmp_path / "export.json", tasks), tmp_path / "mine"
    options = ("--annotations", str(path), "--images", str(photographs), "--output", str(output))
    split = ("--validation", "0.3", "--background-name", "other")
    code, text = run(*options, *split, "--copy")
    assert code == 0, text
    train, val = read_folder(f"folder:{output}/train"), read_folder(f"folder:{output}/val")
    assert (len(train.pairs), len(val.pairs)) == (2, 1) and train.classes == val.classes == ("sky", "other")
    assert not (output / "train/images/a.jpg").is_symlink() and not (output / "val/images/a.jpg").is_symlink()
    # 24 pixels of either class in each image.
    assert [line.split() for line in text.splitlines() if line.split()[:1] == ["0"]] == [
        ["0", "sky", "2", "1", "48", "24", "50.00%"]
    ]

    before = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()}
    assert run(*options, *split, "--copy")[1].rstrip().endswith("is complete already, nothing to do")
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()} == before
    code, text = run(*options, *split)
    assert code == 1 and "holds other pictures than these; choose another folder, or remove it" in text
    write(path, tasks[:2])
    assert run(*options, *split, "--copy")[0] == 1


def test_what_was_stopped_is_continued(
    photographs: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from escnet.data.preparation.own_annotations import importing

    tasks = [task(n, f"{name}.jpg", rectangle("sky", 0, 0, 4, 6)) for n, name in enumerate(("a", "b"))]
    path, output = write(tmp_path / "export.json", tasks), tmp_path / "mine"
    options = ("--annotations", str(path), "--images", str(photographs), "--output", str(output))
    bring = importing.bring

    def stop(source: Path, target: Path, copy: bool) -> None:
        if target.name == "b.jpg":
            raise KeyboardInterrupt
        bring(source, target, copy)

    with monkeypatch.context() as patch:
        patch.setattr(importing, "bring", stop)
        code, text = run(*options)
    assert code == 130 and "run again to continue" in text and not output.exists()
    made = tmp_path / ".mine.unfinished/labels/a.png"
    before = made.stat().st_mtime_ns
    assert run(*options)[0] == 0
    assert (output / "labels/a.png").stat().st_mtime_ns == before and not made.exists()
    assert len(read_folder(f"folder:{output}").pairs) == 2


@pytest.mark.parametrize(("drawn", "frame"), [("upright", "upright"), ("stored", "upright"), ("stored", "stored")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_maps_are_upright(run: Run, tmp_path: Path, orientation: int, drawn: str, frame: str) -> None:
    """A photograph whose red left half as stored is annotated: the label map fits what a reader sees."""
    pixels = np.zeros((6, 9, 3), np.uint8)
    pixels[1:4, :5, 0] = 200
    folder = tmp_path / "photographs"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / "a.png", exif=exif)
    red = read_image(folder / "a.png")[..., 0] > 0
    mask = red if drawn == "upright" else pixels[..., 0] > 0
    image = {"id": 5, "file_name": "a.png", "height": mask.shape[0], "width": mask.shape[1]}
    entry = {"category_id": 9, "segmentation": runs_of(mask)}
    path = write(tmp_path / "export.json", coco([entry], images=[image]))
    output = tmp_path / "mine"
    code, text = run("--annotations", str(path), "--images", str(folder), "--output", str(output), "--frame", frame)
    assert code == 0, text
    labels = read_labels(output / "labels/a.png")
    assert labels.shape == image_size(output / "images/a.png") == red.shape
    is_certain = orientation == 1 or orientation >= 5
    assert ("sizes cannot tell" in text) != is_certain
    if is_certain or drawn == frame:
        np.testing.assert_array_equal(labels == 1, red)


def refused(run: Run, tmp_path: Path, photographs: Path, contents: Any, name: str = "export.json", *more: str) -> str:
    path = write(tmp_path / name, contents)
    code, text = run(
        "--annotations", str(path), "--images", str(photographs), "--output", str(tmp_path / "mine"), *more
    )
    assert code == 1 and not (tmp_path / "mine").exists() and not list(tmp_path.glob(".*"))
    lines = [line for line in text.splitlines() if line.startswith("import_annotations: ")]
    assert len(lines) == 1
    return lines[0]


ONE = {"category_id": 9, "segmentation": RUNS}
IMAGE = {"id": 5, "file_name": "a.jpg", "height": 6, "width": 8}
SKY = rectangle("sky", 0, 0, 1, 1)


def categories(*entries: tuple[int, str]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in entries]


def outline(*points: tuple[float, float]) -> list[dict[str, Any]]:
    return [task(4, "a.jpg", result("polygonlabels", "sky", points=points))]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (coco([ONE], images=[IMAGE | {"file_name": "z.jpg"}]), "1 of 1 photographs that .* missing: z.jpg; name"),
        (coco([ONE], images=[IMAGE | {"height": 7}]), "mask is .6, 8., the image .7, 8."),
        (
            coco([ONE | {"segmentation": [square(0, 0, 3, 3)]}], images=[IMAGE | {"height": 7}]),
            r"1 of 1 images are of another size, the first: image 5 is annotated at 8x7 .*a\.jpg has 8x6; take",
        ),
        (coco([ONE], categories=categories((9, "cat"), (9, "dog"))), "the id of a category '9' occurs twice"),
        (coco([ONE], categories=categories((9, "cat"), (1, "cat"))), "the category 'cat' occurs twice; merge"),
        (coco([ONE], categories=categories((9, " "))), "the category number 1 has no name"),
        (coco([ONE], categories=categories((9, "cat"), (1, "Cat"))), "rename the classes in the annotations"),
        (coco([{**ONE, "category_id": 3}]), "the object 0 has the category 3, which is not listed"),
        (coco([{**ONE, "image_id": 3}]), "the object 0 is in the image 3, which is not listed"),
        (coco([{**ONE, "segmentation": [[1, 2, 3]]}]), "the object 0 cannot be used .*a polygon has 3 numbers"),
        (coco([{**ONE, "segmentation": {"size": [6, 8], "counts": [4]}}]), "do not add up"),
        (
            coco([{**ONE, "segmentation": {"size": [6, 8], "counts": "0n1000000"}}]),
            "the object 0 cannot be used .*do not cover",
        ),
        (coco([{**ONE, "segmentation": [[1, 1, 1e9, 1, 5, 1e9]]}]), "reaches far outside of the image of 8x6 pixels"),
        (coco([]), "no image has a region"),
        (coco([{"category_id": 9, "segmentation": [square(20, 20, 30, 30)]}]), "not a pixel is labelled"),
        ("{", "cannot be read as JSON"),
        ({"info": 1}, "neither COCO's format .* nor a list of tasks"),
        ([{"image": "/data/upload/a.jpg", "label": []}], "not as 'JSON-MIN'"),
        ([task(4, "a.jpg", SKY | {"image_rotation": 90})], "task 4 .* rotated in Label Studio"),
        (
            [task(4, "a.jpg", result("brushlabels", "sky", rle=[0, 0, 0, 8]))],
            "task 4: a region cannot be drawn .*cut off",
        ),
        (outline((0, 0), (1, 1)), "the polygonlabels 'r1' cannot be used .*2 points"),
        ([task(4, "a.jpg", result("brushlabels", "sky", rle=10**15))], "its rle is no list of numbers"),
        ([{"data": {"image": "a.jpg"}, "predictions": [{"result": [SKY]}]}], "has predictions alone; accept"),
        (coco([ONE], images=[IMAGE | {"id": [5]}]), "the image .* lacks something .*unhashable"),
        ([task(4, "a.jpg", SKY), task(5, "x/a.jpg", SKY)], "task 4 and task 5 are both of the photograph a.jpg"),
        (outline((0, 0), (9e9, 1), (1, 9)), "far outside of the picture of 8x6"),
    ],
)
def test_what_does_not_fit_is_refused(run: Run, tmp_path: Path, photographs: Path, contents: Any, message: str) -> None:
    line = refused(run, tmp_path, photographs, contents)
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>',
            "declares a document type",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "declares a document type"),
        ("<annotations><image>", "cannot be read as XML"),
        ("<annotations><track/></annotations>", "has tracks, which are of a video; export it as 'CVAT for images 1.1'"),
        ("<other/>", "begins with <other>"),
        (cvat(labels=()), "lists no labels"),
        (cvat(labels=("sky", "sky")), "the label 'sky' occurs twice"),
        (
            cvat(cvat_image('<box label="sea" xtl="0" ytl="0" xbr="4" ybr="6"/>')),
            "a box has the label 'sea', which <meta> does not list",
        ),
        (cvat(cvat_image('<box label="sky" xtl="0" ytl="0" xbr="4"/>')), "image 'a.jpg': a box cannot be used"),
        (cvat(cvat_image('<box label="sky" xtl="nan" ytl="0" xbr="4" ybr="6"/>')), "a point that is no number"),
        (
            cvat(cvat_image('<mask label="sky" rle="1, 2" left="0" top="0" width="2" height="2"/>')),
            "add up to 3, not to its 2x2 pixels",
        ),
        (cvat(cvat_image('<mask label="sky" rle="-1, 5" left="0" top="0" width="2" height="2"/>')), "cannot be"),
        (
            cvat(
                cvat_image(
                    '<mask label="sky" rle="0, 1000000000000" left="0" top="0" width="1000000" height="1000000"/>'
                )
            ),
            "a mask has 1000000x1000000 pixels, its picture 8x6",
        ),
    ],
)
def test_xml_that_does_not_fit_is_refused(
    run: Run, tmp_path: Path, photographs: Path, contents: str, message: str
) -> None:
    assert message in refused(run, tmp_path, photographs, contents, "annotations.xml")


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ("sky: 1\n", "has the ids 7, which --palette does not name"),
        ("sky: 1\nroad: 1\n", "the value '1' occurs twice"),
        ("sky: 1\nsky: 7\n", "the name 'sky' occurs twice"),
        ("sky: 1\nroad\n", "has a line 'road' where others have numbers"),
        ("", "has no entry"),
    ],
)
def test_palettes_that_do_not_fit_are_refused(
    run: Run, tmp_path: Path, photographs: Path, palette: str, message: str
) -> None:
    write_labels(tmp_path / "masks/a.png", np.array(filled((1, slice(0, 2), slice(None)), rest=7)))
    code, text = run(
        *("--annotations", str(tmp_path / "masks"), "--images", str(photographs), "--output", str(tmp_path / "mine")),
        *("--palette", str(write(tmp_path / "palette.txt", palette))),
    )
    assert code == 1 and message in text and not (tmp_path / "mine").exists()


def test_masks_of_ids_are_not_taken_for_black_and_white(run: Run, tmp_path: Path, photographs: Path) -> None:
    write_labels(tmp_path / "masks/sky/a.png", np.array(filled((1, slice(0, 2), slice(None)), rest=7)))
    options = (
        "--annotations",
        str(tmp_path / "masks"),
        "--images",
        str(photographs),
        "--output",
        str(tmp_path / "mine"),
    )
    code, text = run(*options)
    assert code == 1 and "has 2 values where a mask has two, 0 outside and 255 inside; name the classes of ids" in text


def test_regions_beyond_the_picture_are_counted(run: Run, tmp_path: Path, photographs: Path) -> None:
    shapes = (
        '<box label="road" xtl="-3" ytl="0" xbr="4" ybr="6"/><box label="sky" xtl="7" ytl="0" xbr="8.5" ybr="6"/>'
        '<mask label="sky" rle="0, 4" left="7" top="5" width="2" height="2"/>'
        '<box label="sky" xtl="9" ytl="0" xbr="12" ybr="6"/>'
    )
    path = write(tmp_path / "annotations.xml", cvat(cvat_image(shapes)))
    code, text = run("--annotations", str(path), "--images", str(photographs), "--output", str(tmp_path / "mine"))
    assert code == 0, text
    assert labels_of(tmp_path / "mine") == filled((1, slice(None), slice(0, 4)), (0, slice(None), slice(7, 8)))
    assert "1 regions have no pixel in their picture" in text and "1 regions reach beyond their picture" in text


def test_a_photograph_that_may_be_one_of_two(run: Run, tmp_path: Path, photographs: Path) -> None:
    for folder in ("x", "y"):
        (photographs / folder).mkdir()
        Image.new("RGB", SIZE[::-1]).save(photographs / folder / "e.jpg")
    tasks = [task(1, "/data/upload/1/0a1b2c3d-e.jpg", rectangle("sky", 0, 0, 4, 6))]
    assert "may mean x/e.jpg, y/e.jpg" in refused(run, tmp_path, photographs, tasks)
    tasks[0]["data"]["image"] = "/data/local-files/?d=y/e.jpg"
    options = ("--annotations", str(write(tmp_path / "export.json", tasks)), "--images", str(photographs))
    assert run(*options, "--output", str(tmp_path / "mine"))[0] == 0
    assert (tmp_path / "mine/labels/y/e.png").is_file() and (tmp_path / "mine/images/y/e.jpg").is_file()


def test_300_classes_take_16_bits(run: Run, tmp_path: Path, photographs: Path) -> None:
    classes = categories(*((number, f"class {number}") for number in range(300)))
    path = write(tmp_path / "export.json", coco([ONE | {"category_id": 299}], categories=classes))
    code, _ = run("--annotations", str(path), "--images", str(photographs), "--output", str(tmp_path / "mine"))
    assert code == 0 and read_folder(f"folder:{tmp_path / 'mine'}").bits == 16
    assert set(np.unique(read_labels(tmp_path / "mine/labels/a.png")).tolist()) == {299, 65535}


def export_coco(maps: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    annotations = []
    for image, labels in enumerate(maps.values()):
        annotations += [
            {"image_id": image, "category_id": row, "segmentation": runs_of(labels == row)}
            for row in range(len(names))
            if (labels == row).any()
        ]
    return {
        "images": [
            {"id": n, "file_name": name, "height": labels.shape[0], "width": labels.shape[1]}
            for n, (name, labels) in enumerate(maps.items())
        ],
        "categories": [{"id": row, "name": name} for row, name in enumerate(names)],
        "annotations": annotations,
    }


def export_label_studio(maps: dict[str, np.ndarray], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        task(
            number,
            f"/data/upload/1/0a1b2c3d-{name}",
            *(
                result("brushlabels", label, labels.shape, format="rle", rle=encode_brush(labels == row))
                for row, label in enumerate(names)
                if (labels == row).any()
            ),
        )
        for number, (name, labels) in enumerate(maps.items())
    ]


def export_cvat(maps: dict[str, np.ndarray], names: Sequence[str]) -> str:
    images = []
    for name, labels in maps.items():
        shapes = []
        for row, label in enumerate(names):
            rows, columns = np.nonzero(labels == row)
            if rows.size:
                top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
                flat = (labels == row)[top:bottom, left:right].ravel()
                edges = [0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
                counts = ([0] if flat[0] else []) + np.diff(edges).tolist()
                shapes.append(
                    f'<mask label="{label}" rle="{", ".join(map(str, counts))}" left="{left}" top="{top}" '
                    f'width="{right - left}" height="{bottom - top}" z_order="0"/>'
                )
        images.append(cvat_image("".join(shapes), name, labels.shape))
    return cvat(*images, labels=names)


@pytest.mark.parametrize(
    ("name", "export"),
    [("export.json", export_coco), ("export.json", export_label_studio), ("export.xml", export_cvat)],
    ids=["coco", "label_studio", "cvat"],
)
def test_camvid_there_and_back(
    sample_data: Path, run: Run, tmp_path: Path, name: str, export: Callable[..., Any]
) -> None:
    """Real label maps as run lengths of each tool come back to the pixel."""
    names = ["bicycle", "building", "car", "fence", "pavement", "person", "pole", "road", "sign", "sky", "tree"]
    chosen = sorted((sample_data / "camvid/annotations/val").glob("*.png"))[:3]
    maps = {path.name: read_labels(path) for path in chosen}
    path, output = write(tmp_path / name, export(maps, names)), tmp_path / "mine"
    images = tmp_path / "photographs"
    images.mkdir()
    for file in maps:
        (images / file).symlink_to(sample_data / "camvid/images/val" / file)
    code, text = run("--annotations", str(path), "--images", str(images), "--output", str(output))
    assert code == 0, text
    classes = (output / "classes.txt").read_text().splitlines()
    for file, labels in maps.items():
        table = np.full(256, N)
        table[: len(names)] = [classes.index(one) if one in classes else N for one in names]
        np.testing.assert_array_equal(read_labels(output / "labels" / file), table[labels])
    assert not inspect_dataset(f"folder:{output}").faults


def polygon_coco(parts: Sequence[Sequence[tuple[float, float]]], size: tuple[int, int]) -> dict[str, Any]:
    entry = {"category_id": 9, "segmentation": [[number for point in part for number in point] for part in parts]}
    return coco([entry], images=[IMAGE | {"height": size[0], "width": size[1]}], categories=categories((9, "sky")))


def polygon_label_studio(parts: Sequence[Sequence[tuple[float, float]]], size: tuple[int, int]) -> list[dict[str, Any]]:
    percent = [[[x * 100 / size[1], y * 100 / size[0]] for x, y in part] for part in parts]
    return [task(1, "a.jpg", *(result("polygonlabels", "sky", size, points=part) for part in percent))]


def polygon_cvat(parts: Sequence[Sequence[tuple[float, float]]], size: tuple[int, int]) -> str:
    texts = (";".join(f"{x:.2f},{y:.2f}" for x, y in part) for part in parts)
    return cvat(cvat_image("".join(f'<polygon label="sky" points="{text}"/>' for text in texts), size=size))


@pytest.mark.parametrize(
    ("name", "export"),
    [("export.json", polygon_coco), ("export.json", polygon_label_studio), ("export.xml", polygon_cvat)],
    ids=["coco", "label_studio", "cvat"],
)
def test_outlines_there_and_back(run: Run, tmp_path: Path, name: str, export: Callable[..., Any]) -> None:
    """Edges between pixels come back to the pixel; a slanting edge within 0.75 pixels of where it is."""
    size = (47, 61)
    images = tmp_path / "photographs"
    images.mkdir()
    Image.new("RGB", size[::-1]).save(images / "a.jpg")
    mask = np.random.default_rng(0).random(size) > 0.6
    pixels = [((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)) for y, x in np.argwhere(mask).tolist()]
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = [(30.3 + 18.7 * np.cos(angle), 23.9 + 18.7 * np.sin(angle)) for angle in angles]
    found = []
    for number, parts in enumerate((pixels, [circle])):
        options = ("--annotations", str(write(tmp_path / name, export(parts, size))), "--images", str(images))
        assert run(*options, "--output", str(tmp_path / f"mine{number}"))[0] == 0
        found.append(read_labels(tmp_path / f"mine{number}/labels/a.png") == 0)
    np.testing.assert_array_equal(found[0], mask)
    rows, columns = np.indices(size) + 0.5
    inside = 18.7 - np.hypot(columns - 30.3, rows - 23.9)
    assert (np.abs(inside[found[1] != (inside > 0)]) < 0.75).all() and found[1].any()
