"""The confusion matrix and its scores against torchmetrics, a pixel-by-pixel count and hand-worked cases."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics


def names_of(num_classes: int) -> list[str]:
    return [f"class {i}" for i in range(num_classes)]


def counts_of(prediction, truth, num_classes: int, ignore_label: int) -> np.ndarray:
    confusion = ConfusionMatrix(num_classes, ignore_label)
    confusion.update(prediction, truth)
    return confusion.counts


def metrics_of(pairs, num_classes: int, ignore_label: int = 255, scored=None):
    confusion = ConfusionMatrix(num_classes, ignore_label)
    for prediction, truth in pairs:
        confusion.update(prediction, truth)
    return semantic_metrics(confusion, names_of(num_classes), scored)


def test_rows_are_truth_and_ignored_pixels_count_nowhere():
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([[0, 1, 1], [2, 2, 0]]), np.array([[0, 0, 255], [2, 1, 255]], dtype=np.uint8))
    assert confusion.counts.dtype == np.int64
    assert confusion.counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_integer_type_of_either_map_does_not_matter(dtype, random_maps):
    prediction, truth = (ids.astype(np.int64) for ids in random_maps(100, 120, seed=3))
    reference = counts_of(prediction, truth, 100, 120)
    assert reference.sum() == (truth != 120).sum()
    assert np.array_equal(counts_of(prediction.astype(dtype), truth, 100, 120), reference)
    assert np.array_equal(counts_of(prediction, truth.astype(dtype), 100, 120), reference)


def test_tensors_and_arrays_give_the_same_counts(random_maps):
    prediction, truth = random_maps(5, 255, seed=0)
    from_tensors = counts_of(torch.from_numpy(prediction), torch.from_numpy(truth), 5, 255)
    assert from_tensors.sum() > 0
    assert np.array_equal(from_tensors, counts_of(prediction, truth, 5, 255))


def test_images_larger_than_a_strip_and_not_contiguous(random_maps):
    prediction, truth = random_maps(50, 255, seed=0, size=(300, 701))
    expected = np.zeros((50, 50), dtype=np.int64)
    for true_id in range(50):
        expected[true_id] = np.bincount(prediction[truth == true_id], minlength=50)
    assert np.array_equal(counts_of(prediction, truth, 50, 255), expected)
    assert np.array_equal(counts_of(prediction[:, ::-1], truth[:, ::-1], 50, 255), expected)
    assert np.array_equal(counts_of(prediction.T, truth.T, 50, 255), expected)


def test_maps_that_were_given_are_not_changed(random_maps):
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


def test_merged_halves_equal_the_whole(random_maps):
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
def test_scores_equal_a_count_pixel_by_pixel(num_classes, ignore_label, random_maps, brute_force):
    pairs = [random_maps(num_classes, ignore_label, seed) for seed in range(3)]
    expected = brute_force(pairs, num_classes, ignore_label)
    metrics = metrics_of(pairs, num_classes, ignore_label)
    for name, value in expected.items():
        assert getattr(metrics, name) == pytest.approx(value, rel=1e-12, nan_ok=True), name
    assert metrics.miou_d2_2021 < metrics.miou


@pytest.mark.parametrize(("num_classes", "ignore_label"), [(7, 255), (300, 65535)])
def test_scores_equal_torchmetrics(num_classes, ignore_label, random_maps):
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


# Scores of a part of the classes

# Classes 0 and 1 are ground, 2 to 4 objects. One pixel of class 0 is taken for class 2, one for class 4, which is
# nowhere in the truth.
GROUND = (np.array([[0, 2, 4, 1, 2, 0, 3, 3, 3]]), np.array([[0, 0, 0, 1, 2, 2, 3, 3, 3]]))


def test_means_are_over_the_scored_classes_alone_by_hand():
    metrics, of_all = metrics_of([GROUND], 5, scored=(2, 5)), metrics_of([GROUND], 5)
    # Class 2 is right once, missed once, and said once of the ground: 1/3. Class 3 is right.
    assert metrics.miou == pytest.approx((1 / 3 + 1) / 2)
    assert metrics.miou_d2_2021 == pytest.approx((1 / 3 + 1) / 3)
    assert metrics.mean_accuracy == pytest.approx((1 / 2 + 1) / 2)
    # Of these, all classes and pixels count.
    assert metrics.pixel_accuracy == of_all.pixel_accuracy == pytest.approx(6 / 9)
    assert metrics.fw_iou == of_all.fw_iou == pytest.approx((3 * 1 / 4 + 1 + 2 * 1 / 3 + 3) / 9)
    assert metrics.class_iou[:4] == of_all.class_iou[:4] == pytest.approx((1 / 4, 1, 1 / 3, 1))
    assert metrics.class_accuracy[:4] == of_all.class_accuracy[:4] == pytest.approx((1 / 3, 1, 1 / 2, 1))
    assert of_all.miou == pytest.approx((1 / 4 + 1 + 1 / 3 + 1) / 4)


def test_which_classes_are_scored_is_told():
    metrics = metrics_of([GROUND], 5, scored=(2, 5))
    assert metrics.to_dict()["scored_classes"] == [2, 5] and len(metrics.to_dict()["classes"]) == 5
    line = metrics.table().splitlines()[-1]
    assert line == "mIoU over 3 of 5 classes (ids 2..4), 2 in the truth, 3 in truth or prediction"
    assert set(metrics.percentages()) == set(metrics_of([GROUND], 5).percentages())


def test_all_classes_spelt_out_are_all_classes():
    spelt_out, of_all = metrics_of([GROUND], 5, scored=[0, 5]), metrics_of([GROUND], 5)
    assert spelt_out.scored is of_all.scored is None and "scored_classes" not in of_all.to_dict()
    assert spelt_out.to_dict() == of_all.to_dict() and spelt_out.table() == of_all.table()


@pytest.mark.parametrize(("num_classes", "scored"), [(7, (0, 5)), (40, (12, 40)), (40, (5, 30)), (300, (99, 300))])
def test_scores_of_a_part_equal_a_count_pixel_by_pixel(num_classes, scored, random_maps, brute_force):
    pairs = [random_maps(num_classes, 65535, seed) for seed in range(3)]
    expected = brute_force(pairs, num_classes, 65535, range(*scored))
    metrics = metrics_of(pairs, num_classes, 65535, scored)
    for name, value in expected.items():
        assert getattr(metrics, name) == pytest.approx(value, rel=1e-12, nan_ok=True), name
    assert metrics.miou != metrics_of(pairs, num_classes, 65535).miou


def test_no_scored_class_in_the_truth_gives_nan():
    ground = (np.array([[0, 0, 1]]), np.array([[0, 1, 1]]))
    metrics = metrics_of([ground], 5, scored=(2, 5))
    assert all(map(math.isnan, (metrics.miou, metrics.miou_d2_2021, metrics.mean_accuracy)))
    assert metrics.pixel_accuracy == pytest.approx(2 / 3) and metrics.to_dict()["miou"] is None
    # One that is predicted all the same counts as 0 in the older definition.
    metrics = metrics_of([(np.array([[0, 3, 1]]), ground[1])], 5, scored=(2, 5))
    assert math.isnan(metrics.miou) and metrics.miou_d2_2021 == 0


@pytest.mark.parametrize("scored", [(2, 6), (-1, 3), (3, 3), (4, 2), (5, 6), (2,), (2, 3, 4), (0.0, 2.0), range(2, 5)])
def test_scored_classes_that_are_none_are_refused(scored):
    with pytest.raises(ValueError, match=r"the scored classes are \(.*of 5 classes.*end <= 5, or None for all"):
        metrics_of([GROUND], 5, scored=scored)


# Entries, in which the matrix of an image is kept on disk


def test_entries_give_the_matrix_back(random_maps):
    total, sparse = ConfusionMatrix(40, 255), ConfusionMatrix(40, 255)
    for seed in range(3):
        one = ConfusionMatrix(40, 255)
        one.update(*random_maps(40, 255, seed))
        total.merge(one)
        sparse.add_entries(one.entries())
    assert np.array_equal(sparse.counts, total.counts) and total.counts.any()


def test_entries_by_hand():
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([[0, 1, 1], [2, 2, 0]]), np.array([[0, 0, 255], [2, 1, 0]]))
    assert confusion.entries().tolist() == [[0, 0, 2], [0, 1, 1], [1, 2, 1], [2, 2, 1]]
    assert ConfusionMatrix(3).entries().shape == (0, 3)


@pytest.mark.parametrize("entries", [[[0, 3, 1]], [[-1, 0, 1]], [[0, 0, 0]], [[0, 0, -2]]])
def test_entries_that_cannot_be_are_refused(entries):
    confusion = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"outside 0\.\.2, or without pixels"):
        confusion.add_entries(entries)
    assert not confusion.counts.any()
