"""Tests of tools/compare_runs.py: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from escnet.evaluation.runs.image_results import ImageResult, ImageResults

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/compare_runs.py")


def write_run(folder: Path, hits: int, model: str = "M", window: int = 384) -> Path:
    """Ten images of 100 cat pixels, `hits` of them right and the others dog; one image of 10 dog pixels, all right."""
    results = ImageResults(folder)
    for i in range(10):
        results.add(ImageResult(f"x{i}", 10, 10, 0.1, np.array([[0, 0, hits], [0, 1, 100 - hits]]), 7))
    results.add(ImageResult("y", 1, 10, 0.1, np.array([[1, 1, 10]]), 7))
    results.close()
    description = {"conditions": {"inference": {"window": window}}, "title": "Pets", "dataset": "pets", "model": model}
    (folder / "run.json").write_text(json.dumps(description | {"class_names": ["cat", "dog", "never seen"]}))
    return folder


def test_prints_conditions_scores_and_classes(tool: ModuleType, tmp_path: Path, capsys) -> None:
    a, b = write_run(tmp_path / "a", 50), write_run(tmp_path / "b", 75, window=336)
    assert tool.main([str(a), str(b), "--samples", "200", "--output", str(tmp_path / "all.csv")]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Pets: 11 images, 3 classes"
    assert "inference.window 384 336" in lines
    # IoU of cat is exactly 50 and 75 % in each resample.
    assert "cat 10 50.00 75.00 +25.00 [+25.00, +25.00] 100.0% *" in lines
    dog = next(line for line in lines if line.startswith("dog"))
    assert dog.startswith("dog 1 1.96 3.85 +1.89 [") and "absent from" in dog and "*" not in dog
    assert any(line.startswith("mIoU 11 25.98 39.42 +13.44 [") for line in lines)
    assert not any("never seen" in line for line in lines)
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 4


def test_top_and_confidence_are_obeyed(tool: ModuleType, tmp_path: Path, capsys) -> None:
    a, b = write_run(tmp_path / "a", 50), write_run(tmp_path / "b", 75)
    assert tool.main([str(a), str(b), "--samples", "20", "--top", "1", "--confidence", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "All recorded conditions are equal." in out
    assert "cat" in out and "dog" not in out and "50 % interval" in out and "20 resamples" in out
    assert tool.main([str(a), str(b), "--samples", "20", "--top", "0"]) == 0
    assert "cat" not in capsys.readouterr().out


def test_the_same_seed_prints_the_same(tool: ModuleType, tmp_path: Path, capsys) -> None:
    a, b = str(write_run(tmp_path / "a", 50)), str(write_run(tmp_path / "b", 75))
    printed = []
    for seed in ("1", "1", "2"):
        assert tool.main([a, b, "--samples", "50", "--seed", seed]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_outputs_of_two_models_are_compared_by_dataset(tool: ModuleType, tmp_path: Path, capsys) -> None:
    write_run(tmp_path / "a" / "M" / "pets", 50)
    write_run(tmp_path / "a" / "M" / "more", 50).joinpath("run.json").write_text(
        (tmp_path / "a" / "M" / "pets" / "run.json").read_text().replace('"pets"', '"more"')
    )
    write_run(tmp_path / "b" / "N" / "pets", 60, model="N")
    assert tool.main([str(tmp_path / "a"), str(tmp_path / "b"), "--samples", "5"]) == 0
    out = capsys.readouterr().out
    assert out.count("Pets: 11 images") == 1
    assert f"Not compared:\n  {tmp_path / 'a' / 'M' / 'more'} is only in A" in out


def test_what_cannot_be_compared_is_said_and_nothing_written(tool: ModuleType, tmp_path: Path, capsys) -> None:
    a = write_run(tmp_path / "a", 50)
    arguments = [str(a), str(tmp_path / "nowhere"), "--output", str(tmp_path / "all.csv")]
    assert tool.main(arguments) == 2
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "all.csv").exists()
    assert tool.main([str(a), str(a), "--samples", "0"]) == 2
    assert "0 resamples" in capsys.readouterr().err
