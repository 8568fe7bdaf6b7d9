"""tools/compare_systems.py: all files of a comparison of two tiny systems, what goes on, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from detectron2.modeling import build_model

import escnet.meta_arch  # noqa: F401  (registers the systems)
from escnet.config import load_config
from escnet.evaluation import zero_shot
from escnet.evaluation.runs.comparison import compare_runs
from escnet.evaluation.systems import costs as costs_module

ROOT = Path(__file__).parents[2]
FREE = {"MODEL.META_ARCHITECTURE": "DenseClip"}
FEW = {"MODEL.ESC.MAX_CLASSES": 12, "MODEL.ESC.KEEP": 0, "MODEL.ESC.KEEP_SHARE": 0.0}


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/compare_systems.py")


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Costs are measured in this process, since another takes seconds to begin; the architectures, in order."""
    calls: list[str] = []

    def here(function, cfg, sample):
        calls.append(cfg.MODEL.META_ARCHITECTURE)
        return function(cfg, sample)

    threads = torch.get_num_threads()
    monkeypatch.setattr(costs_module, "in_own_process", here)
    yield calls
    torch.set_num_threads(threads)


@pytest.fixture
def plan(tmp_path: Path, tiny_config: str) -> Path:
    """A trained system, whose checkpoint has random weights, and one without training, on two splits."""
    torch.manual_seed(0)
    torch.save({"model": build_model(load_config(tiny_config)).state_dict()}, tmp_path / "model.pth")
    contents = {
        "data": [{"name": "moji_base", "role": "seen"}, {"name": "moji_novel", "role": "unseen"}],
        "costs": {"repeats": 1, "pictures": 1, "words": 4, "picture_size": [64, 64]},
        "systems": [
            {"name": "free", "config": tiny_config, "options": FREE},
            {"name": "trained, tiny", "config": tiny_config, "weights": str(tmp_path / "model.pth"), "options": FEW},
        ],
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(contents))
    return path


