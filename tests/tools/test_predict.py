"""Tests of tools/predict.py: what it writes, what it survives, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from escnet.safe_files import DiskFullError

ROOT = Path(__file__).parents[2]
MINI = str(ROOT / "configs" / "camvid" / "escnet.yaml")
OPTS = ["MODEL.CLIP.IMAGE_SIZE", "(64, 64)", "MODEL.ESC.NUM_BLOCKS", "1"]


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/predict.py")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with one image of each kind that should work."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder / "rgb.jpg")
    Image.fromarray(rgb[..., 0]).save(folder / "grey.png")
    Image.fromarray(np.dstack([rgb, rgb[..., :1]])).save(folder / "rgba.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(rgb[:1, :1]).save(folder / "one.png")
    Image.fromarray(np.tile(rgb, (1, 334, 1))[:10, :10000]).save(folder / "wide.png")
    return folder


def run(tool: ModuleType, output: Path, *inputs: str | Path, options: tuple[str, ...] = (), **changes: str) -> int:
    torch.manual_seed(0)
    arguments = {"config-file": MINI, "vocabulary": "cat, grass, building|edifice", "device": "cpu", **changes}
    flags = [word for name, value in arguments.items() for word in (f"--{name}", value)]
    return tool.main([*flags, "--input", *map(str, inputs), "--output", str(output), *options, *OPTS])


def test_a_folder_is_segmented_completely(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    (photos / "notes.txt").write_text("not an image, and of no image's suffix")
    assert run(tool, tmp_path / "out", photos, options=("--show-prompts",), background="sky, wall") == 0
    stems = ["deep", "grey", "one", "rgb", "rgba", "wide"]
    suffixes = ["_labels.png", "_overlay.png", "_prompts.png", ".json"]
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == sorted(stem + suffix for stem in stems for suffix in suffixes)

    report = json.loads((tmp_path / "out" / "wide.json").read_text())
    labels = np.asarray(Image.open(tmp_path / "out" / "wide_labels.png"))
    assert labels.shape == (report["height"], report["width"]) == (10, 10000)
    assert report["class_names"][-1] == "background" and len(report["class_names"]) == 4
    assert {c["id"]: c["pixels"] for c in report["classes"]} == dict(
        zip(*np.unique(labels, return_counts=True), strict=True)
    )
    assert report["image"] == str(photos / "wide.png") and report["seconds"] > 0

    printed = capsys.readouterr().out
    assert "[1/6]" in printed and "[6/6]" in printed
    assert "6 segmented, 0 failed" in printed and "GiB" in printed and "s per image" in printed


def test_bad_files_are_told_and_the_others_are_segmented(
    tool: ModuleType, photos: Path, tmp_path: Path, capsys
) -> None:
    jpeg = (photos / "rgb.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (photos / "text.png").write_text("no image")
    (photos / "empty.png").touch()
    assert run(tool, tmp_path / "out", photos, tmp_path / "absent.png") == 1
    assert len(list((tmp_path / "out").glob("*.json"))) == 6
    printed = capsys.readouterr()
    assert "6 segmented, 4 failed" in printed.out
    for name in ("cut.jpg", "text.png", "empty.png", "absent.png"):
        assert printed.out.rsplit("failed;", 1)[1].count(name) == 1
    assert "Traceback" not in printed.err
    assert not list((tmp_path / "out").glob(".*"))


def test_an_error_while_writing_fails_only_that_image(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out" / "one.json").mkdir(parents=True)
    assert run(tool, tmp_path / "out", photos / "one.png", photos / "rgb.jpg") == 1
    assert (tmp_path / "out" / "rgb.json").is_file()
    assert "1 segmented, 1 failed" in capsys.readouterr().out


def test_an_input_is_never_overwritten(tool: ModuleType, photos: Path, capsys) -> None:
    (photos / "rgb.jpg").rename(photos / "one_overlay.png")
    before = (photos / "one_overlay.png").read_bytes()
    assert run(tool, photos, photos) == 2
    assert "one_overlay.png would be overwritten" in capsys.readouterr().err
    assert (photos / "one_overlay.png").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config-file": "absent.yaml"}, "absent.yaml"),
        ({"weights": "absent.pth"}, "absent.pth"),
        ({"vocabulary": "cat,,dog"}, "class 1"),
        ({"vocabulary": "absent.txt"}, "absent.txt"),
        ({"vocabulary": "cat", "background": "cat"}, "cat"),
        ({"vocabulary": "cat, " + "very " * 90 + "long"}, "long"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_what_makes_all_impossible_is_told_in_one_line(
    tool: ModuleType, photos: Path, tmp_path: Path, capsys, monkeypatch, changes: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(tool, tmp_path / "out", photos / "one.png", **changes) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("predict.py: error: ") and message in error


def test_public_weights_that_are_missing_are_named(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--config-file", MINI, "--input", str(photos), "--vocabulary", "cat", "--output", str(tmp_path)]
    assert tool.main([*arguments, "MODEL.CLIP.WEIGHTS", "/absent/clip.pt"]) == 2
    assert "/absent/clip.pt" in capsys.readouterr().err
    assert tool.main([*arguments, "MODEL.META_ARCHITECTURE", "NoSuchNet"]) == 2
    assert "NoSuchNet" in capsys.readouterr().err


def test_no_input_is_a_usage_error(tool: ModuleType, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tool, tmp_path / "out", tmp_path / "empty", tmp_path / "absent*.png") == 2
    assert "no image matches" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        tool.main(["--input", "a.png"])


def test_an_output_that_is_a_file_is_a_usage_error(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").touch()
    assert run(tool, tmp_path / "out", photos) == 2
    assert "--output" in capsys.readouterr().err


def test_what_is_done_is_skipped_and_not_taken_for_an_input(
    tool: ModuleType, photos: Path, tmp_path: Path, capsys
) -> None:
    assert run(tool, photos, photos) == 0
    overlay = photos / "rgb_overlay.png"
    before = overlay.stat().st_mtime_ns
    (photos / "grey_labels.png").unlink()
    capsys.readouterr()
    assert run(tool, photos, photos) == 0
    printed = capsys.readouterr().out
    assert "1 segmented, 0 failed, 5 done before" in printed and "grey.png" in printed
    assert overlay.stat().st_mtime_ns == before and (photos / "grey_labels.png").is_file()

    assert run(tool, photos, photos, vocabulary="cat, dog") == 2
    assert "was made with other class_names" in capsys.readouterr().err
    assert run(tool, photos, photos, vocabulary="cat, dog", options=("--overwrite",)) == 0
    assert json.loads((photos / "rgb.json").read_text())["class_names"] == ["cat", "dog"]


def test_scores_of_all_classes(tool: ModuleType, photos: Path, tmp_path: Path) -> None:
    assert run(tool, tmp_path / "out", photos / "rgb.jpg", options=("--save-scores",)) == 0
    saved = np.load(tmp_path / "out" / "rgb_scores.npz")
    labels = np.asarray(Image.open(tmp_path / "out" / "rgb_labels.png"))
    assert saved["class_names"].tolist() == ["cat", "grass", "building,edifice"] and saved["scores"].shape == (
        3,
        20,
        30,
    )
    # Where two classes are nearly alike, half precision may turn the order.
    assert (saved["scores"].argmax(axis=0) == labels).mean() > 0.9


def test_what_is_no_picture_is_counted(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    for name in ("a.heic", "b.HEIC", "c.dng", "d.h5", "e.eps", "notes.txt"):
        (photos / name).write_bytes(b"?")
    (photos / "deeper").mkdir()
    (photos / "rgb.jpg").rename(photos / "deeper" / "rgb.jpg")
    assert run(tool, tmp_path / "out", photos) == 0
    printed = capsys.readouterr()
    assert "5 segmented, 0 failed" in printed.out
    assert "2 .heic" in printed.err and "1 .dng" in printed.err and "1 .h5" in printed.err and "1 .eps" in printed.err
    assert run(tool, tmp_path / "out", photos, options=("--recursive",)) == 0
    assert "1 segmented, 0 failed, 5 done before" in capsys.readouterr().out


def test_ranges_and_sizes_are_said_on_the_command_line(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    Image.fromarray(np.full((9, 9), 1.5, np.float32)).save(photos / "float.tif")
    assert run(tool, tmp_path / "out", photos / "float.tif") == 1
    assert "--value-range" in capsys.readouterr().out
    assert run(tool, tmp_path / "out", photos / "float.tif", options=("--value-range", "0", "2")) == 0
    assert run(tool, tmp_path / "small", photos / "rgb.jpg", options=("--max-pixels", "100")) == 1
    assert "--max-pixels" in capsys.readouterr().out
    assert run(tool, tmp_path / "small", photos / "rgb.jpg", options=("--max-pixels", "0")) == 0


def test_a_full_disk_ends_it_in_one_line(tool: ModuleType, photos: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFullError(28, "No space left on device", "out/rgb_overlay.png")

    monkeypatch.setattr("escnet.segmentation_result.SegmentationResult.save_overlay", full)
    assert run(tool, tmp_path / "out", photos) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("predict.py: error: ") and "the same command goes on" in error


@pytest.mark.parametrize("value_range", [("5", "5"), ("255", "0"), ("nan", "1"), ("0", "inf")])
def test_an_impossible_range_of_values_is_a_usage_error(
    tool: ModuleType, tmp_path: Path, capsys, value_range: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tool, tmp_path / "out", tmp_path, options=("--value-range", *value_range))
    assert f"--value-range is {value_range[0]} {value_range[1]}; black" in capsys.readouterr().err


def test_batches_give_the_files_of_single_pictures(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    (photos / "broken.png").write_bytes((photos / "rgba.png").read_bytes()[:80])
    alone, together = tmp_path / "alone", tmp_path / "together"
    options = ("--show-prompts", "--save-scores")
    assert run(tool, alone, photos, options=options) == 1
    assert run(tool, together, photos, options=(*options, "--batch-size", "3")) == 1
    assert "6 segmented, 1 failed" in capsys.readouterr().out
    names = sorted(path.name for path in alone.iterdir())
    assert len(names) == 6 * 5 and names == sorted(path.name for path in together.iterdir())
    for path in alone.glob("*_labels.png"):
        assert path.read_bytes() == (together / path.name).read_bytes()
    for path in alone.glob("*.npz"):
        assert np.allclose(np.load(path)["scores"], np.load(together / path.name)["scores"], atol=1e-3)
    for path in alone.glob("*.json"):
        one, other = (json.loads(file.read_text()) for file in (path, together / path.name))
        scores = [[entry.pop("mean_score") for entry in report["classes"]] for report in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        assert one.pop("seconds") > 0 and other.pop("seconds") > 0 and one == other

    # What batches began goes on picture by picture, and the other way round.
    (alone / "one.json").unlink()
    (alone / "one_labels.png").unlink()
    assert run(tool, alone, photos, options=(*options, "--batch-size", "2", "--overwrite")) == 1
    (together / "wide_overlay.png").unlink()
    capsys.readouterr()
    assert run(tool, together, photos, options=options) == 1
    assert "1 segmented, 1 failed, 5 done before" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["0", "-2", "many"])
def test_an_impossible_batch_is_a_usage_error(tool: ModuleType, tmp_path: Path, capsys, size: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tool, tmp_path / "out", tmp_path, options=("--batch-size", size))
    assert "--batch-size" in capsys.readouterr().err


def test_formats_of_a_folder_that_was_segmented_before(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run(tool, out, photos / "rgb.jpg", photos / "grey.png") == 0
    formats = ("--format", "coco", "yolo", "label_studio", "geotiff", "--batch-size", "2")
    assert run(tool, out, photos / "rgb.jpg", photos / "grey.png", photos / "one.png", options=formats) == 0
    printed = capsys.readouterr().out
    assert "masks in 3 images" in printed and "3 tasks" in printed and "3 pictures do not say where they lie" in printed
    images = json.loads((out / "annotations.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["grey.png", "one.png", "rgb.jpg"]
    assert {path.stem for path in (out / "labels").iterdir()} == {"grey", "one", "rgb"}
    (out / "annotations.json").write_text("{}")
    assert run(tool, out, photos / "rgb.jpg", options=formats) == 2
    assert "annotations.json: is there, and was not written by --format" in capsys.readouterr().err


def test_an_unknown_format_is_named(tool: ModuleType, photos: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        run(tool, tmp_path / "out", photos, options=("--format", "voc"))
    assert "'voc'" in capsys.readouterr().err
