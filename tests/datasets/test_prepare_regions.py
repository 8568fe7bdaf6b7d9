"""datasets/prepare_regions.py: an examination that the tools take as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import write_labels
from escnet.data.preparation.regions import LEAST_SHARE

SCRIPT = "datasets/prepare_regions.py"
CONFIG = "configs/mojiscenes/escnet.yaml"
KEYS = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with two photographs of 64x96 in CamVid's layout: sky (0) above a road (3), and on it a car (8)."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generator = np.random.default_rng(0)
    folder = tmp_path / "camvid/images/val"
    folder.mkdir(parents=True)
    for number in range(2):
        labels = np.zeros((64, 96), int)
        labels[30:] = 3
        labels[24:44, 20 + 30 * number : 50 + 30 * number] = 8
        pixels = np.stack([labels * 20, labels * 9, 200 - labels * 15], axis=2) + generator.integers(0, 20, (64, 96, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        write_labels(tmp_path / f"camvid/annotations/val/{number}.png", labels)
    return tmp_path


def test_the_tools_take_it_as_it_is(
    root: Path, run: Callable[..., tuple[int, str]], load_script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    output = tmp_path / "examination"
    arguments = ("--dataset", "camvid_val", "--output", str(output))
    code, text = run(*arguments)
    assert code == 0 and "2 photographs with 6 objects, 6 cut-outs of 3 of 11 classes (car 2, road 2, sky 2)" in text
    assert run(*arguments)[1].rstrip().endswith("is complete already, nothing to do")

    tool = load_script("tools/eval_classification.py").main
    common = ["--config-file", CONFIG, "--templates", "single", "--output", str(tmp_path / "named")]
    pictures = ["--images", str(output / "words"), "--classes", str(output / "classes.tsv")]
    assert tool([*common, "--system", "clip", *pictures, *KEYS]) == 0
    found = json.loads((tmp_path / "named/results.json").read_text())["classification"]
    assert (found["images"], found["classes"]) == (6, 11)

    tool = load_script("tools/eval_instances.py").main
    objects = ["--images", str(output / "objects"), "--annotations", str(output / "objects.json")]
    assert tool(["--config-file", CONFIG, "--system", "sam", *objects, "--output", str(tmp_path / "masks"), *KEYS]) == 0
    found = json.loads((tmp_path / "masks/results.json").read_text())["scores"]
    assert (found["images"], found["boxes"], found["unreadable"]) == (2, 6, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dataset", "camvid_val", "--least-area", "7000"), "give a smaller --least-area"),
        (("--dataset", "nowhere"), "unknown dataset 'nowhere'"),
        (("--dataset", "camvid_val", "camvid_train"), "camvid_train: no image found"),
    ],
)
def test_what_cannot_be_examined_is_refused(
    root: Path, run: Callable[..., tuple[int, str]], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    code, text = run(*options, "--output", str(tmp_path / "examination"))
    assert code == 1 and message in text and len(text.splitlines()) <= 2
    assert not (tmp_path / "examination").exists()


@pytest.mark.parametrize("option", ["--limit", "--least-area"])
def test_numbers_name_their_option(
    run: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--dataset", "camvid_val", "--output", "nowhere", option, "0")
    assert f"argument {option}: '0' is no whole number of 1 or more" in capsys.readouterr().err


def test_the_help_tells_the_default(run: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    assert f"default: {100 * LEAST_SHARE:g} % of the map" in " ".join(capsys.readouterr().out.split())


def test_a_folder_that_cannot_be_written_is_told_in_a_line(root: Path, run: Callable[..., tuple[int, str]]) -> None:
    code, text = run("--dataset", "camvid_val", "--output", "/proc/examination")
    assert code == 1 and text.startswith("regions: ") and text.count("\n") == 1
