"""tools/benchmark_loader.py and tools/benchmark_evaluation.py print what they measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import write_labels

MINI = Path(__file__).parents[2] / "configs/camvid/escnet.yaml"


def test_loader(tmp_path, monkeypatch, capsys, load_script):
    images, labels = tmp_path / "camvid/images/train", tmp_path / "camvid/annotations/train"
    images.mkdir(parents=True)
    Image.new("RGB", (80, 60)).save(images / "a.png")
    write_labels(labels / "a.png", np.zeros((60, 80), int))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    arguments = ["--config-file", str(MINI), "--workers", "1", "--images", "8", "--repeats", "1"]
    assert load_script("tools/benchmark_loader.py").main(arguments) == 0
    output = capsys.readouterr().out
    assert "camvid_train: 1 images, crops of (192, 256)" in output and "100%" not in output
    for stage in ("read the image", "read the labels", "ScaleJitterCrop", "ColorJitter", "PadTo"):
        assert stage in output
    assert float(output.splitlines()[-1].split()[1]) > 0


def test_loader_names_what_is_missing(tmp_path, monkeypatch, capsys, load_script):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert load_script("tools/benchmark_loader.py").main(["--config-file", str(MINI)]) == 2
    assert "prepare_camvid.py" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        load_script("tools/benchmark_loader.py").main(["--workers", "0"])


def test_steps_of_the_evaluation(load_script):
    times = load_script("tools/benchmark_evaluation.py").time_steps(classes=5, size=(64, 70), repeats=2)
    assert times.pop("classes") == 5 and len(times) == 4 and all(0 < value < 1e4 for value in times.values())


def test_maps_of_the_evaluation_benchmark(load_script):
    prediction, truth = load_script("tools/benchmark_evaluation.py").random_maps(300, (130, 64), seed=0)
    assert prediction.shape == truth.shape == (130, 64) and truth.dtype == np.uint16
    assert 0.05 < (truth == 65535).mean() < 0.15 and prediction.max() < 300


def test_logits_of_the_evaluation_benchmark_are_like_a_model_s(load_script):
    logits = load_script("tools/benchmark_evaluation.py").model_like_logits(150)
    assert logits.shape == (150, 96, 96) and 2 <= len(logits.argmax(0).unique()) <= 12
    assert logits.diff(dim=2).std() < logits.std() / 2
