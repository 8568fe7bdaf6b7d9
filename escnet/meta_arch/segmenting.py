"""The interface of models that segment images by words, and how they are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from escnet.meta_arch.image_size import fitting_size, resize
from escnet.meta_arch.promptable import Prompts
from escnet.meta_arch.segmentation import Segmentation
from escnet.meta_arch.sliding_window import SlidingWindow, WindowedFeatures, average_windows
from escnet.precision import PRECISIONS, precision_of
from escnet.vocabulary import Vocabulary


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
            raise ValueError(f"the precision must be one of {tuple(PRECISIONS)}, got {self.precision!r}")

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
        return cls(image_size, windows, precision_of(cfg), cfg.TEST.FULL_SCORES)

    @classmethod
    def of_square(cls, cfg: Any, side: int) -> InferenceOptions:
        """The options of a config for a model of square images whose size is its own, without sliding windows."""
        return cls((side, side), None, precision_of(cfg), cfg.TEST.FULL_SCORES)


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
        own = {key: _config_value(cfg, key) for key in (*cls.prediction_keys, *sliding)}
        return {"MODEL.PRECISION": precision_of(cfg)} | own

    def encode(self, images: Tensor | Sequence[Tensor]) -> Any:
        """The features of images, with which they can be segmented by any words.

        Args:
            images: raw pixels (3, H, W) or (B, 3, H, W) in 0..255, RGB, of any size; or B images (3, H, W), each of a
                size of its own, which share a pass at the model's size.

        Returns:
            What `segment` takes; the model alone knows what it is. While training, sliding windows are left out.

        Raises:
            ValueError: for a sequence without images.
        """
        with self.autocast():
            whole = self.encode_pixels(self.to_size(images, self.inference.image_size))
            sliding = self.inference.sliding
            if sliding is None or self.training:
                return whole
            windows = sliding.cut(self.to_size(images, sliding.size))
            return WindowedFeatures(whole, [self.encode_pixels(window) for window in windows])

    def segment(self, features: Any, vocabulary: Vocabulary) -> Segmentation:
        """Segment encoded images by the words of a vocabulary."""
        with self.autocast():
            if not isinstance(features, WindowedFeatures):
                return self.segment_features(features, vocabulary)
            return average_windows(
                features, self.inference.sliding, lambda part: self.segment_features(part, vocabulary)
            )

    def with_prompts(self, features: Any, prompts: Mapping[int, Prompts]) -> Any:
        """The features of an image together with what a user points at, for `segment`.

        Args:
            features: of one image, from `encode`.
            prompts: of rows of the vocabulary that `segment` will be given, one prompt each, as for
                `PromptableModel.masks`; the other rows are looked for as without prompts.

        Raises:
            TypeError: for a model that takes words or prompts, but not both.
            ValueError: for features of several images.
        """
        raise TypeError(f"{type(self).__name__} does not take prompts for words; leave them out")

    def word_masks(self, features: Any, vocabulary: Vocabulary, size: tuple[int, int]) -> Tensor:
        """Where each class of a vocabulary is in an encoded image, given that all of them are there.

        Of a model that makes label maps, these classes alone compete for the pixels: the masks do not overlap, and
        leave no pixel out. A model that answers each word by itself overrides it; its masks may do both.

        Args:
            features: of one image, from `encode`.
            vocabulary: N classes.
            size: (H, W) of the masks.

        Returns:
            (N, H, W) bool.

        Raises:
            ValueError: for features of several images.
        """
        labels = self.segment(features, vocabulary).at_image_size(vocabulary, size)["labels"]
        return labels == torch.arange(vocabulary.num_classes, device=labels.device)[:, None, None]

    def forward(
        self, batched_inputs: list[dict[str, Any]], vocabulary: Vocabulary | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses while training, else for each input what `Segmentation.at_image_size` gives.

        The images of a batch share one pass, also those of different sizes.

        Raises:
            ValueError: when the inputs name no vocabulary, or more than one.
        """
        vocabulary = vocabulary or common_vocabulary(batched_inputs)
        images = [x["image"] for x in batched_inputs]
        if self.training:
            targets = torch.stack([x["sem_seg"] for x in batched_inputs])
            with self.autocast():
                return self.losses(torch.stack([image.to(self.device) for image in images]), targets, vocabulary)
        with torch.no_grad():
            segmentation = self.segment(self.encode(images[0] if len(images) == 1 else images), vocabulary)
            outputs = []
            for i, x in enumerate(batched_inputs):
                size = (x.get("height", x["image"].shape[1]), x.get("width", x["image"].shape[2]))
                outputs.append(segmentation.of_image(i).at_image_size(vocabulary, size, self.inference.full_scores))
            return outputs

    def autocast(self) -> torch.autocast:
        """The precision in which the model is run."""
        dtype = PRECISIONS[self.inference.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Raw images (3, H, W) or (B, 3, H, W) of any type as a float batch on the model's device."""
        return (images if images.dim() == 4 else images[None]).to(self.device, torch.float)

    def to_size(self, images: Tensor | Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Raw images, as `encode` takes them, as a float batch (B, 3, *size) on the model's device.

        Raises:
            ValueError: for a sequence without images.
        """
        if isinstance(images, Tensor):
            return resize(self.to_pixels(images), size)
        if not images:
            raise ValueError("there are no images; give at least one")
        return torch.cat([resize(self.to_pixels(image), size) for image in images])


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
