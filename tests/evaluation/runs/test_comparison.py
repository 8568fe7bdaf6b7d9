"""Tests of the comparison of two runs: against a bootstrap by hand of explicit confusion matrices."""

from __future__ import annotations

import csv
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics
from escnet.evaluation.runs.bootstrap import pixel_counts, resamples
from escnet.evaluation.runs.comparable import ComparisonError, paired_runs
from escnet.evaluation.runs.comparison import Comparison, compare_runs, write_csv
from escnet.evaluation.runs.conditions import SCORED
from escnet.evaluation.runs.image_results import ImageResult, ImageResults, ResultsError

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def write_run(folder: Path, pairs: Pairs, names: list[str], model: str = "M", dataset: str = "d", **conditions) -> Path:
    """A run in which each image has the given (prediction, truth); 255 is ignored."""
    results = ImageResults(folder)
    for rank, (image, (prediction, truth)) in enumerate(pairs.items()):
        confusion = ConfusionMatrix(len(names))
        confusion.update(prediction, truth)
        results.close()
        results.add(
            ImageResult(image, *truth.shape, 0.1, confusion.entries(), zlib.crc32(np.ascontiguousarray(truth))),
            rank % 2,
        )
    results.close()
    description = {"conditions": conditions, "title": "D", "dataset": dataset, "model": model, "class_names": names}
    (folder / "run.json").write_text(json.dumps(description))
    return folder


