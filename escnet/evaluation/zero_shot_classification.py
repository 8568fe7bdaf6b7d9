"""Zero-shot classification: an image is given the class of the most similar words (Radford et al., sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from escnet.data.image_folders import ImageFolder, NamedClasses
from escnet.evaluation.classification import rank_of_right
from escnet.evaluation.embeddings import EmbeddingOptions, EmbeddingStore, ImageEmbeddings, embed_images
from escnet.meta_arch.interfaces import ClassifyingModel
from escnet.vocabulary import Vocabulary

_ROWS = 1024


class ClassAccuracy(NamedTuple):
    """Accuracy of the images of one class.

    Attributes:
        words: of the class.
        images: how many it has.
        top1, top5: in 0..1; None where it has no images.
    """

    words: str
    images: int
    top1: float | None
    top5: float | None


@dataclass(frozen=True)
class ClassificationScores:
    """Shares in 0..1.

    Attributes:
        top1, top5: images whose class is the most similar one, or among the five most similar.
        mean_class: mean of the top-1 accuracy over classes that have images.
        images: how many were read.
        unreadable: how many could not be, and are not counted.
        digest: of the image list, as of `ImageEmbeddings`.
        classes: in the order of the class list.
    """

    top1: float
    top5: float
    mean_class: float
    images: int
    unreadable: int
    digest: str
    classes: tuple[ClassAccuracy, ...]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, without the classes."""
        shares = {"top1": self.top1, "top5": self.top5, "mean_class": self.mean_class}
        return shares | {"images": self.images, "unreadable": self.unreadable, "image list sha256": self.digest}


def evaluate_classification(
    model: ClassifyingModel,
    folder: ImageFolder,
    classes: NamedClasses,
    templates: str | tuple[str, ...] = "imagenet",
    options: EmbeddingOptions | None = None,
    store: EmbeddingStore | None = None,
) -> ClassificationScores:
    """Name the images of a folder by the words of its classes.

    Args:
        model: on its device.
        folder: the images.
        classes: that compete.
        templates: around the words, as for `Vocabulary`; by default CLIP's 80.
        options, store: as for `embed_images`.

    Raises:
        VocabularyError: words that cannot be used; told before an image is read.
        ValueError: as of `embed_images`.
        ResultsError: as of `EmbeddingStore`.
    """
    words = class_features(model, classes, templates)
    embeddings = embed_images(model, folder.root, [image.name for image in folder.images], options, store)
    return classification_scores(embeddings, folder, classes, words)


@torch.no_grad()
def class_features(model: ClassifyingModel, classes: NamedClasses, templates: str | tuple[str, ...]) -> Tensor:
    """(N, D) L2-normalised features of the words of N classes.

    Two classes of one name are accepted, as two pairs among ImageNet's 1000 are.
    """
    return model.text_features(Vocabulary(classes.words, templates=templates, allow_duplicates=True))


def classification_scores(
    embeddings: ImageEmbeddings, folder: ImageFolder, classes: NamedClasses, words: Tensor
) -> ClassificationScores:
    """Score embedded images.

    Args:
        embeddings: of the folder's images, or of those that could be read.
        folder: says the class of each.
        classes: that compete.
        words: (N, D) their features.
    """
    labels = {image.name: classes.of_folder[image.label] for image in folder.images}
    truth = torch.tensor([labels[name] for name in embeddings.names])
    ranks = truth_ranks(embeddings.features, truth, words.float().cpu())
    counts = torch.bincount(truth, minlength=len(classes.words))
    right = {k: torch.bincount(truth[ranks < k], minlength=len(classes.words)) for k in (1, 5)}
    rows = [
        ClassAccuracy(name, count, one / count if count else None, five / count if count else None)
        for name, count, one, five in zip(
            classes.words, counts.tolist(), right[1].tolist(), right[5].tolist(), strict=True
        )
    ]
    accuracies = [row.top1 for row in rows if row.top1 is not None]
    return ClassificationScores(
        top1=right[1].sum().item() / len(truth),
        top5=right[5].sum().item() / len(truth),
        mean_class=sum(accuracies) / len(accuracies),
        images=len(truth),
        unreadable=len(embeddings.unreadable),
        digest=embeddings.digest,
        classes=tuple(rows),
    )


def truth_ranks(features: Tensor, truth: Tensor, words: Tensor) -> Tensor:
    """(n,) how many classes are more similar to each image than its own.

    Args:
        features: (n, D) of images.
        truth: (n,) rows of `words`.
        words: (N, D).
    """
    columns = torch.arange(len(words))
    return torch.cat(
        [
            rank_of_right(some @ words.T, rows[:, None] == columns)
            for some, rows in zip(features.split(_ROWS), truth.split(_ROWS), strict=True)
        ]
    )
