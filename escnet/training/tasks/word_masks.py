"""Training of a promptable model that takes words: a mask for each word of an image, and none where it is absent.

A sample is an image, a word and the mask of all that it names (CLIP-Guided SAM, sec. 4); words come from label maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from torch import Tensor

from escnet.data.labelled import LabelledSplit, labelled_split
from escnet.data.simulated_prompts import BOX_LIMIT, BOX_NOISE, loose_boxes, shrink_masks
from escnet.evaluation.held_out import held_out_miou
from escnet.evaluation.protocols import Protocol
from escnet.ignore_label import IGNORE_LABEL
from escnet.layers.point_sampling import sample_evenly
from escnet.losses.masks import MaskLossWeights, word_mask_loss
from escnet.meta_arch.interfaces import AskedWords, PromptableModel, Prompts, common_vocabulary
from escnet.training.tasks.configured import training_settings
from escnet.training.tasks.segmentation import SegmentationTask, check_config
from escnet.training.trainer import Trainer
from escnet.vocabulary import Vocabulary

KINDS = ("text", "points", "boxes")
PROMPTS = (*KINDS, "mixed")


@dataclass(frozen=True)
class WordPrompting:
    """How a model is asked for words.

    Attributes:
        prompts: one of `PROMPTS`: what it is given beside a word that is there.
        points: how many, where these are given.
        words: of each image.
        negatives: share of them that the image does not hold, which are asked by text.

    Raises:
        ValueError: for other prompts.
    """

    prompts: str = "text"
    points: int = 5
    words: int = 1
    negatives: float = 0.0

    def __post_init__(self) -> None:
        if self.prompts not in PROMPTS:
            raise ValueError(f"PROMPTABLE.PROMPTS is {self.prompts!r}; it has to be one of {', '.join(PROMPTS)}")


class Question(NamedTuple):
    """Words that are asked for, P of them.

    Attributes:
        images: (P,) in which image of a batch.
        rows: (P,) of the vocabulary.
        targets: (P, H, W) bool, empty for a word that is not there.
        valid: (P, H, W) bool, what is labelled.
    """

    images: Tensor
    rows: Tensor
    targets: Tensor
    valid: Tensor

    def take(self, index: Tensor) -> Question:
        """Some of them."""
        return Question(*(part[index] for part in self))


def word_mask_trainer(cfg: CfgNode) -> Trainer:
    """The trainer of a configuration; with several processes, SOLVER.IMS_PER_BATCH is the total of all.

    Raises:
        ValueError: the config has a value that cannot be trained with, lacks a dataset, or has a model that takes no
            words.
        WeightsError: public weights are missing.
    """
    records = check_config(cfg, training=True)
    cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    return Trainer(WordMaskTask(cfg, labelled_split(cfg, records)), training_settings(cfg))


class WordMaskTask(SegmentationTask):
    """Words of the images of each batch are drawn, and a mask is asked for each.

    Args:
        cfg: the config.
        split: the images that it learns from, and those that are held out.

    Raises:
        ValueError: the model takes no words.
    """

    def __init__(self, cfg: CfgNode, split: LabelledSplit) -> None:
        own = cfg.PROMPTABLE
        self.prompting = WordPrompting(own.PROMPTS, own.POINTS, own.WORDS, own.NEGATIVES)
        self.weights = MaskLossWeights(own.BCE_WEIGHT, own.DICE_WEIGHT, own.IOU_WEIGHT, own.QUALITY_WEIGHT)
        super().__init__(cfg, split)
        if not isinstance(self.model, PromptableModel) or not self.model.takes_words:
            raise ValueError(
                f"TASK promptable asks for masks of words, and {type(self.model).__name__} does not answer: set "
                "MODEL.META_ARCHITECTURE to a model that takes words and prompts, such as ClipGuidedSam"
            )
        self.asked = self.empty = 0

    def backward(self, batch: list[dict[str, Any]], scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        vocabulary = common_vocabulary(batch)
        labels = torch.stack([sample["sem_seg"] for sample in batch])
        question, empty = draw_words(labels, vocabulary, self.prompting, self.model.mask_size)
        self.asked, self.empty = self.asked + len(question.rows), self.empty + empty
        if not len(question.rows):
            names = [name for name in ("bce", "dice", "iou", "quality") if getattr(self.weights, name)]
            return {f"loss_{name}": torch.zeros((), device=self.model.device) for name in names}
        images = torch.stack([sample["image"].to(self.model.device) for sample in batch])
        losses = question_losses(self.model, images, vocabulary, question, self.prompting, self.weights)
        scale(sum(losses.values())).backward()
        return {f"loss_{name}": loss.detach() for name, loss in losses.items()}

    def validate(self) -> float | None:
        """The oracle mIoU on the held-out images, in percent: of the words that they show, asked for as in training.

        Where training asks in several ways it is asked by text; of its absent words this says nothing.
        """
        if self.split is None or not self.split.validation:
            return None
        shown = {"points": "points", "boxes": "box"}.get(self.prompting.prompts, "none")
        return held_out_miou(self.cfg, self.model, self.split.validation, Protocol("oracle", shown))

    def counts(self) -> dict[str, int]:
        """Words that were asked for, and those that were dropped because their masks vanish at the model's size."""
        return {"words": self.asked, "empty_masks": self.empty}

    def state_dict(self) -> dict[str, Any]:
        return self.counts()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked, self.empty = state["words"], state["empty_masks"]


