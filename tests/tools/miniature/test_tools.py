"""The scripts that make the shipped weights, in their smallest form."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from escnet.miniature import pretraining
from escnet.miniature.clip_evaluation import evaluate_clip
from escnet.miniature.clip_recipe import ClipRecipe
from escnet.miniature.examination import Examination, write_examination
from escnet.miniature.replay import Replay, write_replay
from escnet.predictor import Segmenter
from escnet.pretrained.clip import build_clip
from escnet.pretrained.files import file_sha256
from escnet.pretrained.reading import read_weights


def read_card(path: Path) -> dict:
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == file_sha256(path)
    return card


def test_pretrain_clip_writes_weights_that_load(
    load_script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("tools/miniature/pretrain_clip.py")
    monkeypatch.setattr(pretraining.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(script, "TEST_PICTURES", 6)
    monkeypatch.setattr("escnet.miniature.clip_evaluation.evaluate_clip", partial(evaluate_clip, scenes=3))
    # A step of the recipe has 272 pictures, which say no more here than these 17.
    monkeypatch.setattr("escnet.miniature.clip_recipe.ClipRecipe", partial(ClipRecipe, alone=4, fours=1, nines=1))
    path = tmp_path / "clip.safetensors"
    small = ["--pictures", "20", "--steps", "2"]
    assert script.main(["--output", str(path), "--seed", "3", *small]) == 0
    card = read_card(path)
    assert (card["recipe"]["seed"], card["recipe"]["steps"]) == (3, 2)
    assert set(card["figures"]) == {"value", "qq", "kk", "vv", "qk"}
    assert 0 <= card["figures"]["value"]["zero_shot"] <= 1
    model, _ = build_clip("escnet-moji", path)
    assert model.visual.positional_embedding.shape == (1 + 6 * 6, 192)
    with pytest.raises(SystemExit):
        script.main(["--output", str(path), "--pictures", "3"])


@pytest.mark.parametrize("name", ["pretrain_clip", "pretrain_sam", "train_shipped", "train_sam_clip"])
def test_the_output_is_looked_at_before_a_training(
    load_script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    script = load_script(f"tools/miniature/{name}.py")
    with pytest.raises(SystemExit, match="2"):
        script.main(["--output", str(tmp_path / "weights.pth")])
    assert "argument --output: has to end in .safetensors, got" in capsys.readouterr().err
    assert script.main(["--output", "/proc/weights.safetensors"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"{name}: ") and "cannot be written" in error


def test_what_is_needed_after_a_training_is_looked_for_before_it(
    load_script: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    output = ["--output", str(tmp_path / "a.safetensors")]
    assert load_script("tools/miniature/train_sam_clip.py").main(output) == 1
    assert "mojiexamination: has no words (the data root is DETECTRON2_DATASETS); datasets/prepare_mojireplay.py" in (
        capsys.readouterr().err
    )
    assert load_script("tools/miniature/train_shipped.py").main(output) == 1
    assert "mojiscenes" in capsys.readouterr().err
    laboratory = ["headline", "--output", str(tmp_path / "out"), "--seeds", "0", "--jobs", "1"]
    monkeypatch.setattr("escnet.miniature.sam_clip_tables.several_processes", lambda jobs: _Here())
    assert load_script("tools/miniature/sam_clip.py").main([*laboratory, "--plot", "/proc/a.png"]) == 1
    assert "sam_clip: " in capsys.readouterr().err
    assert load_script("tools/miniature/sam_clip.py").main(laboratory) == 1
    assert "mojiexamination: has no words" in capsys.readouterr().err


class _Here(ThreadPoolExecutor):
    """What is submitted is done in this process."""

    def __init__(self) -> None:
        super().__init__(1)


@pytest.mark.parametrize("name", ["ablation", "sam_clip", "clip_guided_sam"])
@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from here"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (FloatingPointError("loss is nan"), 1, "loss is nan"),
    ],
)
def test_an_experiment_that_fails_is_told_in_a_line(
    load_script: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("escnet.miniature.experiments.run_table", fails)
    monkeypatch.setattr("escnet.miniature.sam_clip_tables.run_question", fails)
    question = {"ablation": "sam_block", "sam_clip": "headline", "clip_guided_sam": "signals"}[name]
    assert load_script(f"tools/miniature/{name}.py").main([question, "--output", str(tmp_path)]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith(f"{name}: ") and told in lines[0]


def test_train_shipped_writes_weights_that_segment(
    load_script: Callable[[str], ModuleType], tiny_config: str, tmp_path: Path
) -> None:
    script = load_script("tools/miniature/train_shipped.py")
    path = tmp_path / "esc_net.safetensors"
    arguments = ["--output", str(path), "--config-file", tiny_config, "OUTPUT_DIR", str(tmp_path / "run")]
    assert script.main(arguments) == 0
    card = read_card(path)
    assert set(card["figures"]["miou"]) == {f"mojiscenes_val_{name}" for name in ("novel", "base", "all", "847[:50]")}
    assert card["recipe"]["iterations"] == 3
    assert all(value.dtype != torch.float32 for value in read_weights(path).values())
    segmenter = Segmenter.from_config(tiny_config, weights=path)
    assert segmenter(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), ["pear", "grass"]).labels.shape == (64, 64)
    assert script.main([*arguments[:4], "MODEL.NO_SUCH_KEY", "1"]) == 1


def test_train_sam_clip_writes_weights_that_answer(
    load_script: Callable[[str], ModuleType], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "mojiscenes").symlink_to(tiny_data / "mojiscenes")
    write_replay(tmp_path / "mojireplay", Replay(clip=4, sam=2, shards=2), workers=1)
    write_examination(tmp_path / "mojiexamination", Examination(words=2, objects=1), workers=1)
    script = load_script("tools/miniature/train_sam_clip.py")
    path = tmp_path / "sam_clip.safetensors"
    short = [
        "SOLVER.MAX_ITER", "5", "DISTILL.CLIP.BATCH_SIZE", "2", "DISTILL.STATISTICS_IMAGES", "2", "MODEL.DEVICE", "cpu",
    ]  # fmt: skip
    arguments = ["--output", str(path), "--folder", str(tmp_path / "trainings"), "--seed", "2"]
    assert script.main([*arguments, *short]) == 0
    card = read_card(path)
    assert (card["recipe"]["seed"], card["recipe"]["iterations"]) == (2, [5, 5, 5])
    assert set(card["figures"]) == {"accuracy", "ap", "iou", "miou, clip", "miou, both"}
    assert all(value.dtype != torch.float32 for value in read_weights(path).values())
    segmenter = Segmenter.from_config("configs/mojiscenes/sam_clip.yaml", weights=path)
    assert segmenter(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), ["pear", "grass"]).labels.shape == (64, 64)
    assert script.main([*arguments, "MODEL.NO_SUCH_KEY", "1"]) == 1
