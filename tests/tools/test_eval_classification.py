"""tools/eval_classification.py as a user starts it, on small pictures and the CLIP that ships with the package."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from escnet.miniature.world.classes import words
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import SceneStyle, compose

CONFIG = "configs/mojiscenes/escnet.yaml"
KEYS = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0")
SAM_CLIP = ("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.IMAGE_SIZE", "(32, 32)")
STYLE = SceneStyle(size=64, objects=(1, 1), object_size=(0.5, 0.8), repeats=0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pictures of one object each in a folder of its class, and their captions."""
    root = tmp_path_factory.mktemp("pictures")
    captions = {"images": [], "annotations": []}
    for number, glyph in enumerate(load_glyphs("base")[::7][:8] * 2):
        scene = compose([glyph], np.random.default_rng(number), STYLE)
        file = root / "val" / words()[glyph.word].name.replace(" ", "_") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(file)
        captions["images"].append({"id": number, "file_name": file.relative_to(root / "val").as_posix()})
        captions["annotations"].append({"image_id": number, "caption": scene.caption})
    (root / "captions.json").write_text(json.dumps(captions))
    return root


@pytest.fixture
def run(load_script: Callable[[str], ModuleType], pictures: Path, tmp_path: Path) -> Callable[..., int]:
    def start(*options: str, keys: tuple[str, ...] = KEYS) -> int:
        common = ("--config-file", CONFIG, "--images", str(pictures / "val"), "--output", str(tmp_path / "out"))
        return load_script("tools/eval_classification.py").main([*common, *options, *keys])

    return start


def test_classes_then_captions_of_the_same_embeddings(
    run: Callable[..., int], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--system", "clip") == 0
    assert "top-1" in capsys.readouterr().out
    out = tmp_path / "out"
    found = json.loads((out / "results.json").read_text())["classification"]
    assert found["images"] == 16
    assert found["classes"] == 8
    # The CLIP that ships with the package has learned these objects; chance is 0.125.
    assert found["top1"] >= 0.8
    with open(out / "per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["images"]) for row in rows) == 16
    assert np.mean([float(row["top1"]) for row in rows]) == pytest.approx(found["mean_class"])

    written = (out / "embeddings.safetensors").stat().st_mtime_ns
    classes = tmp_path / "classes.txt"
    classes.write_text("".join(f"{row['folder']}\t{row['words']}, drawing\n" for row in rows) + "other\tsand\n")
    captions = ("--captions", str(pictures / "captions.json"))
    assert run("--system", "clip", *captions, "--classes", str(classes), "--templates", "single") == 0
    assert "image to text R@1" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["classification"]["classes"] == 9
    assert results["classification"]["templates"] == "single"
    assert results["retrieval"]["captions"] == 16
    assert results["retrieval"]["image_to_text"]["R@1"] >= 0.5
    assert (out / "embeddings.safetensors").stat().st_mtime_ns == written

    # Captions alone: the classification of before stands.
    assert run("--system", "clip", *captions) == 0
    assert json.loads((out / "results.json").read_text()) == results


def test_a_damaged_picture_is_left_out_and_counted(
    run: Callable[..., int], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    for name in ("pear", "whale"):
        (images / name).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(images / name / "a.png")
    (images / "pear" / "b.png").write_bytes(b"no picture")
    assert run("--system", "clip", "--images", str(images), "--crop", "none") == 0
    assert "1 that cannot be read left out" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["classification"]["images"], found["classification"]["unreadable"]) == (2, 1)
    assert found["conditions"]["crop"] == "none"


def test_embeddings_of_another_model_are_refused_or_made_again(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--system", "clip") == 0
    other = (*KEYS, "MODEL.CLIP.WEIGHTS", "")
    capsys.readouterr()
    assert run("--system", "clip", keys=other) == 2
    error = capsys.readouterr().err
    assert "all weights sha256 was" in error
    assert "--restart" in error
    assert error.count("\n") == 1
    before = (tmp_path / "out" / "embeddings.safetensors").read_bytes()
    assert run("--system", "clip", "--restart", keys=other) == 0
    assert (tmp_path / "out" / "embeddings.safetensors").read_bytes() != before


def test_a_merged_model_answers_and_one_that_cannot_is_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(keys=(*KEYS, *SAM_CLIP)) == 0
    capsys.readouterr()
    assert run() == 2
    assert capsys.readouterr().err == (
        "eval_classification.py: ESCNet cannot name whole images; take MODEL.META_ARCHITECTURE SamClip, or --system "
        "clip\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "nowhere"), "there is no folder"),
        (("--classes", "nowhere.txt"), "cannot be read as a list of classes"),
        (("--captions", "nowhere.json"), "there is no such file of captions"),
        (("--templates", "a photo"), 'has no "{}" for the name'),
        (("--weights", "nowhere.pth"), "nowhere.pth"),
        (("--config-file", "nowhere.yaml"), "there is no such file"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run("--system", "clip", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("eval_classification.py: ")
    assert message in error
    assert error.count("\n") == 1
