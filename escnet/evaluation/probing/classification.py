"""Linear probing: logistic regression on frozen features of whole images (SAM-CLIP, sec. A.2, Table 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.data.errors import DatasetError, listed
from escnet.data.image_folders import ImageFolder
from escnet.evaluation.probing.features import FeatureStore
from escnet.progress import progress_bar

# Tried from strong to weak, each from where the last one ended.
WEIGHT_DECAYS = tuple(10.0**exponent for exponent in range(1, -7, -1))
HELD_OUT = 0.2
_ROWS = 1 << 14


@dataclass(frozen=True)
class ClassificationData:
    """Features and labels of a training set and a test set.

    Attributes:
        train: (n, W) features.
        train_labels: (n,) classes 0..N-1.
        test: (m, W) features.
        test_labels: (m,)
        classes: N.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    classes: int

    @classmethod
    def load(cls, store: FeatureStore, train: ImageFolder, test: ImageFolder) -> ClassificationData:
        """Read the features of two sets, or compute them first.

        Raises:
            DatasetError: the test set has a class that the training set has not, or there are fewer than two.
            ResultsError, ImageError: as of `FeatureStore`.
        """
        if len(train.folders) < 2:
            raise DatasetError(f"{train.root}: has {len(train.folders)} class; at least two are told apart")
        labels = labels_as_in(train, train), labels_as_in(test, train)
        features = [store.pooled(set_name(data), image_files(data)) for data in (train, test)]
        return cls(features[0], labels[0], features[1], labels[1], len(train.folders))


@dataclass(frozen=True)
class LinearProbe:
    """What came of a linear probing.

    Attributes:
        accuracy: share of the test set whose class is right.
        weight_decay: that was chosen.
        held_out: accuracy on the part of the training set that was held out, by weight decay.
    """

    accuracy: float
    weight_decay: float
    held_out: dict[float, float]


class LogisticRegression:
    """A multinomial logistic regression on standardised features, fitted with L-BFGS.

    Its weights w and biases b minimise mean(cross entropy) + weight_decay / 2 · ‖w‖².

    Args:
        features: (n, W) of the training set, on the device of the computation, of any float type.
        labels: (n,) int64.
        classes: N.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self._features, self._labels = features, labels
        whole = features.float()
        self._mean = whole.mean(dim=0)
        # A channel that is the same everywhere says nothing, and stays as it is.
        deviation = whole.std(dim=0, correction=0)
        self._scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation)).reciprocal()
        self.weight = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
        self.bias = torch.zeros(classes, device=features.device, requires_grad=True)

    def fit(self, weight_decay: float, iterations: int = 200) -> LogisticRegression:
        """Minimise from where the weights are; returns itself.

        Raises:
            ValueError: the loss is not finite.
        """
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=iterations,
            tolerance_grad=1e-6,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = 0.5 * weight_decay * self.weight.square().sum()
            total.backward()
            total = total.detach()
            # In parts, so that the logits of a large training set need not be held at once.
            for features, labels in zip(self._features.split(_ROWS), self._labels.split(_ROWS), strict=True):
                loss = F.cross_entropy(self.logits(features), labels, reduction="sum") / len(self._labels)
                loss.backward()
                total += loss.detach()
            return total

        loss = optimizer.step(closure)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss of the logistic regression is {loss.item()} at a weight decay of {weight_decay}"
            )
        return self

    def logits(self, features: Tensor) -> Tensor:
        """(n, W) -> (n, N)"""
        return F.linear((features.float() - self._mean) * self._scale, self.weight, self.bias)

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """The share of features (n, W) whose likeliest class is that of `labels` (n,)."""
        parts = zip(features.split(_ROWS), labels.split(_ROWS), strict=True)
        right = sum((self.logits(some).argmax(dim=1) == theirs).sum().item() for some, theirs in parts)
        return right / len(labels)


def probe_classification(data: ClassificationData, seed: int, device: torch.device | str) -> LinearProbe:
    """Choose the weight decay on a part of the training set that is held out, fit all of it, and judge on the test set.

    Args:
        data: features and labels.
        seed: of which pictures are held out.
        device: of the computation.

    Raises:
        ValueError: no class has two pictures, so that nothing can be held out.
    """
    train, labels = _on(data.train, device), torch.from_numpy(data.train_labels).to(device)
    held_out = torch.from_numpy(held_out_rows(data.train_labels, seed)).to(device)
    model = LogisticRegression(train[~held_out], labels[~held_out], data.classes)
    scores = {}
    for weight_decay in progress_bar(WEIGHT_DECAYS, total=len(WEIGHT_DECAYS), desc=f"linear probing, seed {seed}"):
        scores[weight_decay] = model.fit(weight_decay).accuracy(train[held_out], labels[held_out])
    best = max(WEIGHT_DECAYS, key=scores.__getitem__)  # of equal ones the first, which is the strongest
    final = LogisticRegression(train, labels, data.classes).fit(best)
    accuracy = final.accuracy(_on(data.test, device), torch.from_numpy(data.test_labels).to(device))
    return LinearProbe(accuracy, best, scores)


def held_out_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    """(n,) bool: about a fifth of the pictures of each class; of a class with one picture none.

    Raises:
        ValueError: no class has two pictures.
    """
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(len(rows) - 1, max(1, round(HELD_OUT * len(rows))))
        chosen[random.permutation(rows)[:count]] = True
    if not chosen.any():
        raise ValueError("no class has two pictures, so none can be held out to choose the weight decay with")
    return chosen


def labels_as_in(folder: ImageFolder, other: ImageFolder) -> np.ndarray:
    """(n,) int64 labels of the pictures of a set, by the classes of another one.

    Raises:
        DatasetError: one of the classes is not there.
    """
    numbers = {name: number for number, name in enumerate(other.folders)}
    strange = [name for name in folder.folders if name not in numbers]
    if strange:
        raise DatasetError(f"{folder.root}: the classes {listed(strange, 5)} are not in {other.root}")
    return np.array([numbers[folder.folders[image.label]] for image in folder.images], dtype=np.int64)


def image_files(folder: ImageFolder) -> list[str]:
    """The paths of the pictures of a set."""
    return [str(folder.root / image.name) for image in folder.images]


def set_name(folder: ImageFolder) -> str:
    """The last two parts of the path of a set: what it and its features are called."""
    return "_".join(folder.root.resolve().parts[-2:]).replace("/", "")


def _on(features: np.ndarray, device: torch.device | str) -> Tensor:
    # Copied out of the file, as they are read over and over.
    return torch.from_numpy(np.array(features)).to(device)
