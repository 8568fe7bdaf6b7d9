"""Results of probing: written after each probe, gone on with, summed up over seeds, and one table of all models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from escnet.evaluation.probing.results import ProbeResults, probe_table
from escnet.evaluation.runs.image_results import ResultsError

CONDITIONS = {"train": {"name": "a"}, "test": {"name": "b"}, "recipe": {"epochs": 2}}


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    results = ProbeResults(tmp_path / "sam", "SAM")
    results.begin("segmentation", CONDITIONS)
    results.add("segmentation", "linear", 0, 0.5, pixel_accuracy=0.75)
    again = ProbeResults(tmp_path / "sam", "SAM")
    again.begin("segmentation", CONDITIONS)
    assert again.has("segmentation", "linear", 0)
    assert not again.has("segmentation", "linear", 1) and not again.has("segmentation", "pspnet", 0)
    again.add("segmentation", "linear", 1, 0.7)
    found = json.loads((tmp_path / "sam/results.json").read_text())["probings"]["segmentation"]["heads"]["linear"]
    assert found["mean"] == pytest.approx(0.6) and found["deviation"] == pytest.approx(0.02**0.5)
    assert found["seeds"]["0"] == {"score": 0.5, "pixel_accuracy": 0.75}


def test_other_conditions_are_refused(tmp_path: Path) -> None:
    results = ProbeResults(tmp_path, "SAM")
    results.begin("segmentation", CONDITIONS)
    results.add("segmentation", "linear", 0, 0.5)
    with pytest.raises(ResultsError, match=r"results\.json: .*recipe\.epochs was 2, is 3.*--restart"):
        ProbeResults(tmp_path, "SAM").begin("segmentation", CONDITIONS | {"recipe": {"epochs": 3}})
    ProbeResults(tmp_path, "SAM").begin("classification", {"recipe": {"epochs": 3}})


def test_one_table_for_each_test_set(tmp_path: Path) -> None:
    for model, scores in (("SAM", (0.5, 0.7)), ("CLIP", (0.8,))):
        results = ProbeResults(tmp_path / model, model)
        results.begin("segmentation", CONDITIONS)
        for seed, score in enumerate(scores):
            results.add("segmentation", "linear", seed, score)
    results.add("segmentation", "pspnet", 0, 0.9)
    results.begin("classification", CONDITIONS | {"test": {"name": "c"}})
    results.add("classification", "linear", 0, 0.25)
    lines = [" ".join(line.split()) for line in probe_table(tmp_path).splitlines()]
    first, second = lines.index("mIoU on b, trained on a"), lines.index("accuracy on c, trained on a")
    assert {"| SAM | 60.0 ± 14.1 | |", "| CLIP | 80.0 | 90.0 |"} <= set(lines[min(first, second) :])
    assert "| CLIP | 25.0 |" in lines[second:]


def test_the_table_says_of_how_many_labelled_images(tmp_path: Path) -> None:
    for images in (0, 32):
        results = ProbeResults(tmp_path / str(images), "SAM")
        results.begin("segmentation", CONDITIONS | {"labelled": {"images": float(images), "seed": -1}})
        results.add("segmentation", "linear", 0, 0.5)
    lines = probe_table(tmp_path).splitlines()
    assert "mIoU on b, trained on a" in lines and "mIoU on b, trained on 32 of a" in lines


def test_nothing_scored_and_a_foreign_file_are_told(tmp_path: Path) -> None:
    results = ProbeResults(tmp_path, "SAM")
    results.begin("segmentation", CONDITIONS)
    with pytest.raises(ValueError, match="nothing could be scored"):
        results.add("segmentation", "linear", 0, float("nan"))
    assert not (tmp_path / "results.json").exists()
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ResultsError, match="holds no results of probing"):
        ProbeResults(tmp_path, "SAM")
