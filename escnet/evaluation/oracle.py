"""The oracle protocol: a model is asked only for the classes that an image has, and each is judged as a binary mask."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.data.label_spaces import LabelSpace, is_unknown
from escnet.data.simulated_prompts import clicks_inside, exact_boxes
from escnet.evaluation.confusion import ConfusionMatrix, SemanticMetrics, semantic_metrics
from escnet.evaluation.protocols import ORACLE_POINTS, ORACLE_SIZE, Protocol
from escnet.evaluation.runs.image_results import ImageResult
from escnet.evaluation.scored_classes import ScoredClasses, is_scored
from escnet.meta_arch.interfaces import PromptableModel, Prompts, SegmentingModel
from escnet.vocabulary import Vocabulary

# The name of class N of the counts: what is not of the class that was asked for.
OUTSIDE = "(outside)"


class OracleQuestions:
    """Asks a model for the classes of images and counts its masks; the `predict` of `pass_images`.

    CLIP-Guided SAM, experiments, class-wise metric. Image and truth are judged at 256x256 (the truth resized by nearest
    neighbour; a class that this leaves without a pixel is not asked for). Only scored classes of a dataset are asked
    for, and no class that is made of background words: these count as outside wherever they are, and so does what is
    ignored, so that a mask which covers any of it has false positives there.

    The masks of an image are of (image, class) pairs, each counted by itself, so that they may overlap. The result of
    an image has, for class c of N and class N, "outside", the entries (c, c, true positives), (c, N, false negatives)
    and (N, c, false positives), of which IoU follows as from any confusion matrix. Images are encoded one by one, so
    that batches and processes change nothing.

    Args:
        space: of the dataset: its words, and the ignored id.
        scored: first id and end of the scored classes; None: all.
        protocol: an oracle one; of its prompts it depends what the model is shown.
    """

    def __init__(self, space: LabelSpace, scored: ScoredClasses, protocol: Protocol) -> None:
        self._space, self._scored, self._prompts = space, scored, protocol.prompts

    @torch.no_grad()
    def __call__(self, model: nn.Module, samples: Sequence[dict[str, Any]]) -> list[ImageResult | Exception]:
        """The result of each sample of `EvaluationMapper`, with its truth, or what is wrong with the sample."""
        outcomes: list[ImageResult | Exception] = []
        for sample in samples:
            try:
                outcomes.append(self._ask(model, sample))
            except ValueError as error:
                outcomes.append(ValueError(f"{sample['file_name']}, {sample['sem_seg_file_name']}: {error}"))
        return outcomes

    def _ask(self, model: nn.Module, sample: dict[str, Any]) -> ImageResult:
        truth = self._small_truth(sample)
        classes = asked_classes(truth, self._space.vocabulary, self._scored)
        # The checksum is of what was judged, as that of an ordinary result is.
        checksum = zlib.crc32(np.ascontiguousarray(truth.astype("<u2")))
        entries = np.empty((0, 3), dtype=np.int64)
        if classes:
            words, targets = words_of(self._space.vocabulary, classes), class_masks(truth, classes)
            if self._prompts == "none":
                masks = model.word_masks(model.encode(sample["image"]), words, ORACLE_SIZE)
            else:
                masks = self._prompted_masks(model, sample, words, classes, targets)
            entries = pair_entries(_checked(masks, model, targets), targets, classes, self._space.vocabulary)
        return ImageResult(sample["image_id"], *ORACLE_SIZE, 0.0, entries, checksum)

    def _small_truth(self, sample: dict[str, Any]) -> np.ndarray:
        truth, size = np.asarray(sample["sem_seg_truth"]), (sample["height"], sample["width"])
        if truth.shape != size:
            shown, wanted = ("x".join(map(str, shape)) for shape in (truth.shape, size))
            raise ValueError(f"the truth is {shown}, but the image is {wanted} (height x width); prepare both again")
        classes = self._space.vocabulary.num_classes
        ids = np.unique(truth)
        unknown = ids[is_unknown(ids, classes, self._space.ignore_label)].tolist()
        if unknown:
            raise ValueError(
                f"ids {', '.join(map(str, unknown[:10]))} in the truth: neither class ids (0..{classes - 1}) nor the "
                f"ignore label {self._space.ignore_label}; prepare the dataset again, or correct its class list"
            )
        return nearest(truth, ORACLE_SIZE)

    def _prompted_masks(
        self, model: PromptableModel, sample: dict[str, Any], words: Vocabulary, classes: Sequence[int], targets: Tensor
    ) -> Tensor:
        """(P, *ORACLE_SIZE) bool: the masks that a model draws from prompts of the truth."""
        device, side = next(model.parameters()).device, model.input_size
        if self._prompts == "box":
            prompts = Prompts.from_boxes(exact_boxes(targets, side))
        else:
            generators = [prompt_generator(sample["image_id"], index) for index in classes]
            points = clicks_inside(targets, side, ORACLE_POINTS, generators)
            prompts = Prompts(points, points.new_ones(points.shape[:2]))
        of_image = torch.zeros(len(classes), dtype=torch.long)
        features = model.of_images(model.encode(sample["image"]), of_image)
        logits = model.masks(features, prompts.to(device), words if model.takes_words else None).logits
        return F.interpolate(logits.float(), ORACLE_SIZE, mode="bilinear", align_corners=False)[:, 0] > 0


def require_answers(protocol: Protocol, kind: Any, cfg: CfgNode) -> None:
    """Refuse a model that cannot answer the questions of a protocol.

    Args:
        protocol: of the evaluation; the ordinary one is for all models.
        kind: the class of the model.
        cfg: its configuration.

    Raises:
        ValueError: it answers no words, or no prompts, where these are asked; or prompts are to be given in windows.
    """
    if not protocol.is_oracle:
        return
    wanted = SegmentingModel if protocol.prompts == "none" else PromptableModel
    if not issubclass(kind, wanted):
        able = "segment by words" if protocol.prompts == "none" else f"draw masks from prompts ({protocol.prompts})"
        raise ValueError(
            f"{kind.__name__} cannot {able}, as the protocol '{protocol.words}' asks; "
            f"evaluate it under another protocol, or a model that can (a {wanted.__name__})"
        )
    if protocol.prompts != "none" and cfg.TEST.SLIDING.ENABLED:
        raise ValueError(
            f"TEST.SLIDING.ENABLED is True, but prompts ({protocol.prompts}) are of whole images; set it to False"
        )


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map (H, W) resized to (h, w): of each new pixel the label at its middle, in integers."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns]


def asked_classes(truth: np.ndarray, vocabulary: Vocabulary, scored: ScoredClasses) -> list[int]:
    """The classes that a model is asked for, in order: the scored ones in the truth that are no background words.

    Args:
        truth: (h, w) class ids; others, such as an ignore label, are nothing to ask for.
        vocabulary: of the dataset.
        scored: first id and end of the scored classes; None: all.
    """
    ids = np.unique(truth)
    return ids[is_scored(ids, scored) & (ids >= 0) & (ids < len(vocabulary.names))].tolist()


def words_of(vocabulary: Vocabulary, classes: Sequence[int]) -> Vocabulary:
    """The vocabulary of some of the classes of another, in the given order, without background."""
    # The names of a published list may repeat.
    names = [vocabulary.names[index] for index in classes]
    return Vocabulary(names, templates=vocabulary.templates, allow_duplicates=True)


def class_masks(truth: np.ndarray, classes: Sequence[int]) -> Tensor:
    """(P, h, w) bool masks of P classes in a label map (h, w)."""
    return torch.from_numpy(truth == np.array(classes)[:, None, None])


def pair_entries(masks: Tensor, targets: Tensor, classes: Sequence[int], vocabulary: Vocabulary) -> np.ndarray:
    """The counts of (image, class) pairs as entries of a confusion matrix with a class N, outside.

    Args:
        masks: (P, h, w) bool of P classes, which may overlap.
        targets: (P, h, w) bool, the truth.
        classes: their ids, in order.
        vocabulary: of the dataset, with N classes.

    Returns:
        (M, 3) int64 rows of true class, predicted class, pixels, none without pixels.
    """
    ids, outside = torch.tensor(classes), vocabulary.num_classes
    elsewhere = torch.full_like(ids, outside)
    rows = [
        torch.stack([truth, predicted, pixels.sum(dim=(1, 2))], dim=1)
        for truth, predicted, pixels in (
            (ids, ids, masks & targets),
            (ids, elsewhere, targets & ~masks),
            (elsewhere, ids, masks & ~targets),
        )
    ]
    entries = torch.cat(rows)
    return entries[entries[:, 2] > 0].numpy()


def asked_pairs(entries: np.ndarray, num_classes: int) -> int:
    """Of how many of N classes an image was asked, by its entries."""
    return len(np.setdiff1d(entries[:, 0], [num_classes]))


def oracle_metrics(
    confusion: ConfusionMatrix, class_names: Sequence[str], scored: ScoredClasses = None
) -> SemanticMetrics:
    """The scores of the protocol: mIoU over the classes that were asked for, and the mean of their accuracies.

    The others are NaN, as their definitions need a label map.

    Args:
        confusion: counts over N + 1 classes, the last one outside.
        class_names: N names.
        scored: first id and end of the scored classes of the dataset; None: all.
    """
    count = len(class_names)
    metrics = semantic_metrics(confusion, (*class_names, OUTSIDE), scored or (0, count))
    nothing = dict.fromkeys(("miou_d2_2021", "pixel_accuracy", "fw_iou"), float("nan"))
    per_class = ("class_names", "class_iou", "class_accuracy", "truth_pixels", "predicted_pixels")
    return replace(metrics, **nothing, **{name: getattr(metrics, name)[:count] for name in per_class}, scored=scored)


def prompt_generator(image: str, index: int) -> np.random.RandomState:
    """Random numbers that depend on an image's id and a class id alone, so that prompts of them repeat."""
    digest = hashlib.sha256(f"{image}\n{index}".encode()).digest()
    # RandomState is frozen by NumPy's compatibility policy, which its newer generators are not.
    return np.random.RandomState(np.random.SeedSequence(list(digest)).generate_state(4))


def _checked(masks: Tensor, model: nn.Module, targets: Tensor) -> Tensor:
    if masks.shape != targets.shape or masks.dtype != torch.bool:
        raise ValueError(
            f"{type(model).__name__} gives masks of shape {tuple(masks.shape)} and type {masks.dtype} for "
            f"{len(targets)} classes; it has to give {tuple(targets.shape)} bool"
        )
    return masks.to(targets.device)
