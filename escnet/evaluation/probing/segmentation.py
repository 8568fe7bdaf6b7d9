"""Head probing: a segmentation head trained on frozen features, and its mIoU (SAM-CLIP, sec. A.2, Table 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from escnet.data.benchmarks import dataset_folder_name
from escnet.data.images import read_labels
from escnet.data.labelled import labelled_split
from escnet.evaluation.confusion import ConfusionMatrix, SemanticMetrics, semantic_metrics
from escnet.evaluation.probing.features import FeatureStore
from escnet.evaluation.probing.heads import HEADS
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.losses.segmentation import segmentation_loss
from escnet.meta_arch.label_map import label_map
from escnet.progress import progress_bar


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained: AdamW, a half cosine to zero, no augmentation, since the features are computed once.

    Attributes:
        epochs: passes over the training set.
        batch_size: images.
        learning_rate: at the start.
        weight_decay: of all weights.
    """

    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                f"{self.epochs} epochs at a learning rate of {self.learning_rate:g} and a weight decay of "
                f"{self.weight_decay:g}: the first two have to be positive, the last 0 or more"
            )
        if self.batch_size < 2:
            raise ValueError(f"the batch size is {self.batch_size}; the heads normalise over batches of 2 and more")


@dataclass(frozen=True)
class HeadData:
    """The features and labels of a training set and a test set, each computed at most once.

    Attributes:
        train: (n, W, h, w) features.
        targets: (n, L, L) labels of the training set, -1 where ignored.
        test: (m, W, h, w) features.
        truth: the test set.
        rows: of the training set that a head is trained on; None for all.
    """

    train: np.ndarray
    targets: np.ndarray
    test: np.ndarray
    truth: EvaluationData
    rows: np.ndarray | None = None

    @classmethod
    def load(cls, store: FeatureStore, train: EvaluationData, test: EvaluationData) -> HeadData:
        """Read the features and labels of two sets, or compute them first.

        Raises:
            ValueError: the sets have other classes, or the training set fewer than 2 images.
            ResultsError, ImageError: as of `FeatureStore`.
        """
        if train.class_names != test.class_names:
            raise ValueError(
                f"{train.dataset} has {len(train.class_names)} classes and {test.dataset} {len(test.class_names)}, but "
                "a head knows those that it was trained on: both sets need the same classes in the same order"
            )
        _require_several(train.dataset, len(train.records))
        names = [dataset_folder_name(data.dataset) for data in (train, test)]
        files = [[record["file_name"] for record in data.records] for data in (train, test)]
        return cls(
            store.maps(names[0], files[0]),
            store.targets(names[0], train.records, train.space),
            store.maps(names[1], files[1]),
            test,
        )

    def labelled(self, cfg: CfgNode, train: EvaluationData, seed: int) -> HeadData:
        """With the images of the training set that LABELLED chooses for a seed, without those that it holds out.

        Args:
            cfg: the config, whose SEED gives way to `seed`: where LABELLED.SEED is -1, each seed has images of its own.
            train: the training set that was loaded.
            seed: of the head.

        Raises:
            DatasetError: the set has not as many images as LABELLED asks for.
            ValueError: fewer than 2 are left.
        """
        own = cfg.clone()
        own.defrost()
        own.SEED = seed
        chosen = set(map(id, labelled_split(own, train.records).training))
        rows = np.array([row for row, record in enumerate(train.records) if id(record) in chosen])
        _require_several(train.dataset, len(rows))
        return replace(self, rows=rows)


def probe_head(name: str, data: HeadData, recipe: HeadRecipe, seed: int, device: torch.device | str) -> SemanticMetrics:
    """Train a head and judge it on the test set, at the size of its label maps.

    Args:
        name: one of `HEADS`.
        data: features and labels.
        recipe: how it is trained.
        seed: of its weights and the order of the images.
        device: where it is trained.

    Raises:
        ValueError: the loss is no longer finite, or a label map of the test set holds unknown ids.
    """
    head = train_head(HEADS[name], data, recipe, seed, device, title=f"{name}, seed {seed}")
    return evaluate_head(head, data.test, data.truth, device)


def train_head(
    build: Callable[[int, int], nn.Module],
    data: HeadData,
    recipe: HeadRecipe,
    seed: int,
    device: torch.device | str,
    title: str = "head",
) -> nn.Module:
    """Train a head on features; arguments and errors as of `probe_head`, `build` from W and N."""
    width = data.train.shape[1]
    chosen = np.arange(len(data.train)) if data.rows is None else data.rows
    count = len(chosen)
    batch = min(recipe.batch_size, count)
    # What is left over at the end of an epoch is left out: a batch of one cannot be normalised.
    steps = recipe.epochs * (count // batch)
    order = np.random.default_rng(seed)
    with torch.random.fork_rng([torch.device(device)] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        head = build(width, len(data.truth.class_names)).to(device).train()
        optimizer = torch.optim.AdamW(head.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with progress_bar(total=steps, desc=title, unit="step") as bar:
            for _ in range(recipe.epochs):
                rows = chosen[order.permutation(count)][: count // batch * batch].reshape(-1, batch)
                for some in rows:
                    loss = _step(head, optimizer, *_batch(data, some, device))
                    schedule.step()
                    bar.update()
                _check_finite(loss, title)
    return head.eval()


@torch.no_grad()
def evaluate_head(
    head: nn.Module, features: np.ndarray, truth: EvaluationData, device: torch.device | str
) -> SemanticMetrics:
    """The scores of a head on a set, at the size of its label maps, by the confusion over all of its pixels.

    Args:
        head: in evaluation mode.
        features: (m, W, h, w) of the images of the set.
        truth: the set.
        device: where the head is.

    Raises:
        ValueError: a label map holds unknown ids.
    """
    confusion = ConfusionMatrix(len(truth.class_names), truth.space.ignore_label)
    for record, row in zip(truth.records, features, strict=True):
        labels = read_labels(record["sem_seg_file_name"], truth.space.bits)
        logits = head(_to_tensor(row[None], device))[0]
        try:
            confusion.update(label_map(logits, labels.shape)[0], labels)
        except ValueError as error:
            raise ValueError(f"{record['sem_seg_file_name']}: {error}") from error
    return semantic_metrics(confusion, truth.class_names, truth.scored)


def _require_several(dataset: str, images: int) -> None:
    if images < 2:
        raise ValueError(f"{dataset}: {images} image to train on; the heads need 2 or more")


def _step(head: nn.Module, optimizer: torch.optim.Optimizer, features: Tensor, targets: Tensor) -> Tensor:
    loss = segmentation_loss(head(features), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def _batch(data: HeadData, rows: np.ndarray, device: torch.device | str) -> tuple[Tensor, Tensor]:
    # Sorted, they are read from the disk in order.
    rows = np.sort(rows)
    return _to_tensor(data.train[rows], device), torch.from_numpy(data.targets[rows].astype(np.int64)).to(device)


def _to_tensor(features: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(features.astype(np.float32)).to(device)


def _check_finite(loss: Tensor, title: str) -> None:
    if not math.isfinite(loss.item()):
        raise ValueError(f"{title}: the loss is {loss.item()}; lower --learning-rate")
