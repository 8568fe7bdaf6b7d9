"""The evaluator against detectron2's, in one process and in two, and what it refuses."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator, inference_on_dataset
from PIL import Image

from escnet.evaluation.semantic import SemanticEvaluator


def names_of(num_classes: int) -> list[str]:
    return [f"class {i}" for i in range(num_classes)]


@pytest.fixture
def dataset(tmp_path, random_maps):
    """Registers a dataset of truth files; yields (name, records, predictions) and forgets it afterwards."""
    registered = []

    def register(num_classes: int, ignore_label: int, count: int = 3):
        name = f"semantic_test_{num_classes}_{ignore_label}"
        records, predictions = [], []
        for i in range(count):
            prediction, truth = random_maps(num_classes, ignore_label, seed=i)
            file = tmp_path / f"truth_{i}.png"
            Image.fromarray(truth).save(file)
            records.append({"file_name": f"image_{i}.jpg", "sem_seg_file_name": str(file)})
            predictions.append(prediction)
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(stuff_classes=names_of(num_classes), ignore_label=ignore_label)
        registered.append(name)
        return name, records, predictions

    yield register
    for name in registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def scores_of(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """(N, H, W) random scores whose argmax is the label map."""
    scores = torch.rand(num_classes, *labels.shape, generator=torch.Generator().manual_seed(0))
    return scores.scatter_(0, torch.from_numpy(labels)[None], 2.0)


@pytest.mark.parametrize(("num_classes", "ignore_label"), [(7, 255), (300, 65535)])
def test_evaluator_equals_detectron2(dataset, num_classes, ignore_label):
    name, records, predictions = dataset(num_classes, ignore_label)
    # detectron2's own loader asks for no copy, which NumPy 2 refuses.
    theirs = SemSegEvaluator(name, sem_seg_loading_fn=lambda file, dtype: np.array(Image.open(file), dtype=dtype))
    ours = SemanticEvaluator(name)
    theirs.reset()
    for record, prediction in zip(records, predictions, strict=True):
        output = {"sem_seg": scores_of(prediction, num_classes)}
        ours.process([record], [output])
        theirs.process([record], [output])
    ours, theirs = ours.evaluate()["sem_seg"], theirs.evaluate()["sem_seg"]
    compared = {"mIoU", "fwIoU", "mACC", "pACC"} | {f"IoU-{c}" for c in names_of(num_classes)}
    assert set(ours) == compared | {"mIoU_d2_2021"}
    for key in compared:
        assert ours[key] == pytest.approx(theirs[key], rel=1e-12, nan_ok=True), key
    assert next(iter(ours)) == "mIoU"


def test_labels_are_preferred_to_scores_and_given_truth_to_the_file():
    evaluator = SemanticEvaluator(class_names=["a", "b"], ignore_label=255)
    truth = np.array([[0, 1]])
    evaluator.process(
        [{"sem_seg_truth": truth, "sem_seg_file_name": "/nowhere.png"}],
        [{"labels": truth, "sem_seg": scores_of(1 - truth, 2)}],
    )
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_inference_on_dataset_resets_and_counts_every_image(dataset, tmp_path, brute_force):
    name, records, predictions = dataset(7, 255)
    by_file = {record["file_name"]: labels for record, labels in zip(records, predictions, strict=True)}

    def model(batch):
        return [{"labels": torch.from_numpy(by_file[record["file_name"]])} for record in batch]

    evaluator = SemanticEvaluator(name, output_dir=tmp_path)
    evaluator.process(records, [{"labels": np.zeros((13, 17), int)}] * 3)
    results = inference_on_dataset(model, [records[:2], records[2:]], evaluator)
    pairs = [
        (labels, np.array(Image.open(r["sem_seg_file_name"]))) for r, labels in zip(records, predictions, strict=True)
    ]
    assert results["sem_seg"]["mIoU"] == pytest.approx(100 * brute_force(pairs, 7, 255)["miou"])
    assert results["sem_seg"] == pytest.approx(evaluator.evaluate()["sem_seg"], nan_ok=True)
    assert json.loads((tmp_path / "semantic_metrics.json").read_text())["images"] == 3


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "I"])
def test_truth_files_of_every_depth_are_read_as_raw_ids(tmp_path, mode):
    ids = np.array([[0, 3, 1], [200, 2, 200]])
    file = tmp_path / "truth.png"
    if mode == "P":
        image = Image.frombytes("P", (3, 2), ids.astype(np.uint8).tobytes())
        image.putpalette([255 - value // 3 for value in range(768)])
    elif mode == "L":
        image = Image.fromarray(ids.astype(np.uint8))
    elif mode == "I":
        file = file.with_suffix(".tif")
        image = Image.fromarray(ids.astype(np.int32))
    else:
        image = Image.fromarray(ids.astype(np.uint16))
    assert image.mode == mode
    image.save(file)
    evaluator = SemanticEvaluator(class_names=names_of(4), ignore_label=200)
    evaluator.process([{"sem_seg_file_name": str(file)}], [{"labels": np.where(ids == 200, 0, ids)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_report_is_written_whole(tmp_path):
    evaluator = SemanticEvaluator(class_names=["sky", "grass"], ignore_label=255, output_dir=tmp_path / "out")
    evaluator.process([{"sem_seg_truth": np.array([[0, 255]])}], [{"labels": np.array([[0, 1]])}])
    evaluator.evaluate()
    evaluator.evaluate()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["semantic_metrics.json"]
    report = json.loads((tmp_path / "out" / "semantic_metrics.json").read_text())
    assert (report["images"], report["ignore_label"], report["miou"]) == (1, 255, 1.0)
    assert [(c["name"], c["iou"]) for c in report["classes"]] == [("sky", 1.0), ("grass", None)]
    assert "words_considered" not in report


def test_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    report = tmp_path / "semantic_metrics.json"
    report.write_text("old")
    evaluator = SemanticEvaluator(class_names=["a"], ignore_label=255, output_dir=tmp_path)
    evaluator.process([{"sem_seg_truth": np.array([[0]])}], [{"labels": np.array([[0]])}])

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        evaluator.evaluate()
    assert report.read_text() == "old"
    assert list(tmp_path.iterdir()) == [report]


@pytest.mark.parametrize(
    ("truth", "output", "message"),
    [
        (np.zeros((2, 3), int), {"labels": np.zeros((3, 2), int)}, "prediction is 3x2 but truth is 2x3"),
        (np.zeros((1, 1), int), {"labels": np.array([[2]])}, "ids 2 in the prediction"),
        (np.array([[7]]), {"labels": np.array([[0]])}, "ids 7 in the truth"),
        (np.zeros((1, 1), int), {"sem_seg": torch.zeros(3, 1, 1)}, r"shape \(3, 1, 1\), expected \(2, H, W\)"),
        (np.zeros((1, 1), int), {"sem_seg": torch.full((2, 1, 1), math.nan)}, "NaN"),
        (np.zeros((1, 1), int), {"masks": 0}, "neither 'labels' nor 'sem_seg'.*masks"),
        (None, {"labels": np.array([[0]])}, "neither 'sem_seg_truth' nor 'sem_seg_file_name'"),
    ],
)
def test_errors_name_the_image(truth, output, message):
    record = {"file_name": "cat.jpg"} if truth is None else {"file_name": "cat.jpg", "sem_seg_truth": truth}
    evaluator = SemanticEvaluator(class_names=["a", "b"], ignore_label=255)
    with pytest.raises(ValueError, match=f"cat.jpg.*{message}"):
        evaluator.process([record], [output])


def test_wrong_size_names_the_truth_file(dataset):
    name, records, _ = dataset(7, 255, count=1)
    with pytest.raises(ValueError, match=r"truth_0\.png.*prediction is 4x4 but truth is 13x17"):
        SemanticEvaluator(name).process(records, [{"labels": np.zeros((4, 4), int)}])


def test_outputs_must_match_inputs():
    with pytest.raises(ValueError):
        SemanticEvaluator(class_names=["a"], ignore_label=255).process([], [{"labels": np.zeros((1, 1), int)}])


def test_constructor_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match=r"'never_registered'.*'stuff_classes'"):
        SemanticEvaluator("never_registered")
    with pytest.raises(ValueError, match="no ignore_label"):
        SemanticEvaluator(class_names=["a"])
    with pytest.raises(ValueError, match=r"more than once.*bus"):
        SemanticEvaluator(class_names=["bus", "car", "bus"], ignore_label=255)
    with pytest.raises(ValueError, match="num_classes is 3, but there are 2"):
        SemanticEvaluator(class_names=["a", "b"], ignore_label=255, num_classes=3)


def test_given_values_override_the_metadata(dataset):
    name, _, _ = dataset(7, 255)
    evaluator = SemanticEvaluator(name, class_names=["a", "b"], ignore_label=9)
    evaluator.process([{"sem_seg_truth": np.array([[1, 9]])}], [{"labels": np.array([[1, 0]])}])
    assert evaluator.evaluate()["sem_seg"]["IoU-b"] == 100


def test_scored_classes_of_the_metadata_and_given_ones(dataset, tmp_path, brute_force):
    name, records, predictions = dataset(7, 255)
    MetadataCatalog.get(name).set(scored_classes=(2, 7))
    pairs = [
        (labels, np.array(Image.open(r["sem_seg_file_name"]))) for r, labels in zip(records, predictions, strict=True)
    ]

    def miou(**given) -> float:
        evaluator = SemanticEvaluator(name, output_dir=tmp_path, **given)
        evaluator.process(records, [{"labels": labels} for labels in predictions])
        return evaluator.evaluate()["sem_seg"]["mIoU"]

    assert miou() == pytest.approx(100 * brute_force(pairs, 7, 255, range(2, 7))["miou"])
    assert json.loads((tmp_path / "semantic_metrics.json").read_text())["scored_classes"] == [2, 7]
    assert miou(scored=(0, 3)) == pytest.approx(100 * brute_force(pairs, 7, 255, range(3))["miou"])
    assert miou(scored=(0, 7)) == pytest.approx(100 * brute_force(pairs, 7, 255)["miou"])
    assert "scored_classes" not in json.loads((tmp_path / "semantic_metrics.json").read_text())
    assert len({round(miou(**given), 6) for given in ({}, {"scored": (0, 3)}, {"scored": (0, 7)})}) == 3
    with pytest.raises(ValueError, match=rf"'{name}': the scored classes are \(2, 7\), but of 2 classes"):
        SemanticEvaluator(name, class_names=["a", "b"])


def test_nothing_to_score_is_an_error():
    evaluator = SemanticEvaluator(class_names=["a"], ignore_label=255)
    with pytest.raises(ValueError, match="no pixel to score in 0 images"):
        evaluator.evaluate()
    evaluator.process([{"sem_seg_truth": np.array([[255]])}], [{"labels": np.array([[0]])}])
    with pytest.raises(ValueError, match="no pixel to score in 1 images"):
        evaluator.evaluate()


def evaluate_share(rank: int, rendezvous: Path, pairs, result: Path) -> None:
    """One of two processes: the first scores one image, the second the others."""
    torch.set_num_threads(1)  # a forked process must not touch the thread pool of its parent
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    evaluator = SemanticEvaluator(class_names=names_of(7), ignore_label=255, output_dir=result.parent)
    for words, (prediction, truth) in enumerate(pairs[:1] if rank == 0 else pairs[1:], start=2 + rank):
        evaluator.process([{"sem_seg_truth": truth}], [{"labels": prediction, "words_considered": words}])
    evaluator.evaluate()
    result.write_text(json.dumps(evaluator.evaluate()))
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path, random_maps):
    pairs = [random_maps(7, 255, seed) for seed in range(3)]
    results = [tmp_path / f"result_{rank}.json" for rank in range(2)]
    # Forked, because importing torch and detectron2 anew takes longer than all the other tests together.
    workers = [
        multiprocessing.get_context("fork").Process(
            target=evaluate_share, args=(rank, tmp_path / "rendezvous", pairs, result)
        )
        for rank, result in enumerate(results)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]

    alone = SemanticEvaluator(class_names=names_of(7), ignore_label=255)
    for prediction, truth in pairs:
        alone.process([{"sem_seg_truth": truth}], [{"labels": prediction}])
    first, second = (json.loads(result.read_text()) for result in results)
    assert second is None
    assert first["sem_seg"] == pytest.approx(alone.evaluate()["sem_seg"], rel=0, abs=0, nan_ok=True)
    # 2 words in the first image, 3 and 4 in the others.
    assert json.loads((tmp_path / "semantic_metrics.json").read_text())["words_considered"] == 3