def draw_words(
    labels: Tensor, vocabulary: Vocabulary, prompting: WordPrompting, size: tuple[int, int]
) -> tuple[Question, int]:
    """Draw words of images, from PyTorch's global generator.

    Args:
        labels: (B, H, W) classes, `IGNORE_LABEL` where nothing is known.
        vocabulary: of these classes.
        prompting: how many, and how many of them absent ones.
        size: (h, w) of the model's masks, in which targets are given.

    Returns:
        the words, and how many more were dropped because their masks vanish at that size.
    """
    images, rows, targets, valid, dropped = [], [], [], [], 0
    for number, of_image in enumerate(labels):
        known = shrink_masks((of_image != IGNORE_LABEL)[None], size)[0]
        for row, is_there in _draw_rows(of_image, vocabulary, prompting):
            mask = shrink_masks((of_image == row)[None], size)[0]
            if is_there and not (mask & known).any():
                dropped += 1
                continue
            images.append(number)
            rows.append(row)
            targets.append(mask)
            valid.append(known)
    nothing = torch.zeros(0, *size, dtype=torch.bool)
    question = Question(
        torch.tensor(images, dtype=torch.long),
        torch.tensor(rows, dtype=torch.long),
        torch.stack(targets) if targets else nothing,
        torch.stack(valid) if valid else nothing,
    )
    return question, dropped


def _draw_rows(labels: Tensor, vocabulary: Vocabulary, prompting: WordPrompting) -> Iterator[tuple[int, bool]]:
    """Rows of words, none twice, and whether an image holds them."""
    classes = len(vocabulary.names)
    present = [row for row in labels.unique().tolist() if 0 <= row < classes]
    absent = int((torch.rand(prompting.words) < prompting.negatives).sum())
    for place in torch.randperm(len(present))[: prompting.words - absent].tolist():
        yield present[place], True
    # Of classes of one name none is absent where another is there.
    names = {vocabulary.rows[row] for row in present}
    others = [row for row in range(classes) if vocabulary.rows[row] not in names]
    for place in torch.randperm(len(others))[:absent].tolist():
        yield others[place], False


def question_losses(
    model: PromptableModel,
    images: Tensor,
    vocabulary: Vocabulary,
    question: Question,
    prompting: WordPrompting,
    weights: MaskLossWeights,
) -> dict[str, Tensor]:
    """Ask a model for words and judge its masks: each loss, its mean over the words.

    Args:
        model: takes words and prompts.
        images: (B, 3, H, W), on the model's device.
        vocabulary: of the words.
        question: those that are asked for, at least one, on any device.
        prompting: which prompts are drawn beside them, from PyTorch's global generator.
        weights: of the losses; those of weight 0 are left out.
    """
    totals: dict[str, Tensor] = {}
    with model.autocast():
        features = model.encode(images)
        for index, prompts in draw_prompts(question, prompting, model.input_size):
            part = question.take(index)
            if prompts is not None:
                prompts = prompts.to(images.device)
            asked = model.of_images(features, part.images)
            answer = model.masks(asked, prompts, AskedWords(vocabulary, part.rows))
            truth = part.targets.to(images.device), part.valid.to(images.device)
            for name, loss in word_mask_loss(answer.logits[:, 0], answer.quality[:, 0], *truth, weights).items():
                totals[name] = totals.get(name, 0.0) + loss.sum() / len(question.rows)
    return totals


def draw_prompts(question: Question, prompting: WordPrompting, side: int) -> Iterator[tuple[Tensor, Prompts | None]]:
    """The prompts of words, in groups of one kind: which words, and what is given beside them; None for text alone.

    Args:
        question: the words.
        prompting: which prompts.
        side: of the model's square input, in which prompts are given.
    """
    count = len(question.rows)
    is_there = question.targets.flatten(1).any(dim=1)
    if prompting.prompts == "mixed":
        kinds = torch.randint(len(KINDS), (count,))
    else:
        kinds = torch.full((count,), KINDS.index(prompting.prompts))
    kinds = torch.where(is_there, kinds, KINDS.index("text"))
    for number, kind in enumerate(KINDS):
        index = (kinds == number).nonzero()[:, 0]
        if not len(index):
            continue
        targets = question.targets[index]
        if kind == "text":
            yield index, None
        elif kind == "points":
            drawn = sample_evenly(targets, torch.rand(len(index), prompting.points))
            height, width = targets.shape[-2:]
            points = (drawn.cells + 0.5) * (side / torch.tensor([width, height])) - 0.5
            yield index, Prompts(points, drawn.labels)
        else:
            boxes = loose_boxes(targets, side, BOX_NOISE, BOX_LIMIT * side, torch.default_generator)
            yield index, Prompts.from_boxes(boxes)
