"""Segmenter: an image and words in, masks out; for users of a trained model."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor

import escnet.meta_arch  # noqa: F401  (registers the systems)
from escnet.config import load_config
from escnet.data.images import read_image, to_rgb, write_labels
from escnet.devices import usable_device
from escnet.drawing.overlay import overlay
from escnet.drawing.prompt_sheets import draw_prompts
from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.meta_arch.segmentation import Segmentation
from escnet.pretrained.loading import load_exactly
from escnet.pretrained.reading import load_checkpoint
from escnet.safe_files import replacing
from escnet.vocabulary import Vocabulary, VocabularyError

logger = logging.getLogger(__name__)

Picture = str | os.PathLike | Image.Image | np.ndarray


@dataclass(frozen=True)
class SegmentationResult:
    """What a model says of one image, H by W pixels.

    Attributes:
        labels: (H, W) int32, indices into `class_names`.
        scores: (H, W) float32, the probability of each pixel's label.
        image: (H, W, 3) uint8 RGB, the image as it was read.
        vocabulary: the words by which it was segmented.
        correlations: (1, M, h, w) each, CLIP's correlation maps, then those after each block; on the CPU.
        prompts: the pseudo prompts of each block, on the CPU.
        rows: (1, M) the vocabulary rows to which these maps belong; None for all in order.
    """

    labels: np.ndarray
    scores: np.ndarray
    image: np.ndarray = field(repr=False)
    vocabulary: Vocabulary
    correlations: list[Tensor] = field(default_factory=list, repr=False)
    prompts: list[PseudoPrompts] = field(default_factory=list, repr=False)
    rows: Tensor | None = field(default=None, repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each index in `labels`."""
        return self.vocabulary.class_names

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool: where the class of this name is.

        Raises:
            ValueError: when the vocabulary has no class of this name.
        """
        if name not in self.class_names:
            near = difflib.get_close_matches(name, self.class_names, n=5, cutoff=0.3) or self.class_names[:5]
            known = ", ".join(f'"{other}"' for other in near)
            raise ValueError(f'the vocabulary has no class "{name}"; it has {len(self.class_names)}, such as {known}')
        return self.labels == self.class_names.index(name)

    def summary(self) -> dict[str, Any]:
        """What json.dump can write: the image's size, all class names, and the classes present, the largest first."""
        areas = np.bincount(self.labels.ravel(), minlength=len(self.class_names))
        totals = np.bincount(self.labels.ravel(), self.scores.ravel(), minlength=len(self.class_names))
        present = sorted(np.flatnonzero(areas).tolist(), key=lambda c: -areas[c])
        return {
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "class_names": list(self.class_names),
            "background": list(self.vocabulary.background),
            "templates": list(self.vocabulary.templates),
            "classes": [
                {
                    "id": c,
                    "name": self.class_names[c],
                    "pixels": int(areas[c]),
                    "fraction": float(areas[c] / self.labels.size),
                    "mean_score": float(totals[c] / areas[c]),
                }
                for c in present
            ],
        }

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """The image tinted by class, with a legend; see `escnet.visualization.overlay`."""
        return overlay(self.image, self.labels, self.class_names, self.scores, alpha)

    def draw_prompts(self, max_classes: int = 6) -> Image.Image:
        """The correlation maps and pseudo prompts of the largest classes; see `escnet.prompt_drawings.draw_prompts`."""
        return draw_prompts(
            self.image, self.labels, self.vocabulary, self.correlations, self.prompts, self.rows, max_classes
        )

    def save_overlay(self, path: str | os.PathLike, alpha: float = 0.5) -> None:
        """Write `overlay` to a file, whose suffix says the format; never half-written."""
        _save_picture(path, self.overlay(alpha))

    def save_prompts(self, path: str | os.PathLike, max_classes: int = 6) -> None:
        """Write `draw_prompts` to a file, whose suffix says the format; never half-written."""
        _save_picture(path, self.draw_prompts(max_classes))

    def save_labels(self, path: str | os.PathLike) -> None:
        """Write `labels` as a grey PNG, 8-bit when every id is below 256, else 16-bit; never half-written."""
        write_labels(path, self.labels)