def random_pairs(images: int, classes: int, right: float, seed: int = 0) -> Pairs:
    """Random truth, the same for each `right`, and a prediction that has this share of the pixels right."""
    pairs = {}
    for i in range(images):
        generator = np.random.default_rng([seed, i])
        # The last class is in the first image only; each image has a few of the others.
        own = generator.choice(classes - 1, 3)
        truth = own[generator.integers(0, 3, (8, 8))]
        if i == 0:
            truth[:4] = classes - 1
        truth[0, 0] = 255
        noise = generator.integers(0, classes, truth.shape)
        is_right = np.random.default_rng([seed, i, int(1000 * right)]).random(truth.shape) < right
        pairs[f"image {i}"] = (np.where(is_right & (truth != 255), truth, noise), truth)
    return pairs


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def by_hand(
    a: Pairs, b: Pairs, classes: int, samples: int, seed: int, scored: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Changes of (miou, pixel accuracy, fwIoU) (S, 3) and of the class IoU (S, N), by explicit confusion matrices."""
    images = sorted(a)
    generator = np.random.default_rng(seed)
    scores, ious = [], []
    for _ in range(samples):
        drawn = generator.integers(0, len(images), len(images))
        metrics = []
        for pairs in (a, b):
            confusion = ConfusionMatrix(classes)
            for i in drawn:
                confusion.update(*pairs[images[i]])
            metrics.append(semantic_metrics(confusion, names(classes), scored))
        ours, theirs = metrics
        scores.append([getattr(theirs, f) - getattr(ours, f) for f in ("miou", "pixel_accuracy", "fw_iou")])
        ious.append(np.subtract(theirs.class_iou, ours.class_iou))
    return np.array(scores), np.array(ious)


def test_equals_a_bootstrap_by_explicit_confusion_matrices(tmp_path: Path) -> None:
    classes, samples = 6, 300
    a, b = random_pairs(7, classes, 0.4), random_pairs(7, classes, 0.6)
    folders = [write_run(tmp_path / name, pairs, names(classes)) for name, pairs in (("a", a), ("b", b))]
    compared = compare_runs(*folders, samples=samples, seed=5, confidence=0.9)
    scores, ious = by_hand(a, b, classes, samples, seed=5)
    assert np.isnan(ious[:, -1]).any(), "the case has no class that is absent from some resamples"
    for found, change in zip(compared.scores + compared.classes, [*scores.T, *ious.T], strict=True):
        change = change[~np.isnan(change)]
        assert found.resamples == len(change)
        assert [found.low, found.high] == pytest.approx(np.percentile(change, [5, 95]).tolist(), abs=1e-12)
        assert found.share_b_higher == pytest.approx((change > 0).mean())


def test_the_mean_over_scored_classes_equals_a_bootstrap_by_explicit_confusion_matrices(tmp_path: Path) -> None:
    classes, samples, scored = 6, 200, (4, 6)
    a, b = random_pairs(7, classes, 0.4), random_pairs(7, classes, 0.6)
    data = {SCORED: list(scored)}
    folders = [write_run(tmp_path / name, pairs, names(6), data=data) for name, pairs in (("a", a), ("b", b))]
    compared = compare_runs(*folders, samples=samples, seed=5, confidence=0.9)
    assert compared.a.scored == scored and compared.scores[0].name == "mIoU over 2 of 6 classes (ids 4..5)"
    scores, _ = by_hand(a, b, classes, samples, 5, scored)
    of_all, _ = by_hand(a, b, classes, samples, 5)
    assert np.abs(scores[:, 0] - of_all[:, 0]).max() > 0.01 and np.array_equal(scores[:, 1:], of_all[:, 1:])
    for found, change in zip(compared.scores, scores.T, strict=True):
        change = change[~np.isnan(change)]
        assert found.resamples == len(change)
        assert [found.low, found.high] == pytest.approx(np.percentile(change, [5, 95]).tolist(), abs=1e-12)
    assert compared.conditions == []


def test_images_and_resamples_without_a_scored_class_do_not_count_for_the_mean(tmp_path: Path) -> None:
    pairs = random_pairs(9, 6, 0.5)  # the last class is in one image
    folder = write_run(tmp_path / "one", pairs, names(7), data={SCORED: [5, 7]})
    miou, accuracy, _ = compare_runs(folder, folder, samples=60).scores
    assert miou.images == 1 and 0 < miou.resamples < 60 and (accuracy.images, accuracy.resamples) == (9, 60)
    nowhere = write_run(tmp_path / "none", pairs, names(7), data={SCORED: [6, 7]})
    miou = compare_runs(nowhere, nowhere, samples=60).scores[0]
    assert math.isnan(miou.a) and (miou.images, miou.resamples) == (0, 0)


def test_runs_that_score_other_classes_are_refused(tmp_path: Path) -> None:
    pairs = random_pairs(2, 6, 0.5)
    a = write_run(tmp_path / "a", pairs, names(6))
    b, c = (write_run(tmp_path / n, pairs, names(6), data={SCORED: s}) for n, s in (("b", [1, 6]), ("c", [2, 6])))
    message = r"A has mIoU \(.*a\), B has mIoU over 5 of 6 classes \(ids 1\.\.5\) \(.*b\); evaluate both"
    with pytest.raises(ComparisonError, match=rf"the scored classes differ: {message}"):
        compare_runs(a, b)
    with pytest.raises(ComparisonError, match="the scored classes differ"):
        compare_runs(b, c)
    for number, wrong in enumerate(([2, 7], "all", 3)):
        broken = write_run(tmp_path / f"broken {number}", pairs, names(6), data={SCORED: wrong})
        with pytest.raises(ResultsError, match=r"run\.json: is not the description of a run"):
            compare_runs(a, broken)
    spelt_out = write_run(tmp_path / "all", pairs, names(6), data={SCORED: [0, 6]})
    assert compare_runs(a, spelt_out, samples=1).scores[0].name == "mIoU"


def test_point_estimates_are_those_of_the_evaluation(tmp_path: Path) -> None:
    pairs = random_pairs(5, 6, 0.5)
    folder = write_run(tmp_path, pairs, names(8))  # two of the classes occur nowhere in the truth
    metrics = semantic_metrics(ImageResults(folder).confusion(8), names(8))
    compared = compare_runs(folder, folder, samples=2)
    assert [found.name for found in compared.scores] == ["mIoU", "pixel accuracy", "fwIoU"]
    assert [found.a for found in compared.scores] == pytest.approx(
        [metrics.miou, metrics.pixel_accuracy, metrics.fw_iou], abs=1e-14
    )
    assert [found.a for found in compared.classes] == pytest.approx(metrics.class_iou, abs=1e-14, nan_ok=True)
    assert [found.name for found in compared.classes] == list(metrics.class_names)


def test_identical_runs_do_not_differ_at_all(tmp_path: Path) -> None:
    pairs = random_pairs(6, 6, 0.5)
    folders = [write_run(tmp_path / name, pairs, names(6), lr=0.1) for name in "ab"]
    compared = compare_runs(*folders, samples=50)
    for found in compared.scores + compared.classes:
        assert (found.difference, found.low, found.high, found.share_b_higher) == (0, 0, 0, 0)
        assert not compared.is_clear(found)
    assert compared.conditions == []


def test_a_case_by_hand(tmp_path: Path) -> None:
    truth = np.array([[0, 0, 1, 1]])
    wrong = np.array([[0, 0, 0, 1]])
    # A is wrong in image x, B in neither. IoU in x: 2/3 and 1/2.
    a = write_run(tmp_path / "a", {"x": (wrong, truth), "y": (truth, truth)}, ["p", "q"])
    b = write_run(tmp_path / "b", {"x": (truth, truth), "y": (truth, truth)}, ["p", "q"])
    compared = compare_runs(a, b, samples=4000, confidence=0.5)
    # Both images: p 4/5, q 3/4. Drawn are xx, xy or yx, yy with probabilities 1/4, 1/2, 1/4.
    assert [found.difference for found in compared.classes] == pytest.approx([1 / 5, 1 / 4])
    assert compared.scores[0].difference == pytest.approx(1 - (4 / 5 + 3 / 4) / 2)
    assert compared.scores[1].difference == pytest.approx(1 / 8)
    assert compared.scores[0].share_b_higher == pytest.approx(3 / 4, abs=0.03)
    extremes = compare_runs(a, b, samples=200, confidence=0.999).classes[1]
    assert (extremes.low, extremes.high) == pytest.approx((0, 1 / 2))


def test_finds_a_real_improvement_and_not_an_imagined_one(tmp_path: Path) -> None:
    better, same, worse = random_pairs(40, 6, 0.6), random_pairs(40, 6, 0.501), random_pairs(40, 6, 0.5)
    base = write_run(tmp_path / "a", worse, names(6))
    up = compare_runs(base, write_run(tmp_path / "b", better, names(6)), samples=300)
    assert up.scores[0].low > 0.02 and up.scores[0].share_b_higher == 1 and up.is_clear(up.scores[0])
    down = compare_runs(tmp_path / "b", base, samples=300)
    assert (down.scores[0].low, down.scores[0].high) == pytest.approx((-up.scores[0].high, -up.scores[0].low))
    equal = compare_runs(base, write_run(tmp_path / "c", same, names(6)), samples=300)
    assert equal.scores[0].low < 0 < equal.scores[0].high and not equal.is_clear(equal.scores[0])


def test_a_class_in_one_image_is_never_called_clear(tmp_path: Path) -> None:
    a, b = random_pairs(30, 6, 0.2), random_pairs(30, 6, 0.95)
    compared = compare_runs(write_run(tmp_path / "a", a, names(6)), write_run(tmp_path / "b", b, names(6)), 200)
    last = compared.classes[-1]
    assert last.images == 1 and last.resamples < 200 and last.excludes_zero and not compared.is_clear(last)
    assert compared.least_images == 6 and compared.classes[0].images >= 6 and compared.is_clear(compared.classes[0])
    assert compared.scores[0].images == 30


def test_resamples_are_drawn_row_by_row_whatever_the_chunks() -> None:
    weights = np.concatenate(list(resamples(images=5, samples=600, seed=3)))
    assert weights.shape == (600, 5) and (weights.sum(axis=1) == 5).all()
    generator = np.random.default_rng(3)
    for row in weights:
        assert np.array_equal(row, np.bincount(generator.integers(0, 5, 5), minlength=5))
    assert not np.array_equal(weights, np.concatenate(list(resamples(5, 600, 4))))


def test_an_image_without_labels_and_one_without_entries_count_for_nothing(tmp_path: Path) -> None:
    pairs = random_pairs(3, 4, 0.5)
    pairs["ignored"] = (np.zeros((2, 2), int), np.full((2, 2), 255))
    folder = write_run(tmp_path / "with", pairs, names(4))
    found = compare_runs(folder, folder, samples=30).scores[0]
    without = write_run(tmp_path / "without", random_pairs(3, 4, 0.5), names(4))
    assert found.a == pytest.approx(compare_runs(without, without, samples=1).scores[0].a)
    only = write_run(tmp_path / "only", {"ignored": pairs["ignored"]}, names(4))
    nothing = compare_runs(only, only, samples=10)
    assert all(math.isnan(found.difference) and found.resamples == 0 for found in nothing.scores + nothing.classes)


def test_conditions_that_differ_are_named(tmp_path: Path) -> None:
    pairs = random_pairs(2, 4, 0.5)
    a = write_run(tmp_path / "a", pairs, names(4), "M", inference={"window": 384, "overlap": 0.3})
    b = write_run(tmp_path / "b", pairs, names(4), "N", inference={"window": 336, "overlap": 0.3})
    compared = compare_runs(a, b, samples=1)
    assert compared.conditions == [("inference.window", 384, 336)]
    assert (compared.a.model, compared.b.model) == ("M", "N")


def test_runs_of_other_images_or_classes_or_truth_are_refused(tmp_path: Path) -> None:
    pairs = random_pairs(6, 4, 0.5)
    a = write_run(tmp_path / "a", pairs, names(4))
    fewer = write_run(tmp_path / "b", {k: v for k, v in pairs.items() if k not in ("image 1", "image 4")}, names(4))
    with pytest.raises(ComparisonError, match=r"2 images are only in A \(.*a\): image 1, image 4"):
        compare_runs(a, fewer)
    renamed = write_run(tmp_path / "c", pairs, [*names(3), "other"])
    with pytest.raises(ComparisonError, match=r"differ at id 3: 'class 3' in .*, 'other' in"):
        compare_runs(a, renamed)
    with pytest.raises(ComparisonError, match=r"4 in A .*, 5 in B"):
        compare_runs(a, write_run(tmp_path / "d", pairs, names(5)))
    flipped = {k: (p[::-1], t[::-1]) if k == "image 2" else (p, t) for k, (p, t) in pairs.items()}
    with pytest.raises(ComparisonError, match="truth of 1 images, such as 'image 2'"):
        compare_runs(a, write_run(tmp_path / "e", flipped, names(4)))


def test_missing_or_damaged_files_and_senseless_numbers_are_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", random_pairs(2, 4, 0.5), names(4))
    with pytest.raises(ValueError, match="0 resamples"):
        compare_runs(a, a, samples=0)
    with pytest.raises(ValueError, match="confidence of 95"):
        compare_runs(a, a, confidence=95)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match=r"empty/run\.json: does not exist"):
        compare_runs(a, tmp_path / "empty")
    (tmp_path / "empty" / "run.json").write_text((a / "run.json").read_text())
    with pytest.raises(ComparisonError, match="no results"):
        compare_runs(a, tmp_path / "empty")
    (tmp_path / "empty" / "run.json").write_text("{")
    with pytest.raises(ResultsError, match=r"run\.json: cannot be read"):
        compare_runs(a, tmp_path / "empty")
    (tmp_path / "empty" / "run.json").write_text('{"model": "M"}')
    with pytest.raises(ResultsError, match="class_names"):
        compare_runs(a, tmp_path / "empty")
    with pytest.raises(ComparisonError, match=r"'x' has ids outside 0\.\.2"):
        pixel_counts([ImageResult("x", 1, 1, 0.1, np.array([[3, 0, 1]]), 0)], 3)


def output(folder: Path, runs: dict[str, list[str]]) -> Path:
    for model, datasets in runs.items():
        for dataset in datasets:
            write_run(folder / model / dataset, random_pairs(2, 4, 0.5), names(4), model, dataset)
    return folder


def test_outputs_are_paired_by_model_and_dataset(tmp_path: Path) -> None:
    a = output(tmp_path / "a", {"M": ["x", "y"], "N": ["x"]})
    b = output(tmp_path / "b", {"M": ["y"], "N": ["x", "z"]})
    pairs, alone = paired_runs(a, b)
    assert pairs == [(a / "M" / "y", b / "M" / "y"), (a / "N" / "x", b / "N" / "x")]
    assert alone == [f"{a / 'M' / 'x'} is only in A", f"{b / 'N' / 'z'} is only in B"]


def test_two_outputs_of_one_model_each_are_paired_by_dataset(tmp_path: Path) -> None:
    a, b = output(tmp_path / "a", {"M": ["x", "y"]}), output(tmp_path / "b", {"N": ["x"]})
    assert paired_runs(a, b)[0] == [(a / "M" / "x", b / "N" / "x")]
    assert paired_runs(a / "M" / "x", b / "N" / "x") == ([(a / "M" / "x", b / "N" / "x")], [])
    with pytest.raises(ResultsError, match="no model and dataset is in both"):
        paired_runs(a, output(tmp_path / "c", {"N": ["z"]}))
    with pytest.raises(ResultsError, match="is the folder of one run, but"):
        paired_runs(a, b / "N" / "x")
    with pytest.raises(ResultsError, match="neither a run nor an output"):
        paired_runs(a, tmp_path / "nowhere")


def test_the_csv_has_every_class(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", random_pairs(7, 6, 0.3), names(7))
    b = write_run(tmp_path / "b", random_pairs(7, 6, 0.9), names(7), model="N")
    compared: Comparison = compare_runs(a, b, samples=100)
    write_csv(tmp_path / "out.csv", [compared, compared])
    with open(tmp_path / "out.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 14 and rows[:7] == rows[7:]
    first, last = rows[0], rows[6]
    assert (first["dataset"], first["model_a"], first["model_b"], first["id"], first["name"]) == (
        *("d", "M", "N", "0"),
        "class 0",
    )
    expected = compared.classes[0]
    assert float(first["difference"]) == pytest.approx(expected.difference, abs=1e-6)
    assert (float(first["low"]), float(first["high"])) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert int(first["images"]) == expected.images and first["clear"] == str(compared.is_clear(expected))
    assert (last["iou_a"], last["low"], last["resamples"]) == ("", "", "0"), "absent from the truth"
