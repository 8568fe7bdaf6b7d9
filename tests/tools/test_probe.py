"""tools/probe.py as a user starts it: on a small CLIP, SAM and SAM-CLIP, gone on with, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from escnet.pretrained.sam import build_sam

SEGMENTATION = ("--train", "mojiscenes_train", "--test", "mojiscenes_val_base", "--image-size", "64", "--epochs", "1")
QUICK = (*SEGMENTATION, "--label-size", "8", "--batch-size", "2", "--seeds", "0", "1")


@pytest.fixture
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/probe.py")


def read(path: Path) -> dict:
    return json.loads(path.read_text())["probings"]


def test_clip_and_sam_in_one_table(tool: ModuleType, tiny_config: str, tmp_path: Path, capsys) -> None:
    output = ["--config-file", tiny_config, "--output", str(tmp_path / "out")]
    assert tool.main([*output, "--system", "clip", "--heads", "linear", "pspnet", *QUICK]) == 0
    torch.manual_seed(0)
    weights = tmp_path / "sam.safetensors"
    save_file(build_sam("mini").state_dict(), weights)
    arguments = [*output, "--system", "sam", "--weights", str(weights), "--heads", "linear", *QUICK]
    assert tool.main(arguments) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "mIoU on mojiscenes_val_base, trained on mojiscenes_train" in lines
    found = read(tmp_path / "out/clip/results.json")["segmentation"]["heads"]
    assert found.keys() == {"linear", "pspnet"} and found["linear"]["seeds"].keys() == {"0", "1"}
    clip_row = [f"{100 * found[head]['mean']:.1f} ± {100 * found[head]['deviation']:.1f}" for head in found]
    assert f"| clip | {clip_row[0]} | {clip_row[1]} |" in lines and any(line.startswith("| sam | ") for line in lines)
    maps = np.load(tmp_path / "out/sam/features/mojiscenes_train_maps.npy", mmap_mode="r")
    assert maps.shape == (4, 64, 8, 8) and maps.dtype == np.float16

    # The same weights, changed by a little, are others.
    before = (tmp_path / "out/sam/results.json").read_bytes()
    sam = build_sam("mini").state_dict()
    save_file({name: value * 1.01 for name, value in sam.items()}, weights)
    assert tool.main(arguments) == 2
    assert "all weights sha256 was" in capsys.readouterr().err
    assert (tmp_path / "out/sam/results.json").read_bytes() == before


def test_a_second_call_goes_on(tool: ModuleType, tiny_config: str, tmp_path: Path, monkeypatch) -> None:
    from escnet.evaluation.probing import segmentation

    trained = []
    real = segmentation.probe_head
    monkeypatch.setattr(segmentation, "probe_head", lambda *a: trained.append((a[0], a[3])) or real(*a))
    arguments = ["--config-file", tiny_config, "--system", "clip", "--output", str(tmp_path), *SEGMENTATION]
    arguments += ["--label-size", "8", "--heads", "linear"]
    assert tool.main([*arguments, "--seeds", "3"]) == 0
    features = tmp_path / "clip/features/mojiscenes_train_maps.npy"
    written = features.stat().st_mtime_ns
    assert tool.main([*arguments, "--seeds", "3", "4"]) == 0
    assert trained == [("linear", 3), ("linear", 4)] and features.stat().st_mtime_ns == written
    assert tool.main([*arguments, "--seeds", "3", "4", "--restart"]) == 0
    assert trained[2:] == trained[:2] and features.stat().st_mtime_ns > written


def test_each_seed_has_labelled_images_of_its_own(
    tool: ModuleType, tiny_config: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    from escnet.evaluation.probing import segmentation

    rows = []
    real = segmentation.probe_head
    monkeypatch.setattr(segmentation, "probe_head", lambda *a: rows.append(a[1].rows.tolist()) or real(*a))
    arguments = ["--config-file", tiny_config, "--system", "clip", "--output", str(tmp_path / "out"), *SEGMENTATION]
    arguments += ["--heads", "linear", "--seeds", "0", "1", "2", "3", "--label-size", "8", "--batch-size", "2"]
    assert tool.main([*arguments, "LABELLED.IMAGES", "2", "LABELLED.SEED", "-1"]) == 0
    assert "mIoU on mojiscenes_val_base, trained on 2 of mojiscenes_train" in capsys.readouterr().out
    assert all(len(each) == 2 for each in rows) and len({*map(tuple, rows)}) > 1
    assert tool.main([*arguments, "LABELLED.IMAGES", "3", "LABELLED.SEED", "-1"]) == 2
    assert "labelled.images was 2.0, is 3.0" in capsys.readouterr().err
    assert tool.main([*arguments, "--restart", "LABELLED.IMAGES", "5"]) == 2
    assert "LABELLED.IMAGES is 5, but mojiscenes_train has 4 images" in capsys.readouterr().err


def test_classification_by_the_head_of_sam_clip(tool: ModuleType, tiny_config: str, tmp_path: Path, capsys) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for name, colour in (("red", (220, 30, 30)), ("blue", (30, 60, 220))):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = (np.array(colour) + random.integers(-25, 26, (20, 30, 3))).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    arguments = ["--config-file", tiny_config, "--output", str(tmp_path / "out"), "--features", "head", "--seeds", "0"]
    arguments += ["--classification", str(tmp_path / "train"), str(tmp_path / "val"), "--image-size", "32"]
    opts = ["MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.HEAD_BLOCKS", "1"]
    assert tool.main([*arguments, *opts]) == 0
    assert "| SamClip-head | 100.0" in capsys.readouterr().out
    found = read(tmp_path / "out/SamClip-head/results.json")["classification"]
    assert found["heads"]["linear"]["seeds"]["0"]["score"] == 1
    assert found["conditions"]["test"]["classes"] == 2 and found["conditions"]["features"]["representation"] == "head"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ESCNet cannot show its hidden states; take MODEL.META_ARCHITECTURE SamClip, or --system clip or sam"),
        (("--system", "clip", "--features", "head"), "no representation 'head', only backbone"),
        (("--system", "clip", "--image-size", "60"), "multiple of the patch size of ClassifyingClip, 8"),
        (("--system", "clip", "--weights", "nowhere.pth"), "nowhere.pth: there is no such file"),
        (("--system", "clip", "--disk-limit", "1e-9"), "allow more with --disk-limit"),
        (("--system", "clip", "--test", "mojiscenes_val_novel"), "both sets need the same classes"),
        (("--system", "clip", "--learning-rate", "0"), "have to be positive"),
        (("--system", "clip", "--test", "nothing"), "unknown dataset 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    tool: ModuleType, tiny_config: str, tmp_path: Path, capsys, arguments: tuple[str, ...], message: str
) -> None:
    assert tool.main(["--config-file", tiny_config, "--output", str(tmp_path / "out"), *SEGMENTATION, *arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("probe.py: ")]
    assert len(error) == 1 and message in error[0]
    assert not list((tmp_path / "out").rglob("results.json")) and not list((tmp_path / "out").rglob("*_maps.npy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train", "a"), "--train and --test go together"),
        ((), "there is nothing to do"),
        (("--train", "a", "--test", "b", "--seeds", "-1"), "a seed is 0 or more"),
        (("--train", "a", "--test", "b", "--name", "a/b"), "no name of a folder"),
        (("--train", "a", "--test", "b", "--label-size", "-8"), "--label-size is -8"),
    ],
)
def test_options_that_contradict_each_other(tool: ModuleType, capsys, arguments, message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        tool.main(["--config-file", "x.yaml", *arguments])
    assert message in capsys.readouterr().err
