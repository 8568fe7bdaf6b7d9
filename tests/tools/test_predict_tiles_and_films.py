"""tools/predict.py with --tile, and with a film: the files that come of it, and what does not go together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).parents[2]
OPTS = ["MODEL.CLIP.IMAGE_SIZE", "(64, 64)", "MODEL.ESC.NUM_BLOCKS", "1"]


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/predict.py")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def film(tmp_path: Path) -> Path:
    with av.open(str(tmp_path / "clip.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.height, stream.width, stream.pix_fmt = 40, 60, "yuv420p"
        for value in (40, 200):
            pixels = np.full((40, 60, 3), value, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return tmp_path / "clip.mp4"


def run(tool: ModuleType, output: Path, *inputs: Path, options: tuple[str, ...] = ()) -> int:
    torch.manual_seed(0)
    config = str(ROOT / "configs/camvid/escnet.yaml")
    flags = ["--config-file", config, "--vocabulary", "cat, grass, building|edifice", "--device", "cpu"]
    return tool.main([*flags, "--input", *map(str, inputs), "--output", str(output), *options, *OPTS])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_picture_in_tiles(tool: ModuleType, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ("--tile", "64", "--tile-overlap", "0.5", "--save-scores", "--label-png", "--batch-size", "2")
    assert run(tool, tmp_path / "out", picture, options=options) == 0
    report = json.loads((tmp_path / "out/a.json").read_text())
    assert report["tiling"] == {"tile": 64, "overlap": 0.5, "falloff": "linear"}
    assert sum(entry["pixels"] for entry in report["classes"]) == 90 * 140
    assert np.asarray(Image.open(tmp_path / "out/a_labels.tif")).shape == (90, 140)
    assert "1 segmented, 0 failed" in capsys.readouterr().out


def test_a_film(tool: ModuleType, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(tool, tmp_path / "out", film, options=("--every", "2")) == 0
    report = json.loads((tmp_path / "out/clip.json").read_text())
    assert [entry["index"] for entry in report["frames"]] == [0]
    assert "1 of 2 frames" in capsys.readouterr().out


def test_formats_of_a_film(tool: ModuleType, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, options = tmp_path / "out", ("--format", "coco", "yolo", "label_studio", "--objects", "--every", "2")
    assert run(tool, output, film, options=options) == 0
    coco = json.loads((output / "annotations.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["clip/000000.jpg"]
    assert (output / "images/clip/000000.jpg").is_file() and (output / "labels/clip/000000.txt").is_file()
    labels = np.asarray(Image.open(output / "clip_labels/000000.png"))
    parts = sum(ndimage.label(labels == class_id)[1] for class_id in range(3))
    assert len(coco["annotations"]) == parts
    assert f"{parts} masks in 1 images" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_formats_of_tiles_with_the_background(tool: ModuleType, picture: Path, tmp_path: Path) -> None:
    options = (
        "--tile",
        "64",
        "--background",
        "sky",
        "--with-background",
        "--format",
        "coco",
        "geotiff",
        "--every",
        "1",
    )
    assert run(tool, tmp_path / "out", picture, options=options) == 0
    coco = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [entry["name"] for entry in coco["categories"]] == ["cat", "grass", "building,edifice", "background"]
    assert sum(entry["area"] for entry in coco["annotations"]) == 90 * 140


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (("film", "picture"), (), "is a film, and other inputs are pictures"),
        (("film",), ("--tile", "64"), "are for pictures"),
        (("film",), ("--save-scores",), "are for pictures"),
        (("film",), ("--show-prompts",), "do not go together with films"),
        (("picture",), ("--tile", "64", "--show-prompts"), "do not go together with --tile"),
        (("picture",), ("--every", "2"), "--every is for films"),
        (("picture",), ("--label-png",), "--label-png is for --tile"),
        (("film",), ("--format", "coco", "geotiff", "--every", "1"), "a film lies nowhere on the Earth"),
        (("picture",), ("--format", "yolo", "--tile", "64"), "--format yolo does not go together with --tile"),
        (
            ("picture",),
            ("--format", "coco", "label_studio", "--tile", "64"),
            "take coco or geotiff, or cut the picture",
        ),
        (("picture",), ("--objects",), "--objects is for --format coco"),
        (
            ("picture",),
            ("--with-background", "--format", "geotiff", "--every", "1"),
            "--with-background is for --format",
        ),
        (("picture",), ("--with-background", "--format", "coco", "--every", "1"), "needs --background WORDS"),
    ],
)
def test_what_does_not_go_together(
    tool: ModuleType,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    inputs: tuple[str, ...],
    options: tuple[str, ...],
    message: str,
) -> None:
    paths = [request.getfixturevalue(name) for name in inputs]
    assert run(tool, tmp_path / "out", *paths, options=options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--tile", "0"), ("--tile-overlap", "1"), ("--every", "x")])
def test_impossible_values_are_usage_errors(tool: ModuleType, picture: Path, option: str, value: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tool, picture.parent / "out", picture, options=(option, value))
