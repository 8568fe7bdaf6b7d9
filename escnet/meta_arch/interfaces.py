"""The interfaces of models: segmenting by words, drawing masks from prompts, and naming whole images.

Whatever trains, evaluates, measures or shows models knows these alone. All take raw pixels, RGB in 0..255, which each
model resizes and normalises itself, and encode an image once for as many words or prompts as are asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.meta_arch.image_size import fitting_size
from escnet.meta_arch.segmentation import Segmentation
from escnet.meta_arch.sliding_window import SlidingWindow, WindowedFeatures, average_windows
from escnet.vocabulary import Vocabulary

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class InferenceOptions:
    """How a segmenting model is run on images.

    Attributes:
        image_size: (height, width) to which an image is resized.
        sliding: windows, or None for one whole-image pass.
        precision: fp32, bf16 or fp16.
        full_scores: also return the (N, H, W) probabilities.
    """

    image_size: tuple[int, int]
    sliding: SlidingWindow | None = None
    precision: str = "fp32"
    full_scores: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"MODEL.PRECISION must be one of {tuple(PRECISIONS)}, got {self.precision!r}")

    @classmethod
    def from_config(cls, cfg: Any, size_key: str, patch_size: int) -> InferenceOptions:
        """The options of a config.

        Args:
            cfg: the config.
            size_key: the key that sets the size of the model's images.
            patch_size: side of a patch of the model's image encoder, in pixels.

        Raises:
            ValueError: the patches do not divide the images or the windows, or a value is unknown.
        """
        sliding = cfg.TEST.SLIDING
        windows = None
        if sliding.ENABLED:
            window = fitting_size("TEST.SLIDING.WINDOW", sliding.WINDOW, patch_size)
            windows = SlidingWindow(tuple(sliding.SIZE), window, sliding.OVERLAP)
        image_size = fitting_size(size_key, _config_value(cfg, size_key), patch_size)
        return cls(image_size, windows, cfg.MODEL.PRECISION, cfg.TEST.FULL_SCORES)


class LearningPart(NamedTuple):
    """Parameters that learn at a rate of their own.

    Attributes:
        name: of the part, for tables.
        pattern: regular expression that the beginning of a parameter's name matches.
        rate: factor of the base learning rate.
    """

    name: str
    pattern: str
    rate: float


class SegmentingModel(nn.Module, ABC):
    """A model that segments images by words, which are given with each call.

    `encode` once for an image, `segment` as often as words change. Detectron2's convention is served too:
    `forward(batched_inputs)`, each a dict with `image` (3, H, W) in 0..255, RGB; `vocabulary` (or once for all, as an
    argument); `height` and `width` of the wanted output; `sem_seg` (H, W) while training.

    A system states what others have to know of it:

    Attributes:
        prediction_keys: the configuration keys that change a prediction beside the weights, without those that
            every model has (its name, precision, sliding windows).
        cost_parts: name of each part in tables of costs, and the regular expression of its modules' names.
        text_encoder: name of the submodule with `encode(vocabulary)`, whose result is kept for a vocabulary.
        untraceable: names of submodules that a tracer cannot follow.
        is_training_free: nothing of it is trained, so that it serves as a baseline of those that are.
        has_sliding_windows: TEST.SLIDING can be enabled.
    """

    prediction_keys: ClassVar[tuple[str, ...]] = ()
    cost_parts: ClassVar[Mapping[str, str]] = {}
    text_encoder: ClassVar[str] = ""
    untraceable: ClassVar[tuple[str, ...]] = ()
    is_training_free: ClassVar[bool] = False
    has_sliding_windows: ClassVar[bool] = True

    def __init__(self, inference: InferenceOptions) -> None:
        super().__init__()
        self.inference = inference

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Any:
        """Features of images that have the model's size: (B, 3, R1, R2) float in 0..255, on its device."""

    @abstractmethod
    def segment_features(self, features: Any, vocabulary: Vocabulary) -> Segmentation:
        """Segment what `encode_pixels` gave."""

    def losses(self, images: Tensor, targets: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
        """Training losses of raw images (B, 3, H, W) and targets (B, H, W), on any device.

        Targets are int64 rows of the vocabulary, -1 where ignored.
        """
        raise TypeError(f"{type(self).__name__} has nothing to train; use it with --eval-only")

    def prepare_training(self, cfg: Any, images: Callable[[int], Iterable[Tensor]]) -> None:
        """What a system does once before a training that does not begin with a checkpoint; by default nothing.

        Args:
            cfg: the configuration of the training.
            images: gives so many of the training images, raw (3, H, W), evenly spread over all of them.
        """

    def learning_parts(self, cfg: Any) -> list[LearningPart]:
        """Parts that do not learn at the base rate; the first whose pattern fits a parameter has it."""
        return []

    @classmethod
    def prediction_settings(cls, cfg: Any) -> dict[str, Any]:
        """All configuration that a prediction of this system depends on, by key; where weights come from is no part."""
        sliding = [f"TEST.SLIDING.{key}" for key in cfg.TEST.SLIDING] if cfg.TEST.SLIDING.ENABLED else []
        return {key: _config_value(cfg, key) for key in ("MODEL.PRECISION", *cls.prediction_keys, *sliding)}

    def encode(self, images: Tensor) -> Any:
        """The features of images, with which they can be segmented by any words.

        Args:
            images: raw pixels (3, H, W) or (B, 3, H, W) in 0..255, RGB, of any size.

        Returns:
            What `segment` takes; the model alone knows what it is. While training, sliding windows are left out.
        """
        pixels = self.to_pixels(images)
        with self.autocast():
            whole = self.encode_pixels(resize(pixels, self.inference.image_size))
            sliding = self.inference.sliding
            if sliding is None or self.training:
                return whole
            windows = sliding.cut(resize(pixels, sliding.size))
            return WindowedFeatures(whole, [self.encode_pixels(window) for window in windows])

    def segment(self, features: Any, vocabulary: Vocabulary) -> Segmentation:
        """Segment encoded images by the words of a vocabulary."""
        with self.autocast():
            if not isinstance(features, WindowedFeatures):
                return self.segment_features(features, vocabulary)
            return average_windows(
                features,
                self.inference.sliding,
                lambda part: self.segment_features(part, vocabulary),
                len(vocabulary.rows),
            )

    def forward(
        self, batched_inputs: list[dict[str, Any]], vocabulary: Vocabulary | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses while training, else for each input what `Segmentation.at_image_size` gives.

        Raises:
            ValueError: when the inputs name no vocabulary, or more than one.
        """
        vocabulary = vocabulary or common_vocabulary(batched_inputs)
        if self.training:
            images = torch.stack([x["image"].to(self.device) for x in batched_inputs])
            targets = torch.stack([x["sem_seg"] for x in batched_inputs])
            with self.autocast():
                return self.losses(images, targets, vocabulary)
        with torch.no_grad():
            outputs = []
            for x in batched_inputs:
                size = (x.get("height", x["image"].shape[1]), x.get("width", x["image"].shape[2]))
                segmentation = self.segment(self.encode(x["image"]), vocabulary)
                outputs.append(segmentation.at_image_size(vocabulary, size, self.inference.full_scores))
            return outputs

    def autocast(self) -> torch.autocast:
        """The precision in which the model is run."""
        dtype = PRECISIONS[self.inference.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Raw images (3, H, W) or (B, 3, H, W) of any type as a float batch on the model's device."""
        return (images if images.dim() == 4 else images[None]).to(self.device, torch.float)


@dataclass(frozen=True)
class Prompts:
    """P prompts of the same form, for masks of any images.

    Attributes:
        points: (P, n, 2) clicks (x, y), as indices of pixels of the model's square input; n may be 0.
        labels: (P, n) 1 on the object, 0 beside it.
        boxes: (P, 4) corners (x1, y1, x2, y2), in the same coordinates; the outer edge of pixel i is at i - 0.5.
        masks: (P, 1, 4h, 4w) logits of an earlier prediction, for an h×w grid.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None

    @classmethod
    def from_boxes(cls, boxes: Tensor) -> Prompts:
        """Boxes (P, 4) without clicks."""
        return cls(boxes.new_zeros(len(boxes), 0, 2), boxes.new_zeros(len(boxes), 0), boxes)

    def with_clicks(self, points: Tensor, labels: Tensor) -> Prompts:
        """One click more each: (P, 2) and (P,)."""
        points = torch.cat([self.points, points[:, None]], dim=1)
        return replace(self, points=points, labels=torch.cat([self.labels, labels[:, None]], dim=1))

    def with_masks(self, logits: Tensor) -> Prompts:
        """(P, 4h, 4w) logits in place of the earlier ones."""
        return replace(self, masks=logits[:, None])


class MaskPrediction(NamedTuple):
    """The answer to P prompts.

    Attributes:
        logits: (P, m, 4h, 4w) mask logits, m candidates for each prompt.
        quality: (P, m) the IoU that the model expects of each.
    """

    logits: Tensor
    quality: Tensor

    def likeliest(self) -> Tensor:
        """(P, 4h, 4w): of each prompt's masks the one of which the model expects most."""
        return self.logits[torch.arange(len(self.logits), device=self.logits.device), self.quality.argmax(dim=1)]


class PromptableModel(nn.Module, ABC):
    """A model that draws masks from points, boxes, masks and, if it can, words."""

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Side of the square, in pixels, to which images are brought and in which prompts are given."""

    @property
    @abstractmethod
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of the mask logits."""

    @abstractmethod
    def encode(self, images: Tensor) -> Any:
        """The features (B, C, h, w) of raw images (3, H, W) or (B, 3, H, W) in 0..255, made square."""

    def of_images(self, features: Any, rows: Tensor) -> Any:
        """The features of the images `rows` (P,), one for each prompt, from those of B images."""
        return features[rows.to(features.device)]

    @abstractmethod
    def masks(
        self, features: Any, prompts: Prompts, words: Vocabulary | None = None, multimask: bool = False
    ) -> MaskPrediction:
        """Answer prompts.

        Args:
            features: from `of_images`, of each prompt's image (P, ...); or from `encode`, of one image for all.
            prompts: P of them.
            words: what the objects are, for a model that takes words.
            multimask: several candidates for an ambiguous prompt, or one.

        Raises:
            ValueError: words for a model that takes none.
        """


class ClassifyingModel(nn.Module, ABC):
    """A model with a feature of the whole image that is comparable with those of texts, as CLIP has it.

    Attributes:
        logit_scale: () factor of the cosine similarity before a softmax over classes.
        image_size: (height, width) to which images are brought.
    """

    logit_scale: Tensor
    image_size: tuple[int, int]

    @abstractmethod
    def encode(self, images: Tensor) -> Any:
        """The features of raw images (3, H, W) or (B, 3, H, W) in 0..255, RGB, of any size."""

    @abstractmethod
    def summary(self, features: Any) -> Tensor:
        """(B, D) L2-normalised feature of each image, from what `encode` gave."""

    @abstractmethod
    def text_features(self, vocabulary: Vocabulary) -> Tensor:
        """(rows, D) L2-normalised features of the rows of a vocabulary."""

    @abstractmethod
    def sentence_features(self, sentences: Sequence[str]) -> Tensor:
        """(n, D) L2-normalised features of whole sentences, without templates; the end of a long one is cut off."""

    def classify(self, features: Any, vocabulary: Vocabulary) -> Tensor:
        """(B, rows) probability of each row of a vocabulary, that it names the image."""
        similarity = self.summary(features) @ self.text_features(vocabulary).T
        return (self.logit_scale * similarity.float()).softmax(dim=-1)


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) pixels to (B, 3, *size), bilinear with antialiasing."""
    if pixels.shape[-2:] == tuple(size):
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)


def common_vocabulary(batched_inputs: list[dict[str, Any]]) -> Vocabulary:
    """The one vocabulary of a batch.

    Raises:
        ValueError: when an input has none, or two differ.
    """
    vocabularies = {x.get("vocabulary") for x in batched_inputs}
    if None in vocabularies:
        raise ValueError("no vocabulary: give one to forward(), or to each input under 'vocabulary'")
    if len(vocabularies) > 1:
        raise ValueError("the inputs of one batch have different vocabularies; run them apart")
    return vocabularies.pop()


def _config_value(cfg: Any, key: str) -> Any:
    value = cfg
    for name in key.split("."):
        value = value[name]
    return list(value) if isinstance(value, tuple) else value
