"""tools/benchmark_loader.py and tools/benchmark_evaluation.py print what they measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import write_labels

TOOLS = Path(__file__).parents[1] / "tools"
MINI = TOOLS.parent / "configs/mini/escnet.yaml"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_loader(tmp_path, monkeypatch, capsys):
    images, labels = tmp_path / "camvid/images/train", tmp_path / "camvid/annotations/train"
    images.mkdir(parents=True)
    Image.new("RGB", (80, 60)).save(images / "a.png")
    write_labels(labels / "a.png", np.zeros((60, 80), int))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    arguments = ["--config-file", str(MINI), "--workers", "1", "--images", "8", "--repeats", "1"]
    assert tool("benchmark_loader").main(arguments) == 0
    output = capsys.readouterr().out
    assert "camvid_train: 1 images, crops of (192, 256)" in output and "100%" not in output
    for stage in ("read the image", "read the labels", "ScaleJitterCrop", "ColorJitter", "PadTo"):
        assert stage in output
    assert float(output.splitlines()[-1].split()[1]) > 0


def test_loader_names_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert tool("benchmark_loader").main(["--config-file", str(MINI)]) == 2
    assert "prepare_camvid.py" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool("benchmark_loader").main(["--workers", "0"])


def test_steps_of_the_evaluation():
    times = tool("benchmark_evaluation").time_steps(classes=5, size=(64, 70), repeats=2)
    assert times.pop("classes") == 5 and len(times) == 3 and all(0 < value < 1e4 for value in times.values())


def test_maps_of_the_evaluation_benchmark():
    prediction, truth = tool("benchmark_evaluation").random_maps(300, (130, 64), seed=0)
    assert prediction.shape == truth.shape == (130, 64) and truth.dtype == np.uint16
    assert 0.05 < (truth == 65535).mean() < 0.15 and prediction.max() < 300
