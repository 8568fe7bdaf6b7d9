"""Semantic scores against detectron2's evaluator, torchmetrics, a pixel-by-pixel count and hand-worked cases."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator, inference_on_dataset
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from escnet.evaluation.semantic import ConfusionMatrix, SemanticEvaluator, semantic_metrics


def random_maps(num_classes: int, ignore_label: int, seed: int, size: tuple[int, int] = (13, 17)):
    """A (prediction, truth) pair with ignored pixels; whatever the seed, some classes are only in one of the two maps,
    and some in neither."""
    classes = np.random.default_rng(num_classes).permutation(num_classes)
    in_truth = classes[: num_classes * 6 // 10]
    in_prediction = classes[num_classes * 3 // 10 : num_classes * 8 // 10]
    rng = np.random.default_rng(seed)
    truth = rng.choice(in_truth, size)
    guess = rng.choice(in_prediction, size)
    prediction = np.where(rng.random(size) < 0.5, truth, guess)
    truth = np.where(rng.random(size) < 0.2, ignore_label, truth)
    return prediction, truth.astype(np.uint8 if ignore_label == 255 else np.uint16)


def brute_force(pairs, num_classes: int, ignore_label: int) -> dict[str, float]:
    """The scores from their definitions, one pixel at a time, without a matrix."""
    tp, truth_count, prediction_count = ([0] * num_classes for _ in range(3))
    for prediction, truth in pairs:
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t == ignore_label:
                continue
            truth_count[t] += 1
            prediction_count[p] += 1
            tp[t] += p == t
    present = [c for c in range(num_classes) if truth_count[c]]
    either = [c for c in range(num_classes) if truth_count[c] or prediction_count[c]]
    iou = {c: tp[c] / (truth_count[c] + prediction_count[c] - tp[c]) for c in present}
    pixels = sum(truth_count)
    return {
        "miou": sum(iou.values()) / len(present),
        "miou_d2_2021": sum(iou.values()) / len(either),
        "pixel_accuracy": sum(tp) / pixels,
        "mean_accuracy": sum(tp[c] / truth_count[c] for c in present) / len(present),
        "fw_iou": sum(iou[c] * truth_count[c] / pixels for c in present),
        "class_iou": [iou.get(c, math.nan) for c in range(num_classes)],
    }


def names_of(num_classes: int) -> list[str]:
    return [f"class {i}" for i in range(num_classes)]


def counts_of(prediction, truth, num_classes: int, ignore_label: int) -> np.ndarray:
    confusion = ConfusionMatrix(num_classes, ignore_label)
    confusion.update(prediction, truth)
    return confusion.counts


def metrics_of(pairs, num_classes: int, ignore_label: int = 255):
    confusion = ConfusionMatrix(num_classes, ignore_label)
    for prediction, truth in pairs:
        confusion.update(prediction, truth)
    return semantic_metrics(confusion, names_of(num_classes))


# The matrix


def test_rows_are_truth_and_ignored_pixels_count_nowhere():
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([[0, 1, 1], [2, 2, 0]]), np.array([[0, 0, 255], [2, 1, 255]], dtype=np.uint8))
    assert confusion.counts.dtype == np.int64
    assert confusion.counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_integer_type_of_either_map_does_not_matter(dtype):
    prediction, truth = (ids.astype(np.int64) for ids in random_maps(100, 120, seed=3))
    reference = counts_of(prediction, truth, 100, 120)
    assert reference.sum() == (truth != 120).sum()
    assert np.array_equal(counts_of(prediction.astype(dtype), truth, 100, 120), reference)
    assert np.array_equal(counts_of(prediction, truth.astype(dtype), 100, 120), reference)


def test_tensors_and_arrays_give_the_same_counts():
    prediction, truth = random_maps(5, 255, seed=0)
    from_tensors = counts_of(torch.from_numpy(prediction), torch.from_numpy(truth), 5, 255)
    assert from_tensors.sum() > 0
    assert np.array_equal(from_tensors, counts_of(prediction, truth, 5, 255))


def test_images_larger_than_a_strip_and_not_contiguous():
    prediction, truth = random_maps(50, 255, seed=0, size=(300, 701))
    expected = np.zeros((50, 50), dtype=np.int64)
    for true_id in range(50):
        expected[true_id] = np.bincount(prediction[truth == true_id], minlength=50)
    assert np.array_equal(counts_of(prediction, truth, 50, 255), expected)
    assert np.array_equal(counts_of(prediction[:, ::-1], truth[:, ::-1], 50, 255), expected)
    assert np.array_equal(counts_of(prediction.T, truth.T, 50, 255), expected)


def test_update_at_847_classes_takes_under_5_ms():
    truth = np.kron(np.arange(0, 800, 8).reshape(10, 10), np.ones((64, 64), int)).astype(np.uint16)
    prediction = truth.T.astype(np.int64)
    confusion, seconds = ConfusionMatrix(847, 65535), []
    for _ in range(10):
        start = time.thread_time()  # the processor's time, as other programs may run beside the tests
        confusion.update(prediction, truth)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.005


def test_maps_that_were_given_are_not_changed():
    prediction, truth = random_maps(5, 255, seed=0)
    prediction_before, truth_before = prediction.copy(), truth.copy()
    truth_int64 = truth.astype(np.int64)
    counts_of(prediction, truth, 5, 255)
    counts_of(prediction, truth_int64, 5, 255)
    assert np.array_equal(prediction, prediction_before)
    assert np.array_equal(truth, truth_before)
    assert np.array_equal(truth_int64, truth_before)


def test_negative_ignore_label():
    assert counts_of(np.array([[0, 1]]), np.array([[-1, 1]]), 2, -1).tolist() == [[0, 0], [0, 1]]


def test_merged_halves_equal_the_whole():
    pairs = [random_maps(9, 255, seed) for seed in range(6)]
    whole, first, second = (ConfusionMatrix(9) for _ in range(3))
    for i, (prediction, truth) in enumerate(pairs):
        whole.update(prediction, truth)
        (first if i < 2 else second).update(prediction, truth)
    assert not np.array_equal(first.counts, whole.counts)
    first.merge(second)
    assert np.array_equal(first.counts, whole.counts)


def test_merge_refuses_other_classes_or_ignore_label():
    with pytest.raises(ValueError, match=r"3, 255.*4, 255"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match="ignore label"):
        ConfusionMatrix(3).merge(ConfusionMatrix(3, ignore_label=254))


def test_ignore_label_must_not_be_a_class():
    with pytest.raises(ValueError, match="255 is also a class id"):
        ConfusionMatrix(847)
    ConfusionMatrix(847, ignore_label=65535)
    ConfusionMatrix(255, ignore_label=255)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "prediction is 2x3 but truth is 3x2"),
        (np.zeros((2, 2), int), np.array([[0, 4], [9, 255]]), "ids 4, 9 in the truth.*0..3.*255"),
        (np.zeros((1, 2), int), np.array([[0, -1]]), "ids -1 in the truth"),
        (np.array([[0, 4]]), np.array([[0, 0]]), "ids 4 in the prediction"),
        (np.array([[0, -2]]), np.array([[0, 255]]), "ids -2 in the prediction"),
        (np.arange(4, 24).reshape(1, 20), np.zeros((1, 20), int), r"13, ... \(20 ids\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "prediction.*float64.*integers"),
        (np.zeros((1, 2, 2), int), np.zeros((2, 2), int), r"prediction has shape \(1, 2, 2\)"),
        (np.zeros((2, 2), int), np.zeros((2, 2, 3), np.uint8), r"truth has shape \(2, 2, 3\)"),
    ],
)
def test_bad_maps_are_refused_and_not_counted(prediction, truth, message):
    confusion = ConfusionMatrix(4)
    with pytest.raises(ValueError, match=message):
        confusion.update(prediction, truth)
    assert not confusion.counts.any()


# The scores


def test_two_definitions_of_miou_differ_by_hand():
    # Class 0: 3 true pixels, 2 found. Class 1: 1 true pixel, found. Class 2: predicted once, true nowhere.
    metrics = metrics_of([(np.array([[0, 0, 2, 1]]), np.array([[0, 0, 0, 1]]))], num_classes=4)
    assert metrics.class_iou[:2] == pytest.approx((2 / 3, 1.0))
    assert all(map(math.isnan, metrics.class_iou[2:]))
    assert metrics.miou == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.miou_d2_2021 == pytest.approx((2 / 3 + 1) / 3)
    assert metrics.pixel_accuracy == pytest.approx(3 / 4)
    assert metrics.mean_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.fw_iou == pytest.approx(3 / 4 * 2 / 3 + 1 / 4)
    assert metrics.truth_pixels == (3, 1, 0, 0)
    assert metrics.predicted_pixels == (2, 1, 1, 0)


def test_class_predicted_only_on_ignored_pixels_does_not_count_as_predicted():
    metrics = metrics_of([(np.array([[0, 1, 2]]), np.array([[0, 1, 255]]))], num_classes=3)
    assert metrics.miou == metrics.miou_d2_2021 == 1


@pytest.mark.parametrize(("num_classes", "ignore_label"), [(5, 255), (7, 255), (40, 255), (300, 65535), (847, 65535)])
def test_scores_equal_a_count_pixel_by_pixel(num_classes, ignore_label):
    pairs = [random_maps(num_classes, ignore_label, seed) for seed in range(3)]
    expected = brute_force(pairs, num_classes, ignore_label)
    metrics = metrics_of(pairs, num_classes, ignore_label)
    for name, value in expected.items():
        assert getattr(metrics, name) == pytest.approx(value, rel=1e-12, nan_ok=True), name
    assert metrics.miou_d2_2021 < metrics.miou


@pytest.mark.parametrize(("num_classes", "ignore_label"), [(7, 255), (300, 65535)])
def test_scores_equal_torchmetrics(num_classes, ignore_label):
    pairs = [random_maps(num_classes, ignore_label, seed) for seed in range(3)]
    macro, per_class = (
        MulticlassJaccardIndex(num_classes, average=average, ignore_index=ignore_label) for average in ("macro", "none")
    )
    for prediction, truth in pairs:
        for index in (macro, per_class):
            index.update(torch.from_numpy(prediction), torch.from_numpy(truth.astype(np.int64)))
    metrics = metrics_of(pairs, num_classes, ignore_label)
    present = np.array(metrics.truth_pixels) > 0
    assert 0 < present.sum() < num_classes
    reference = per_class.compute().numpy()[present]
    assert np.array(metrics.class_iou)[present] == pytest.approx(reference, rel=1e-5)
    assert metrics.miou == pytest.approx(reference.mean(), rel=1e-5)
    assert metrics.miou_d2_2021 == pytest.approx(macro.compute().item(), rel=1e-5)


def test_nothing_counted_gives_nan_and_null():
    metrics = metrics_of([(np.zeros((1, 1), int), np.array([[255]]))], num_classes=2)
    assert math.isnan(metrics.miou) and math.isnan(metrics.fw_iou)
    assert json.loads(json.dumps(metrics.to_dict(), allow_nan=False))["miou_d2_2021"] is None


def test_to_dict_and_table():
    metrics = metrics_of([(np.array([[0, 0, 2, 1]]), np.array([[0, 0, 0, 1]]))], num_classes=4)
    content = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert content["miou"] == pytest.approx(5 / 6)
    assert content["classes"][1] == {
        "name": "class 1",
        "iou": 1.0,
        "accuracy": 1.0,
        "truth_pixels": 1,
        "predicted_pixels": 1,
    }
    assert content["classes"][2]["iou"] is None
    header, _, values, classes = metrics.table().splitlines()
    assert header.split("|")[1].strip() == "mIoU"
    assert [cell.strip() for cell in values.split("|")[1:3]] == ["83.33", "55.56"]
    assert classes == "4 classes, 2 in the truth, 3 in truth or prediction"


def test_number_of_names_is_checked():
    with pytest.raises(ValueError, match="3 class names given for a matrix of 2"):
        semantic_metrics(ConfusionMatrix(2), ["a", "b", "c"])


# The evaluator


@pytest.fixture
def dataset(tmp_path):
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


def test_inference_on_dataset_resets_and_counts_every_image(dataset, tmp_path):
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
    evaluator = SemanticEvaluator(class_names=names_of(7), ignore_label=255)
    for prediction, truth in pairs[:1] if rank == 0 else pairs[1:]:
        evaluator.process([{"sem_seg_truth": truth}], [{"labels": prediction}])
    evaluator.evaluate()
    result.write_text(json.dumps(evaluator.evaluate()))
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
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
