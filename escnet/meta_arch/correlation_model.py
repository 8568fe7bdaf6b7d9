"""Models that refine CLIP's correlation maps: which classes they look at, and what they are trained with."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.class_attention import ClassAttention
from escnet.layers.class_choice import highest, positions, present_classes, regional_shares, take_classes
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.correlation import correlation_maps
from escnet.layers.sam_block import SamBlock
from escnet.layers.swin import GuidedSwinBlock
from escnet.layers.unet_decoder import UpsamplingStage
from escnet.losses.segmentation import segmentation_loss
from escnet.meta_arch.interfaces import InferenceOptions, SegmentingModel
from escnet.meta_arch.segmentation import Segmentation, join_images
from escnet.vocabulary import Vocabulary

# Keys of MODEL.ESC that change which classes are looked at.
CHOICE_KEYS = ("MAX_CLASSES", "KEEP", "KEEP_SHARE", "KEEP_LEAST")


@dataclass(frozen=True)
class ClassChoice:
    """Which classes of a vocabulary a model looks at.

    Attributes:
        most: those that CLIP's maps rank highest, so many (0: all).
        keep: of these, after a first pass, those that it ranks highest, so many (0: there is no first pass).
        keep_share: of these again, those alone whose share of some region is at least this.
        keep_least: but so many of the first pass's best in any case.
        train: while training, so many: those that an image holds and others drawn at random (0: all).
        train_least: if it is not 0, at each step a number from this to `train`, drawn evenly.
        train_first: if it is not 0, those of a step are chosen as in use: by a first pass over so many, which CLIP's
            maps rank highest. What an image holds besides is ignored.
    """

    most: int = 0
    keep: int = 0
    keep_share: float = 0.0
    keep_least: int = 1
    train: int = 0
    train_least: int = 0
    train_first: int = 0

    @classmethod
    def from_config(cls, cfg: Any) -> ClassChoice:
        """The choice that MODEL.ESC makes."""
        esc = cfg.MODEL.ESC
        return cls(
            most=esc.MAX_CLASSES,
            keep=esc.KEEP,
            keep_share=esc.KEEP_SHARE,
            keep_least=esc.KEEP_LEAST,
            train=esc.TRAIN_CLASSES,
            train_least=esc.TRAIN_LEAST,
            train_first=esc.TRAIN_FIRST,
        )

    def training_range(self, classes: int) -> tuple[int, int]:
        """The fewest and the most of so many classes that a training step looks at.

        If others are drawn at random, none is left out that an image holds, even if there are more of these.
        """
        classes = min(self.train_first or classes, classes)
        most = min(self.train or classes, classes)
        return min(self.train_least or most, most), most

    def training_number(self, classes: int) -> int:
        """A number in `training_range`, drawn evenly."""
        least, most = self.training_range(classes)
        return most if least == most else int(torch.randint(least, most + 1, ()))


class Candidates(NamedTuple):
    """Words that an image may show.

    Attributes:
        correlation: (B, M, h, w) CLIP's maps.
        text: (B, M, D) their features.
        rows: (B, M) of the vocabulary.
    """

    correlation: Tensor
    text: Tensor
    rows: Tensor

    @property
    def number(self) -> int:
        """M."""
        return self.rows.shape[1]

    def take(self, index: Tensor) -> Candidates:
        """Those at the positions (B, M')."""
        return Candidates(*(take_classes(x, index) for x in self))

    def of_images(self, index: Tensor) -> Candidates:
        """Those of some of the images (B',)."""
        return Candidates(*(x[index] for x in self))


class CorrelationModel(SegmentingModel):
    """A model whose input is CLIP's correlation map of each class, and whose cost grows with their number.

    So it looks at as few as it may: at those that CLIP's maps rank highest; then, after a cheap first pass over these,
    at those that this ranks highest. What a pass is, a system says.

    Args:
        inference: how images are run.
        clip_text: CLIP's text encoder.
        logit_scale: CLIP's temperature, kept fixed.
        smoothing: side of the squares of cells over which CLIP's maps are averaged.
        choice: which classes are looked at.
        loss: `ce`, `bce` or `ce_dice`.
        aux_loss: weight of the same loss on each refined correlation map.
        first_loss: its weight on what the first pass says, where a training step has one.
    """

    text_encoder = "clip_text"
    compilable: ClassVar[tuple[type[nn.Module], ...]] = (GuidedSwinBlock, ClassAttention, UpsamplingStage, SamBlock)

    def __init__(
        self,
        inference: InferenceOptions,
        clip_text: ClipTextEncoder,
        logit_scale: float,
        smoothing: int,
        choice: ClassChoice,
        loss: str,
        aux_loss: float,
        first_loss: float,
    ) -> None:
        super().__init__(inference)
        self.clip_text = clip_text
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))
        self.smoothing = smoothing
        self.choice = choice
        self.loss = loss
        self.aux_loss = aux_loss
        self.first_loss = first_loss

    @abstractmethod
    def refine(self, features: Any, words: Candidates) -> Segmentation:
        """Segment by some words: logits and, for drawing and the loss on them, maps; without `rows`.

        Args:
            features: from `encode_pixels`.
            words: those that compete.
        """

    @abstractmethod
    def early_logits(self, features: Any, words: Candidates) -> Tensor:
        """(B, M, H', W') what a first pass says, a whole number of times as fine as CLIP's grid."""

    def segment_features(self, features: Any, vocabulary: Vocabulary) -> Segmentation:
        """Logits of the classes that are kept."""
        words = self.candidates(features, vocabulary)
        everything = words.number
        words = self._ranked(words, self.choice.most)
        if 0 < self.choice.keep < words.number:
            return self._refine_again(features, words)
        return replace(self.refine(features, words), rows=words.rows if words.number < everything else None)

    def _refine_again(self, features: Any, words: Candidates) -> Segmentation:
        """Segment by those words that a first pass ranks highest, as many of each image as have the share."""
        shares = self._shares(self.early_logits(features, words), words)
        numbers = self._numbers(shares)
        if len(set(numbers)) == 1:
            kept = words.take(highest(shares, numbers[0]))
            return replace(self.refine(features, kept), rows=kept.rows, first_rows=words.rows)
        # Images with as many words share a pass, so that none has to be left out within it.
        images: dict[int, Segmentation] = {}
        for number in set(numbers):
            group = [i for i, own in enumerate(numbers) if own == number]
            index = torch.tensor(group, device=shares.device)
            kept = words.of_images(index).take(highest(shares[index], number))
            result = replace(self.refine(_of_images(features, index), kept), rows=kept.rows)
            images |= {i: result.of_image(place) for place, i in enumerate(group)}
        return replace(join_images([images[i] for i in range(len(numbers))]), first_rows=words.rows)

    def _ranked(self, words: Candidates, most: int) -> Candidates:
        """Those that CLIP's maps rank highest, so many (0: all)."""
        if not 0 < most < words.number:
            return words
        return words.take(highest(regional_shares(self.map_logits(words.correlation.detach())), most))

    @staticmethod
    def _shares(early: Tensor, words: Candidates) -> Tensor:
        """(B, M) the largest share that each word has of some region, by what the first pass says."""
        return regional_shares(early.detach(), early.shape[-1] // words.correlation.shape[-1])

    def _numbers(self, shares: Tensor) -> list[int]:
        """How many words of each image are kept, by their shares (B, M) of some region."""
        if self.choice.keep_share == 0:
            return [self.choice.keep] * len(shares)
        # The one thing in a forward pass for which a GPU has to be waited for.
        return (shares >= self.choice.keep_share).sum(dim=1).clamp(self.choice.keep_least, self.choice.keep).tolist()

    def compile_parts(self, backend: str) -> None:
        """Compile what is run for each class, for any number of classes, at the first image that comes.

        Args:
            backend: of torch.compile, such as inductor; "" leaves all as it is.

        Raises:
            ValueError: PyTorch has no such backend.
        """
        if not backend:
            return
        if backend not in torch.compiler.list_backends(exclude_tags=()):
            known = ", ".join(torch.compiler.list_backends())
            raise ValueError(f'MODEL.COMPILE is "{backend}", but PyTorch has {known}; "" compiles nothing')
        for module in self.modules():
            if isinstance(module, self.compilable):
                module.compile(dynamic=True, backend=backend)

    def candidates(self, features: Any, vocabulary: Vocabulary) -> Candidates:
        """All the words of a vocabulary."""
        text = self._embed_text(vocabulary)
        correlation = correlation_maps(features.dense, text, self.smoothing)
        rows = torch.arange(len(text), device=text.device)
        return Candidates(correlation, *(x.expand(len(correlation), *x.shape) for x in (text, rows)))

    def map_logits(self, correlation: Tensor) -> Tensor:
        """Correlation at the scale of logits, without the offset that CLIP gives to all similarities alike."""
        return (correlation - correlation.mean(dim=(1, 2, 3), keepdim=True)) * self.logit_scale

    def losses(self, images: Tensor, targets: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
        """`loss_sem_seg` and, if configured, losses on maps, whose targets are as coarse as the logits.

        `loss_aux` is the mean over the refined correlation maps, `loss_first` that of the first pass.
        """
        features = self.encode(images)
        words = first = self.candidates(features, vocabulary)
        classes, early = words.number, None
        if self.choice.train_first > 0:
            first = self._ranked(words, self.choice.train_first)
            with nullcontext() if self.first_loss > 0 else torch.no_grad():
                early = self.early_logits(features, first)
            words = first.take(highest(self._shares(early, first), self.choice.training_number(classes)))
        elif (rows := self.training_rows(targets, classes)) is not None:
            words = words.take(rows)
        targets = targets.to(self.device)
        result = self.refine(features, words)
        losses = {"loss_sem_seg": segmentation_loss(result.logits, positions(targets, words.rows, classes), self.loss)}
        coarse = F.interpolate(targets[:, None].float(), result.logits.shape[-2:], mode="nearest")[:, 0].long()
        if self.aux_loss > 0:
            found = positions(coarse, words.rows, classes)
            maps = [self.map_logits(correlation) for correlation in result.correlations[1:]]
            total = sum(segmentation_loss(m, found, self.loss) for m in maps)
            losses["loss_aux"] = self.aux_loss * total / len(maps)
        if early is not None and self.first_loss > 0:
            found = positions(coarse, first.rows, classes)
            losses["loss_first"] = self.first_loss * segmentation_loss(early, found, self.loss)
        return losses

    def training_rows(self, targets: Tensor, classes: int) -> Tensor | None:
        """(B, M) the classes that each image holds and others drawn at random, without a first pass; None for all.

        M is `choice.training_number`, or the most that an image of the batch holds if that is more.
        """
        number = self.choice.training_number(classes)
        if number == classes:
            return None
        present, most = present_classes(targets, classes)
        present = present.to(self.device)
        return highest(present + torch.rand_like(present), max(number, most))

    def _embed_text(self, vocabulary: Vocabulary) -> Tensor:
        """(N, D); computed again at each step only while it is trained."""
        if self.training and any(p.requires_grad for p in self.clip_text.parameters()):
            return self.clip_text(vocabulary)
        return self.clip_text.encode(vocabulary)


def _of_images(features: tuple[Tensor | list[Tensor] | None, ...], index: Tensor) -> Any:
    """Some of the images (B',) of the features of a batch, a NamedTuple of tensors and lists of them."""
    return type(features)(
        *(
            part if part is None else part[index] if isinstance(part, Tensor) else [level[index] for level in part]
            for part in features
        )
    )
