"""Linear probing: logistic regression against scikit-learn's, the choice of the weight decay, folders of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.preprocessing import StandardScaler

from escnet.data.errors import DatasetError
from escnet.data.image_folders import read_image_folder
from escnet.evaluation.probing import classification
from escnet.evaluation.probing.classification import (
    WEIGHT_DECAYS,
    ClassificationData,
    LogisticRegression,
    held_out_rows,
    labels_as_in,
    probe_classification,
)
from escnet.evaluation.probing.features import Encoding, FeatureStore


def noisy_classes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 6) features of four classes, of which two channels tell something and one is the same everywhere."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    centres = np.array([[0, 0], [2, 0], [0, 2], [2, 2]])[labels]
    noise = random.normal(size=(count, 3)) * [1, 30, 0.01] + [0, 100, 0]
    features = np.hstack([centres + random.normal(size=(count, 2)), noise, np.ones((count, 1))])
    return features.astype(np.float32), labels


@pytest.mark.parametrize("weight_decay", [1e-3, 1e-1])
def test_logistic_regression_equals_scikit_learns(monkeypatch, weight_decay: float) -> None:
    monkeypatch.setattr(classification, "_ROWS", 64)  # several parts
    features, labels = noisy_classes(300)
    model = LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels), 4).fit(weight_decay)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    reference = Reference(C=1 / (weight_decay * len(labels)), max_iter=2000, tol=1e-10).fit(scaled, labels)
    np.testing.assert_allclose(model.weight.detach(), reference.coef_, atol=2e-3)
    fresh, truth = noisy_classes(200, seed=1)
    ours = model.logits(torch.from_numpy(fresh)).softmax(dim=1).detach().numpy()
    fitted = StandardScaler().fit(features.astype(np.float64)).transform(fresh)
    np.testing.assert_allclose(ours, reference.predict_proba(fitted), atol=2e-3)
    accuracy = model.accuracy(torch.from_numpy(fresh), torch.from_numpy(truth))
    assert accuracy == pytest.approx((ours.argmax(axis=1) == truth).mean())


def test_the_weight_decay_is_the_best_on_what_was_held_out() -> None:
    random = np.random.default_rng(0)
    # Many channels that say nothing, so that the weight decay matters.
    train, labels = noisy_classes(400)
    test, truth = noisy_classes(400, seed=1)
    data = ClassificationData(
        np.hstack([train, random.normal(size=(400, 200))]).astype(np.float16),
        labels,
        np.hstack([test, random.normal(size=(400, 200))]).astype(np.float16),
        truth,
        4,
    )
    probe = probe_classification(data, seed=0, device="cpu")
    assert set(probe.held_out) == set(WEIGHT_DECAYS)
    best, worst = max(probe.held_out.values()), min(probe.held_out.values())
    assert best > worst + 0.05
    assert probe.weight_decay == max(decay for decay, score in probe.held_out.items() if score == best)
    features, numbers = torch.from_numpy(data.train), torch.from_numpy(labels)
    held_out = torch.from_numpy(held_out_rows(labels, seed=0))
    rest = LogisticRegression(features[~held_out], numbers[~held_out], 4).fit(WEIGHT_DECAYS[0])
    assert probe.held_out[WEIGHT_DECAYS[0]] == rest.accuracy(features[held_out], numbers[held_out])
    whole = LogisticRegression(features, numbers, 4).fit(probe.weight_decay)
    assert probe.accuracy == whole.accuracy(torch.from_numpy(data.test), torch.from_numpy(truth))


def test_each_class_loses_a_fifth_and_keeps_at_least_one() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2])
    chosen = held_out_rows(labels, seed=3)
    assert np.bincount(labels[chosen], minlength=3).tolist() == [2, 1, 0]
    assert (held_out_rows(labels, 3) == chosen).all()
    assert any((held_out_rows(labels, seed) != chosen).any() for seed in range(4, 9))
    with pytest.raises(ValueError, match="no class has two pictures"):
        held_out_rows(np.arange(4), seed=0)


def test_pictures_in_folders_of_classes(encoder, class_folders: tuple[Path, Path], tmp_path: Path) -> None:
    store = FeatureStore(encoder, Encoding(image_size=8), tmp_path / "f")
    train, test = map(read_image_folder, class_folders)
    data = ClassificationData.load(store, train, test)
    assert data.train.shape == (30, 3) and np.bincount(data.train_labels).tolist() == [10] * 3
    assert probe_classification(data, 0, "cpu").accuracy == 1


def test_classes_are_known_by_name(encoder, class_folders: tuple[Path, Path], tmp_path: Path) -> None:
    store = FeatureStore(encoder, Encoding(image_size=8), tmp_path / "f")
    train = read_image_folder(class_folders[0])
    (class_folders[1] / "blush").rename(tmp_path / "gone")
    part = read_image_folder(class_folders[1])
    assert labels_as_in(part, train).tolist() == [1] * 4 + [2] * 4
    with pytest.raises(DatasetError, match=r"train: the classes blush are not in .*test"):
        ClassificationData.load(store, part, train)
    (class_folders[1] / "leaf").rename(tmp_path / "gone too")
    with pytest.raises(DatasetError, match="test: has 1 class; at least two"):
        ClassificationData.load(store, read_image_folder(class_folders[1]), train)
    assert encoder.images == 0
