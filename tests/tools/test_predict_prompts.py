"""tools/predict.py with what a user points at, and the option of tools for how often points are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
GUIDED = ("MODEL.META_ARCHITECTURE", "ClipGuidedSam", "MODEL.GUIDED.CHECKPOINT", "False")


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/predict.py")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        pixels = np.random.default_rng(ord(name[0])).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def run(tool: ModuleType, tiny_config: str, photos: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the tool on the photos with prompts, into a folder "out"."""

    def call(prompts: Any, *options: str, opts: tuple[str, ...] = GUIDED, output: str = "out") -> int:
        torch.manual_seed(0)
        text = prompts if isinstance(prompts, str) else json.dumps(prompts)
        flags = ["--config-file", tiny_config, "--vocabulary", "cat|kitty, grass, sea", "--device", "cpu"]
        inputs = ["--input", str(photos), "--output", str(tmp_path / output), "--prompts", text]
        return tool.main([*flags, *inputs, *options, *opts])

    return call


def report(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def test_prompts_change_their_picture_and_stand_in_its_report(
    run: Callable[..., int], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    Image.fromarray(np.indices((40, 60))[1] < 30).save(photos.parent / "left.png")
    given = {"a.png": {"kitty": {"mask": "left.png", "box": [0, 0, 29, 39]}, "sea": {"points": [[50, 20], [3, 3]]}}}
    (tmp_path / "prompts.json").write_text(json.dumps(given))
    assert run("{}", output="without") == 0
    assert run(str(tmp_path / "prompts.json"), "--batch-size", "2") == 0
    found = report(out, "a")["prompts"]
    assert found["cat,kitty"]["box"] == [0, 0, 29, 39] and found["cat,kitty"]["mask"]["file"].endswith("left.png")
    assert found["sea"] == {"points": [[50, 20], [3, 3]], "labels": [1, 1]}
    labels = {name: (out / f"{name}_labels.png").read_bytes() for name in "abc"}
    for name in "bc":
        assert labels[name] == (tmp_path / "without" / f"{name}_labels.png").read_bytes()
        assert "prompts" not in report(out, name)
    assert labels["a"] != (tmp_path / "without" / "a_labels.png").read_bytes()

    capsys.readouterr()
    assert run(str(tmp_path / "prompts.json")) == 0
    assert "0 segmented, 0 failed, 3 done before" in capsys.readouterr().out
    given["a.png"]["sea"]["points"][0] = [50, 21]
    (tmp_path / "prompts.json").write_text(json.dumps(given))
    assert run(str(tmp_path / "prompts.json")) == 2
    assert "a.json: was made with other prompts" in capsys.readouterr().err
    assert run(str(tmp_path / "prompts.json"), "--overwrite") == 0
    assert report(out, "a")["prompts"]["sea"]["points"][0] == [50, 21]


def test_prompts_that_do_not_fit_fail_their_picture_alone(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run({"a.png": {"cat": {"points": [[60, 3]]}}, "b.png": {"cat": {"points": [[59, 3]]}}}) == 1
    printed = capsys.readouterr().out
    assert "2 segmented, 1 failed" in printed
    assert 'a.png: the prompts of "cat,kitty": the point (60, 3) is outside the image, which is 60 pixels' in printed
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["b.json", "c.json"]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("absent.json", "absent.json: there is no such file"),
        ({"d.png": {}}, 'has prompts of "d.png", not among the 3 pictures'),
        (
            {"a.png": {"dog": {"points": [[1, 2]]}}},
            '"a.png": there are prompts of "dog", which is not in the vocabulary',
        ),
        ({"a.png": {"cat": {"points": [[1]]}}}, 'the prompts of "cat": points has [1]'),
        ({"a.png": {"cat": {"mask": "absent.png"}}}, "the mask absent.png is not there"),
    ],
)
def test_what_is_wrong_with_all_of_it_is_told_before_a_model_is_built(
    run: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, prompts: Any, message: str
) -> None:
    monkeypatch.setattr("escnet.predictor.build_model", None)
    assert run(prompts) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("predict.py: error: ") and message in error


def test_a_system_without_prompts_or_draws_refuses_them(
    run: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escnet.predictor.build_model", None)
    assert run({"a.png": {"cat": {"points": [[1, 2]]}}}, opts=()) == 2
    assert "ESCNet does not take prompts for words; leave them out, or take a configuration" in capsys.readouterr().err
    assert run("{}", "--point-draws", "3", opts=()) == 2
    assert "--point-draws sets MODEL.GUIDED.POINT_DRAWS, which ESCNet does not have" in capsys.readouterr().err
    assert run("{}", "--point-draws", "3", opts=(*GUIDED, "MODEL.GUIDED.POINT_DRAWS", "2")) == 2
    assert "set the same key; leave one out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run("{}", "--point-draws", "0")


def test_points_are_drawn_so_often_and_the_report_says_it(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("{}", "--point-draws", "3") == 0
    assert run("{}", opts=(*GUIDED, "MODEL.GUIDED.POINT_DRAWS", "3"), output="same") == 0
    for name in "abc":
        one, other = report(tmp_path / "out", name), report(tmp_path / "same", name)
        assert one["options"] == other["options"] == [*GUIDED, "MODEL.GUIDED.POINT_DRAWS", "3"]
        assert one["classes"] == other["classes"]
    # Which is one of the conditions.
    assert run("{}", "--point-draws", "2") == 2


def test_an_evaluation_draws_them_too(load_script: Callable[[str], ModuleType], tiny_config: str) -> None:
    tool = load_script("tools/eval_zero_shot.py")
    asked = ["--config-file", tiny_config, "--benchmarks", "a150", "--point-draws", "4"]
    cfg = tool.read_config(tool.parse_arguments([*asked, *GUIDED]))
    assert cfg.MODEL.GUIDED.POINT_DRAWS == 4
    with pytest.raises(ValueError, match="which ESCNet does not have"):
        tool.read_config(tool.parse_arguments(asked))
