"""Segmenter: an image and words in, masks out; for users of a trained model."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import BinaryIO

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor

import escnet.meta_arch  # noqa: F401  (registers the systems)
from escnet.data.images import MAX_PIXELS, any_picture
from escnet.devices import usable_device
from escnet.encoded_image import EncodedImage, evaluating
from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.meta_arch.segmentation import Segmentation
from escnet.pretrained.loading import load_exactly
from escnet.pretrained.reading import load_checkpoint
from escnet.prompted_masks import PromptedMasks
from escnet.publishing.chosen_models import chosen_config
from escnet.publishing.published import PublishedModel
from escnet.segmentation_result import SegmentationResult
from escnet.vocabulary import Vocabulary
from escnet.word_lists import WordList
from escnet.word_prompts import PromptError, PromptsOfWords, WordPrompts, model_prompts, prompts_by_row

__all__ = [
    "EncodedImage",
    "Picture",
    "PromptError",
    "PromptedMasks",
    "SegmentationResult",
    "Segmenter",
    "WordPrompts",
]

logger = logging.getLogger(__name__)

Picture = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | Tensor
ValueRange = tuple[float, float]


class Segmenter(PublishedModel):
    """A model, ready to segment any image by any words.

        segmenter = Segmenter.from_config("configs/escnet/vitb16.yaml", "model_final.pth")
        segmenter = Segmenter.from_pretrained("hub:owner/name")
        result = segmenter("photo.jpg", ["cat", "grass"])
        result.save_overlay("photo_overlay.png")

    Many threads may call one segmenter.

    Args:
        model: one of the systems; it is put in evaluation mode.
        templates: prompt templates of the class names given as strings, as for `Vocabulary`.
    """

    def __init__(self, model: SegmentingModel, templates: str | Sequence[str] = "single") -> None:
        self.model = model.eval()
        self.templates = templates
        self._single_classes: set[Vocabulary] = set()
        self._lock = threading.Lock()

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
            weights: a checkpoint of this project, which brings every weight, "shipped:esc_net", that of MojiScenes,
                or the weights of a published model (a folder, "hub:owner/name"); else MODEL.WEIGHTS of the config.
                Without either, CLIP and SAM are loaded as configured and what lies between them is random.
            opts: KEY, VALUE, KEY, VALUE ... to set in the config.
            device: "cpu", "cuda", "cuda:1", "mps", a torch.device ...; else MODEL.DEVICE, or the CPU where that is a
                GPU that is not there.

        Raises:
            ConfigError: for a missing file, an unknown key or a value of the wrong kind.
            WeightsError: for weights that are missing or do not fit.
        """
        cfg = chosen_config(None, config, opts, weights)
        cfg.MODEL.DEVICE = usable_device(device, cfg.MODEL.DEVICE)
        # Read before the model is built: a wrong path should not cost the user a minute.
        state = load_checkpoint(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
        return cls._built(cfg, device, state, cfg.MODEL.WEIGHTS)

    @classmethod
    def _built(
        cls, cfg: CfgNode, device: str | torch.device | None, weights: Mapping[str, Tensor] | None, source: str
    ) -> Segmenter:
        cfg.MODEL.DEVICE = usable_device(device, cfg.MODEL.DEVICE)
        model = build_model(cfg)
        if weights is not None:
            load_exactly(model, dict(weights), source, "Use the configuration it was trained with")
        elif any(parameter.requires_grad for parameter in model.parameters()):
            logger.warning(
                "no checkpoint was given: what %s has to learn is random, so expect noise", type(model).__name__
            )
        segmenter = cls(model, cfg.TEST.TEMPLATES)
        segmenter.cfg = cfg
        return segmenter

    def __call__(
        self,
        image: Picture,
        vocabulary: WordList | str | Vocabulary,
        background: WordList | str = (),
        value_range: ValueRange | None = None,
        max_pixels: int | None = MAX_PIXELS,
        prompts: PromptsOfWords | None = None,
    ) -> SegmentationResult:
        """Segment one image.

            segmenter("photo.jpg", "cat, grass", prompts={"cat": WordPrompts(points=[(120, 80)])})

        Args:
            image: a path, the bytes of a file or an open file; a PIL image, an array or a tensor, as
                `escnet.data.images.to_rgb` takes them.
            vocabulary: class names, each with synonyms after "," or "|", or a mapping of names to synonyms; or one
                string, "cat, grass, building|edifice"; or the path of a file, as `Vocabulary.parse` takes it; or a
                Vocabulary.
            background: further words in the same forms, whose pixels become the class "background".
            value_range: the values of black and of white, of an image that has others than its type says.
            max_pixels: the most pixels of a file that is decoded; None for no limit, by default Pillow's, 179 million.
            prompts: what is pointed at, for a model that takes it: of some of the words, each by its name or one of its
                synonyms, `WordPrompts` or a mapping such as {"box": (90, 40, 200, 160)}. The others are looked for as
                without prompts.

        Raises:
            ImageError: for a file that is missing, damaged, too large or not an image.
            ValueError: for an array that is not an image.
            VocabularyError: for words that cannot be used.
            PromptError: for prompts that cannot be used, or a model that takes none for words.
        """
        # Wrong words and prompts should be told before the image is encoded.
        vocabulary = self.vocabulary(vocabulary, background)
        named = prompts_by_row(prompts or {}, vocabulary, type(self.model))
        pixels = self.preprocess(image, value_range, max_pixels)
        given = model_prompts(named, self.model, pixels.shape[:2])
        return self._encode(pixels).segment(vocabulary, given)

    def batch(
        self,
        images: Iterable[Picture],
        vocabulary: WordList | str | Vocabulary,
        background: WordList | str = (),
        value_range: ValueRange | None = None,
        max_pixels: int | None = MAX_PIXELS,
    ) -> list[SegmentationResult]:
        """Segment several images of any sizes in one pass of the model, each as a call would segment it by itself.

            street, garden = segmenter.batch(["street.jpg", "garden.jpg"], ["sky", "road", "tree"])

        Memory grows with the number of images.

        Args:
            images: of which each may be what a call takes.
            vocabulary, background, value_range, max_pixels: as for a call.

        Returns:
            The result of each image, in order; equal to that of a call but for rounding.

        Raises:
            ImageError, ValueError, VocabularyError: as a call does.
        """
        vocabulary = self.vocabulary(vocabulary, background)
        pictures = [self.preprocess(image, value_range, max_pixels) for image in images]
        if not pictures:
            return []
        with evaluating(self.model) as model:
            features = model.encode([_to_tensor(pixels) for pixels in pictures])
            segmentation = model.segment(features, vocabulary)
        return [self.postprocess(p, segmentation.of_image(i), vocabulary) for i, p in enumerate(pictures)]

    def encode(
        self, image: Picture, value_range: ValueRange | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> EncodedImage:
        """Encode an image once, to be segmented by as many vocabularies as are wanted.

            street = segmenter.encode("street.jpg")
            result, other = street(["sky", "road"]), street("car, tree")

        Args:
            image, value_range, max_pixels: as for a call.

        Raises:
            ImageError, ValueError: as a call does.
        """
        return self._encode(self.preprocess(image, value_range, max_pixels))

    def vocabulary(self, vocabulary: WordList | str | Vocabulary, background: WordList | str = ()) -> Vocabulary:
        """The words of a call as a Vocabulary with this segmenter's templates; a Vocabulary is left as it is.

        Raises:
            VocabularyError: for words that cannot be used, or background words beside a Vocabulary.
        """
        vocabulary = Vocabulary.of(vocabulary, background, self.templates)
        self._warn_of_single_class(vocabulary)
        return vocabulary

    def preprocess(
        self, image: Picture, value_range: ValueRange | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> np.ndarray:
        """Any picture to (H, W, 3) uint8 RGB; arguments as those of a call."""
        return any_picture(image, value_range, max_pixels)

    def postprocess(self, pixels: np.ndarray, segmentation: Segmentation, vocabulary: Vocabulary) -> SegmentationResult:
        """Bring the segmentation of one image to its size, and to the CPU."""
        output = segmentation.at_image_size(vocabulary, pixels.shape[:2], self.model.inference.full_scores)
        rows = segmentation.rows if segmentation.map_rows is None else segmentation.map_rows
        return SegmentationResult(
            labels=output["labels"].cpu().numpy().astype(np.int32),
            scores=output["scores"].float().cpu().numpy(),
            image=pixels,
            vocabulary=vocabulary,
            correlations=[correlation.float().cpu() for correlation in segmentation.correlations],
            prompts=[PseudoPrompts(*(getattr(p, f.name).cpu() for f in fields(p))) for p in segmentation.prompts],
            rows=None if rows is None else rows.cpu(),
            class_scores=output["sem_seg"].float().cpu().numpy() if "sem_seg" in output else None,
            considered=segmentation.logits.shape[1],
        )

    def _encode(self, pixels: np.ndarray) -> EncodedImage:
        with evaluating(self.model) as model:
            features = model.encode(_to_tensor(pixels))
        return EncodedImage(self, pixels, features)

    def _warn_of_single_class(self, vocabulary: Vocabulary) -> None:
        if vocabulary.num_classes > 1:
            return
        with self._lock:
            is_told = vocabulary in self._single_classes
            self._single_classes.add(vocabulary)
        if not is_told:
            logger.warning(
                'the vocabulary has one class, "%s", to which every pixel will belong with a score of 1: add further '
                "classes, or background words for what else there is",
                vocabulary.names[0],
            )


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) to (3, H, W)"""
    return torch.from_numpy(pixels).permute(2, 0, 1)