def test_all_files_and_going_on(
    tool: ModuleType, plan: Path, tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    output = tmp_path / "out"
    arguments = [str(plan), "--output", str(output), "--resamples", "50", "--limit", "1"]
    assert tool.main(arguments) == 0
    files = {path.relative_to(output).as_posix() for path in output.glob("*")}
    assert files == {
        "table.md", "table.csv", "systems.json", "differences.csv", "miou_over_cost.png", "miou_over_cost.svg",
        "runs", "costs",
    }  # fmt: skip
    assert {path.name for path in (output / "costs").iterdir()} == {"free.json", "trained_tiny.json"}
    assert (output / "runs/report.html").is_file()
    printed = capsys.readouterr().out
    assert "Moji-base (seen)" in printed and "Moji-novel (unseen)" in printed and "trained, tiny" in printed
    few = "trained, tiny looked at a part of the words in an image: on average 12.0 of 92 (Moji-base), 12.0 of 52"
    assert few in printed and few in (output / "table.md").read_text()

    contents = json.loads((output / "systems.json").read_text())
    with open(output / "table.csv") as file:
        rows = list(csv.DictReader(file))
    for row, system, folder in zip(rows, contents["systems"], ("free", "trained_tiny"), strict=True):
        metrics = json.loads((output / f"runs/{folder}/mojiscenes_val_novel[:1]/metrics.json").read_text())
        assert float(row["miou mojiscenes_val_novel[:1]"]) == metrics["miou"]
        assert system["scores"]["mojiscenes_val_novel[:1]"]["miou"] == metrics["miou"]
        assert int(row["parameters"]) == system["costs"]["parameters"]
        assert float(row["flops"]) == system["costs"]["flops"] > 0
    trained = contents["systems"][1]
    assert trained["costs"]["disk_bytes"] == (tmp_path / "model.pth").stat().st_size
    assert trained["costs"]["trainable"] > contents["systems"][0]["costs"]["trainable"] == 0
    assert contents["measured"]["words"] == 92  # of the first dataset

    datasets = ["mojiscenes_val_base[:1]", "mojiscenes_val_novel[:1]"]
    assert [difference["runs"]["dataset"] for difference in contents["differences"]] == datasets
    folders = [output / "runs" / system / datasets[0] for system in ("free", "trained_tiny")]
    expected = compare_runs(*folders, samples=50).scores[0]
    found = contents["differences"][0]
    assert (found["a"], found["low"], found["high"]) == (expected.a, expected.low, expected.high)

    # Of a part of it, nothing is measured or judged again.
    monkeypatch.setattr(zero_shot, "_count_images", None)
    assert tool.main([*arguments, "--systems", "free"]) == 0
    assert measured == ["DenseClip", "ESCNet"]
    (again,) = json.loads((output / "systems.json").read_text())["systems"]
    assert again == contents["systems"][0]


def test_systems_data_and_weights_can_be_chosen(tool: ModuleType, plan: Path, tmp_path: Path, capsys) -> None:
    output, moved = tmp_path / "out", tmp_path / "moved.pth"
    (tmp_path / "model.pth").rename(moved)
    arguments = [str(plan), "--output", str(output), "--limit", "1", "--systems", "trained, tiny"]
    assert tool.main(arguments) == 2
    assert "trained, tiny: there is no file" in capsys.readouterr().err and not output.exists()
    assert tool.main([*arguments, "--weights", f"trained, tiny={moved}"]) == 0
    (system,) = json.loads((output / "systems.json").read_text())["systems"]
    assert system["scores"]["mojiscenes_val_base[:1]"]["images"] == 1
    assert not (output / "differences.csv").exists()
    assert "(1/2)" in (output / "table.md").read_text()


def test_costs_alone_need_neither_weights_nor_data(
    tool: ModuleType, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    (tmp_path / "model.pth").unlink()
    (tmp_path / "clip.safetensors").unlink()
    output = tmp_path / "out"
    assert tool.main([str(plan), "--output", str(output), "--costs-only", "--repeats", "2"]) == 0
    assert {path.name for path in output.iterdir()} == {"table.md", "table.csv", "systems.json", "costs"}
    contents = json.loads((output / "systems.json").read_text())
    assert contents["measured"]["words"] == 4 and contents["measured"]["pictures"] == [[64, 64]]
    assert all(len(s["costs"]["encode_seconds"]) == 2 and s["scores"] == {} for s in contents["systems"])
    assert "random weights" in (output / "table.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "free"], "has to be NAME=PATH"),
        (["--weights", "other=x"], "no system 'other'"),
        (["--systems", "other"], "no system 'other'"),
        (["--limit", "0"], "at least one image"),
    ],
)
def test_options_that_cannot_be_used(tool: ModuleType, plan: Path, tmp_path: Path, capsys, options, message) -> None:
    assert tool.main([str(plan), "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_missing_data_is_told_before_anything_is_measured(
    tool: ModuleType, plan: Path, tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    assert tool.main([str(plan), "--output", str(tmp_path / "out")]) == 2
    assert "mojiscenes_val_base" in capsys.readouterr().err and measured == []


def test_a_column_of_each_protocol(
    tool: ModuleType, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    output, name = tmp_path / "out", "mojiscenes_val_novel[:1]"
    drawn = []
    monkeypatch.setattr("escnet.evaluation.systems.plot.save_cost_plot", lambda *_: None)
    monkeypatch.setattr("escnet.evaluation.systems.plot.cost_plot", lambda *given: drawn.append(given[2:]))
    contents = yaml.safe_load(plan.read_text())
    contents["data"] = [{"name": "moji_novel", "role": "unseen", "protocol": "oracle"}, {"name": "moji_novel"}]
    plan.write_text(yaml.safe_dump(contents))
    assert tool.main([str(plan), "--output", str(output), "--resamples", "20", "--limit", "1"]) == 0
    printed, markdown = capsys.readouterr().out, (output / "table.md").read_text()
    for text in (printed, markdown):
        assert "Moji-novel, oracle (unseen)" in text and "Moji-novel, oracle: each image was asked only for" in text
    contents = json.loads((output / "systems.json").read_text())
    assert contents["data"] == [
        {"name": name, "role": "unseen", "protocol": "oracle", "prompts": "none"}, {"name": name, "role": ""},
    ]  # fmt: skip
    with open(output / "table.csv") as file:
        row = next(csv.DictReader(file))
    keys = [f"{name}@oracle", name]
    for key in keys:
        metrics = json.loads((output / f"runs/free/{key}/metrics.json").read_text())
        assert float(row[f"miou {key}"]) == contents["systems"][0]["scores"][key]["miou"] == metrics["miou"]
    assert [difference["runs"]["dataset"] for difference in contents["differences"]] == keys
    assert contents["differences"][0]["name"].startswith("oracle mIoU")
    # Both have an axis of their own, so that only one is drawn.
    assert drawn == [(["Moji-novel"], "mIoU")]
    assert "Moji-novel, oracle" in (output / "runs/report.html").read_text()


def test_a_system_that_cannot_answer_is_told_before_anything_is_measured(
    tool: ModuleType, plan: Path, tmp_path: Path, measured: list[str], capsys
) -> None:
    contents = yaml.safe_load(plan.read_text())
    contents["data"].append({"name": "moji_novel", "protocol": "oracle", "prompts": "points"})
    plan.write_text(yaml.safe_dump(contents))
    assert tool.main([str(plan), "--output", str(tmp_path / "out")]) == 2
    expected = "free, on mojiscenes_val_novel: DenseClip cannot draw masks from prompts (points)"
    assert expected in capsys.readouterr().err and measured == []


@pytest.mark.slow
def test_as_it_is_typed(plan: Path, tmp_path: Path) -> None:
    """In a process of its own, with another in which costs are measured."""
    command = [sys.executable, "tools/compare_systems.py", str(plan), "--costs-only", "--systems", "free"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (system,) = json.loads((tmp_path / "out/systems.json").read_text())["systems"]
    assert system["costs"]["memory"] >= system["costs"]["memory_before"] > 100
    assert "| free" in (tmp_path / "out/table.md").read_text()