class Segmenter:
    """A model, ready to segment any image by any words.

        segmenter = Segmenter.from_config("configs/escnet/vitb16.yaml", "model_final.pth")
        result = segmenter("photo.jpg", ["cat", "grass"])
        result.save_overlay("photo_overlay.png")

    Args:
        model: one of the systems; it is put in evaluation mode.
        templates: prompt templates of the class names given as strings, as for `Vocabulary`.
    """

    def __init__(self, model: SegmentingModel, templates: str | Sequence[str] = "single") -> None:
        self.model = model.eval()
        self.templates = templates

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike | CfgNode,
        weights: str | os.PathLike | None = None,
        opts: Sequence[str] = (),
        device: str | torch.device | None = None,
    ) -> Segmenter:
        """Build a model from a configuration and a checkpoint.

        Args:
            config: the path of a .yaml file, or a Detectron2 config that has escnet's keys (it is not changed).
            weights: a checkpoint of this project, which brings every weight, or "shipped:esc_net", that of MojiScenes;
                else MODEL.WEIGHTS of the config. Without either, CLIP and SAM are loaded as configured and what lies
                between them is random.
            opts: KEY, VALUE, KEY, VALUE ... to set in the config.
            device: "cpu", "cuda", "cuda:1", "mps", a torch.device ...; else MODEL.DEVICE, or the CPU where that is a
                GPU that is not there.

        Raises:
            ConfigError: for a missing file, an unknown key or a value of the wrong kind.
            WeightsError: for weights that are missing or do not fit.
        """
        cfg = load_config(config, opts)
        if weights is not None:
            cfg.MODEL.WEIGHTS = str(weights)
        cfg.MODEL.DEVICE = usable_device(device, cfg.MODEL.DEVICE)
        # Read before the model is built: a wrong path should not cost the user a minute.
        state = load_checkpoint(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
        model = build_model(cfg)
        if state is not None:
            load_exactly(model, state, cfg.MODEL.WEIGHTS, "Use the configuration it was trained with")
        elif any(parameter.requires_grad for parameter in model.parameters()):
            logger.warning(
                "no checkpoint was given: what %s has to learn is random, so expect noise", type(model).__name__
            )
        return cls(model, cfg.TEST.TEMPLATES)

    def __call__(
        self, image: Picture, vocabulary: Sequence[str] | str | Vocabulary, background: Sequence[str] | str = ()
    ) -> SegmentationResult:
        """Segment one image.

        Args:
            image: a path, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) of uint8, uint16 or
                floating point in 0..1.
            vocabulary: class names, each with synonyms after commas; or one string, "cat, grass, building|edifice",
                or the path of a .txt file with a class per line; or a Vocabulary.
            background: further words, whose pixels become the class "background".

        Raises:
            ImageError: for a file that is missing, damaged or not an image.
            ValueError: for an array that is not an image.
            VocabularyError: for words that cannot be used.
        """
        # A wrong word should be told before the image is encoded.
        vocabulary = self.vocabulary(vocabulary, background)
        return self.encode(image)(vocabulary)

    def encode(self, image: Picture) -> EncodedImage:
        """Encode an image once, to be segmented by as many vocabularies as are wanted.

            street = segmenter.encode("street.jpg")
            result, other = street(["sky", "road"]), street("car, tree")

        Args:
            image: as for a call.

        Raises:
            ImageError, ValueError: as a call does.
        """
        pixels = self.preprocess(image)
        self.model.eval()
        with torch.no_grad():
            features = self.model.encode(torch.from_numpy(pixels).permute(2, 0, 1))
        return EncodedImage(self, pixels, features)

    def vocabulary(
        self, vocabulary: Sequence[str] | str | Vocabulary, background: Sequence[str] | str = ()
    ) -> Vocabulary:
        """The words of a call as a Vocabulary with this segmenter's templates; a Vocabulary is left as it is.

        Raises:
            VocabularyError: for words that cannot be used, or background words beside a Vocabulary.
        """
        if isinstance(vocabulary, Vocabulary):
            if background:
                raise VocabularyError("a Vocabulary brings its own background words; give them to its constructor")
            return vocabulary
        if isinstance(vocabulary, str):
            vocabulary = Vocabulary.parse(vocabulary).names
        if isinstance(background, str):
            background = Vocabulary.parse(background).names if background.strip() else ()
        return Vocabulary(vocabulary, background, self.templates)

    def preprocess(self, image: Picture) -> np.ndarray:
        """Any picture to (H, W, 3) uint8 RGB."""
        return read_image(image) if isinstance(image, str | os.PathLike) else to_rgb(image)

    def postprocess(self, pixels: np.ndarray, segmentation: Segmentation, vocabulary: Vocabulary) -> SegmentationResult:
        """Bring a segmentation to the size of the image, and to the CPU."""
        output = segmentation.at_image_size(vocabulary, pixels.shape[:2], self.model.inference.full_scores)
        return SegmentationResult(
            labels=output["labels"].cpu().numpy().astype(np.int32),
            scores=output["scores"].float().cpu().numpy(),
            image=pixels,
            vocabulary=vocabulary,
            correlations=[correlation.float().cpu() for correlation in segmentation.correlations],
            prompts=[PseudoPrompts(*(getattr(p, f.name).cpu() for f in fields(p))) for p in segmentation.prompts],
            rows=None if segmentation.rows is None else segmentation.rows.cpu(),
        )


@dataclass(frozen=True)
class EncodedImage:
    """An image that `Segmenter.encode` has encoded: a call with words costs no further pass of the image encoder.

    Attributes:
        segmenter: by which.
        pixels: (H, W, 3) uint8 RGB.
        features: what the model has of it.
    """

    segmenter: Segmenter
    pixels: np.ndarray = field(repr=False)
    features: Any = field(repr=False)

    def __call__(
        self, vocabulary: Sequence[str] | str | Vocabulary, background: Sequence[str] | str = ()
    ) -> SegmentationResult:
        """Segment the image; words as for `Segmenter.__call__`.

        Raises:
            VocabularyError: for words that cannot be used.
        """
        words = self.segmenter.vocabulary(vocabulary, background)
        with torch.no_grad():
            segmentation = self.segmenter.model.segment(self.features, words)
        return self.segmenter.postprocess(self.pixels, segmentation, words)


def _save_picture(path: str | os.PathLike, picture: Image.Image) -> None:
    suffix = Path(path).suffix.lower()
    formats = Image.registered_extensions()
    if suffix not in formats:
        raise ValueError(f'{path}: "{suffix}" is not the suffix of a picture format; use .png or .jpg')
    with replacing(path) as temporary:
        picture.save(temporary, format=formats[suffix])
