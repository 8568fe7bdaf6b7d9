"""CLIP-Guided SAM: words inside SAM's image encoder, as a Detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import Tensor
from torch.nn import functional as F

from escnet.layers.class_choice import highest, regional_shares, take_classes
from escnet.layers.clip_image_encoder import ClipFeatures, ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.correlation import correlation_maps
from escnet.layers.guided_image_encoder import GuidedImageEncoder
from escnet.layers.pixels import PixelNormalisation
from escnet.layers.similarity_prompts import SimilarityPrompter
from escnet.meta_arch.clip_guided_sam_parts import GuidedParts, build_parts
from escnet.meta_arch.dense_clip import CLIP_KEYS
from escnet.meta_arch.guided_features import GuidedFeatures
from escnet.meta_arch.guided_sam_view import sam_of_word
from escnet.meta_arch.interfaces import (
    AskedWords,
    InferenceOptions,
    LearningPart,
    MaskPrediction,
    PromptableModel,
    Prompts,
    SegmentingModel,
    resize,
)
from escnet.meta_arch.mask_scores import MaskScores
from escnet.meta_arch.sam import predict_masks
from escnet.meta_arch.segmentation import Segmentation
from escnet.meta_arch.text_prompting import TextPrompting
from escnet.vocabulary import Vocabulary


class WordAnswer(NamedTuple):
    """SAM's answer to P words in one image.

    Attributes:
        prediction: their masks.
        similarity: (P,h,w) that they were asked by.
        embedding: (P,C,h,w) SAM's image features of each.
    """

    prediction: MaskPrediction
    similarity: Tensor
    embedding: Tensor


class DrawnWords(NamedTuple):
    """The answers to some of the words of one image.

    Attributes:
        places: (P,) of the words among all that are asked for.
        prediction: their masks.
        is_given: (P,) whether a user has pointed at them.
        similarity: (P,h,w) that they were asked by.
    """

    places: Tensor
    prediction: MaskPrediction
    is_given: Tensor
    similarity: Tensor


@META_ARCH_REGISTRY.register()
class ClipGuidedSam(SegmentingModel, PromptableModel):
    """CLIP-Guided SAM (Jalilian and Bais, "CLIP-Guided SAM: Parameter-Efficient Semantic Conditioning ...").

    Adapters bring a word's text feature, CLIP's dense features and their similarity into SAM's image encoder; the rest
    is SAM. With points, boxes or masks it answers as SAM does (`masks` with prompts, the paper's manual mode); from a
    word alone, with points and a mask prompt that are read off the similarity (its text-only mode).

    The paper makes no label map. Here the masks of all words compete: `MaskScores`, whose score of a word says whether
    it is there at all (`presence`).

    Args:
        parts: the modules.
        inference: how images are run.
        prompting: how a word alone is asked for.
        norm: what dense features are divided by, "channels" or "cells".
        subtracts_empty: what enters SAM of a word is its feature less that of its templates without a word.
        smoothing: side of the squares of cells over which similarities are averaged.
        mask_share: of SAM's masks in a score, the rest is CLIP's own map.
        max_words: that are asked for, those that CLIP's maps rank highest; 0 for all.
        word_chunk: words in SAM at a time; changes speed and memory, never the result. 0 for all.

    Raises:
        ValueError: for an unknown norm, or sliding windows.
    """

    prediction_keys = (
        *CLIP_KEYS,
        "MODEL.SAM.NAME",
        "MODEL.MASK_SHARE",
        *(
            f"MODEL.GUIDED.{key}"
            for key in (
                "IMAGE_SIZE", "ADAPTERS", "BLOCKS", "BOTTLENECK", "SCALE", "INNER_SKIP", "SIGNALS", "NORM",
                "SUBTRACT_EMPTY", "CLIP_PIXELS", "LORA", "POINTS", "THRESHOLD", "MASK_PROMPT", "MASK_LEVELS",
                "POINT_SEED", "POINT_DRAWS", "PRESENCE", "MAX_WORDS",
            )
        ),
    )  # fmt: skip
    cost_parts: ClassVar = {
        "SAM image encoder": r"encoder\.encoder",
        "adapters": r"encoder\.(plain|semantic)",
        "SAM prompt encoder": r"prompt_encoder",
        "SAM mask decoder": r"mask_decoder",
        "CLIP image encoder": r"clip_image",
        "CLIP text encoder": r"clip_text",
    }
    text_encoder = "clip_text"
    takes_words = True
    has_sliding_windows = False

    @configurable
    def __init__(
        self,
        *,
        parts: GuidedParts,
        inference: InferenceOptions,
        prompting: TextPrompting,
        norm: str = "channels",
        subtracts_empty: bool = False,
        smoothing: int = 1,
        mask_share: float = 0.8,
        max_words: int = 0,
        word_chunk: int = 4,
    ) -> None:
        if norm not in ("channels", "cells"):
            raise ValueError(f"MODEL.GUIDED.NORM is {norm!r}; it has to be channels or cells")
        super().__init__(inference)
        self.encoder: GuidedImageEncoder = parts.encoder
        self.prompt_encoder: PromptEncoder = parts.prompt_encoder
        self.mask_decoder: MaskDecoder = parts.mask_decoder
        self.clip_image: ClipImageEncoder = parts.clip_image
        self.clip_text: ClipTextEncoder = parts.clip_text
        self.register_buffer("logit_scale", torch.tensor(float(parts.logit_scale)))
        self.normalise: PixelNormalisation = parts.normalise
        self.normalise_clip: PixelNormalisation = parts.normalise_clip
        self.clip_size = parts.clip_size
        self.prompting, self.norm, self.subtracts_empty = prompting, norm, subtracts_empty
        self.smoothing, self.mask_share = smoothing, mask_share
        self.max_words, self.word_chunk = max_words, word_chunk

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Constructor arguments from a config; reads the public weights unless MODEL.WEIGHTS brings all of them.

        Raises:
            ValueError: a value of MODEL.GUIDED cannot be used.
        """
        own = cfg.MODEL.GUIDED
        if cfg.TEST.SLIDING.ENABLED:
            raise ValueError("CLIP-Guided SAM has no sliding windows; set TEST.SLIDING.ENABLED to False")
        parts = build_parts(cfg)
        levels = tuple(own.MASK_LEVELS) if own.MASK_PROMPT else None
        return {
            "parts": parts,
            "inference": InferenceOptions.of_square(cfg, parts.image_size),
            "prompting": TextPrompting(
                SimilarityPrompter(own.POINTS, own.THRESHOLD),
                levels,
                own.POINT_SEED,
                own.POINT_DRAWS,
                tuple(own.PRESENCE),
            ),
            "norm": own.NORM,
            "subtracts_empty": own.SUBTRACT_EMPTY,
            "smoothing": cfg.MODEL.CLIP.SMOOTHING,
            "mask_share": cfg.MODEL.MASK_SHARE,
            "max_words": own.MAX_WORDS,
            "word_chunk": own.WORD_CHUNK,
        }

    @property
    def input_size(self) -> int:
        """Side of SAM's square input in pixels, in which prompts are given."""
        return self.inference.image_size[0]

    @property
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of the mask logits: four to a side of a patch."""
        side = 4 * self.input_size // self.encoder.patch_size
        return side, side

    def mask_prompt(self, region: Tensor) -> Tensor:
        """With the logits of the mask prompts that words get, if they get any; see `PromptableModel.mask_prompt`."""
        own = self.prompting.mask_prompt(region)
        return super().mask_prompt(region) if own is None else own

    def encode_pixels(self, pixels: Tensor) -> GuidedFeatures:
        """CLIP's features, and what of SAM's is the same for all words, of images (B, 3, S, S) of SAM's size."""
        is_by_cells = self.norm == "cells"
        pooled = is_by_cells or "clip" in self.prompting.presence
        clip = self.clip_image(self.normalise_clip(resize(pixels, self.clip_size)), pooled, projected=is_by_cells)
        vision = clip.dense
        if is_by_cells:
            # The published code's norm is over all tokens, that of the whole image among them.
            squares = clip.projected.square().sum(dim=(2, 3)) + clip.pooled.square()
            vision = clip.projected / squares.sqrt()[:, :, None, None]
        return GuidedFeatures(self.encoder.begin(self.normalise(pixels), vision), clip, vision)

    def of_images(self, features: GuidedFeatures, rows: Tensor) -> GuidedFeatures:
        """The features of the images `rows` (P,), one for each prompt."""
        return replace(features, rows=rows.to(features.vision.device), remembered={})

    def with_prompts(self, features: GuidedFeatures, prompts: Mapping[int, Prompts]) -> GuidedFeatures:
        """The features together with what a user points at; see `SegmentingModel.with_prompts`."""
        if len(features.vision) != 1:
            raise ValueError(f"prompts are for one image, and these are features of {len(features.vision)}")
        return replace(features, given=dict(prompts), remembered={})

    def masks(
        self,
        features: GuidedFeatures,
        prompts: Prompts | None,
        words: Vocabulary | AskedWords | None = None,
        multimask: bool = False,
    ) -> MaskPrediction:
        """Answer prompts, or words alone; see `PromptableModel.masks`.

        With words, prompts without a mask get that of the word, as in the paper's manual mode. Without words what
        depends on them is left out of the adapters.
        """
        if prompts is None and words is None:
            raise ValueError("there are neither prompts nor words; give at least one of them")
        with self.autocast():
            embedding, similarity = self.embed(features, words, prompts)
            if prompts is None:
                numbers = self.prompting.random_numbers(len(similarity), self.training)
                return self.prompting.ask(self, embedding, similarity, self.input_size, numbers, multimask)
            return self._point(embedding, prompts, similarity, multimask)

    def segment_features(self, features: GuidedFeatures, vocabulary: Vocabulary) -> Segmentation:
        """Logits (B, M, 4h, 4w) on SAM's grid."""
        text, heard = self.clip_text.encode(vocabulary), self._hear(vocabulary)
        correlation = correlation_maps(features.clip.dense, text, self.smoothing)
        rows = torch.arange(len(text), device=text.device).expand(len(correlation), -1)
        chosen = self.max_words and self.max_words < len(text)
        if chosen:
            ranks = regional_shares(self.map_logits(correlation))
            for row in features.given:
                ranks[:, row] = torch.inf
            rows = highest(ranks, self.max_words)
            correlation = take_classes(correlation, rows)
        logits, similarities = [], []
        for b, asked in enumerate(rows):
            image = features.of_image(b)
            scores, whole = self.competition(image.clip, correlation[b : b + 1], text[asked])
            shown = []
            for drawn in self._draw(image, heard, asked):
                masks, quality = drawn.prediction.logits[:, 0], drawn.prediction.quality[:, 0]
                presence = self.presence(scores, whole, drawn.places, masks, quality)
                # What a user points at is there.
                scores.add(drawn.places, masks, presence.masked_fill(drawn.is_given, 1.0))
                shown.append(drawn.similarity)
            logits.append(scores.logits())
            similarities.append(torch.cat(shown))
        prompts = self.prompting.shown(torch.stack(similarities))
        return Segmentation(torch.stack(logits), rows if chosen else None, [correlation], [prompts])

    def map_logits(self, correlation: Tensor) -> Tensor:
        """CLIP's own logits (B, N, h, w) of correlation maps."""
        return correlation * self.logit_scale

    def competition(self, clip: ClipFeatures, correlation: Tensor, text: Tensor) -> tuple[MaskScores, Tensor | None]:
        """What the masks of the words of one image are judged by.

        Args:
            clip: CLIP's features of it.
            correlation: (1, N, h, w) of these words.
            text: (N, D) their features.

        Returns:
            The scores, without masks as yet, and (N,) CLIP's probability of each word for the whole image, or None
            where `presence` does not ask for it.
        """
        probability = F.interpolate(
            self.map_logits(correlation).softmax(dim=1), self.mask_size, mode="bilinear", align_corners=False
        )
        whole = None
        if "clip" in self.prompting.presence:
            pooled = F.normalize(clip.pooled[0].float(), dim=-1)
            whole = (text @ pooled * self.logit_scale).softmax(dim=0)
        return MaskScores(probability[0], self.mask_share), whole

    def presence(
        self, scores: MaskScores, whole: Tensor | None, places: Tensor, masks: Tensor, quality: Tensor
    ) -> Tensor:
        """(P,) how surely words are there whose masks were drawn.

        Args:
            scores, whole: from `competition`.
            places: (P,) of the words.
            masks: (P, H, W) their logits.
            quality: (P,) what SAM expects of them.
        """
        found = {"quality": quality, "inside": scores.inside(places, masks)}
        if whole is not None:
            found["clip"] = whole[places]
        return self.prompting.presence_of(found)

    def draw(self, image: GuidedFeatures, heard: Tensor, numbers: Tensor) -> WordAnswer:
        """The masks of words in one image.

        Args:
            image: its features.
            heard: (P, D) what of the words enters SAM.
            numbers: that decide the points, from `TextPrompting.random_numbers`.
        """
        of_image = torch.zeros(heard.shape[0], dtype=torch.long, device=heard.device)
        signals = image.signals(heard, of_image, self.smoothing)
        embedding = self.encoder.finish(image.state, signals)
        prediction = self.prompting.ask(self, embedding, signals.similarity, self.input_size, numbers)
        return WordAnswer(prediction, signals.similarity, embedding)

    def word_masks(self, features: GuidedFeatures, vocabulary: Vocabulary, size: tuple[int, int]) -> Tensor:
        """(N, H, W) bool: the mask of each word by itself, as in the paper; see `SegmentingModel.word_masks`."""
        if len(features.vision) != 1:
            raise ValueError(f"these are features of {len(features.vision)} images; ask for those of one")
        text = self._hear(vocabulary)
        with self.autocast():
            words = torch.arange(len(vocabulary.names))
            masks = [drawn.prediction.logits for drawn in self._draw(features, text, words)]
        return F.interpolate(torch.cat(masks), size, mode="bilinear", align_corners=False)[:, 0] > 0

    def losses(self, images: Tensor, targets: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
        raise TypeError("CLIP-Guided SAM learns a mask for each word: set TASK to promptable")

    def as_sam(self, word: Vocabulary | None = None) -> Sam:
        """The SAM in it, of the same weights, with a word in it, for what knows segment_anything alone.

            predictor = SamPredictor(model.as_sam(Vocabulary(["cat"])))
            predictor.set_image(photo)
            masks, quality, logits = predictor.predict(point_coords, point_labels)

        Args:
            word: of one row; None for no word.

        Raises:
            ValueError: for several words, or images of another size than SAM's own.
        """
        return sam_of_word(self, word)

    def learning_parts(self, cfg: Any) -> list[LearningPart]:
        """CLIP learns more slowly than what is SAM's."""
        return [LearningPart("CLIP image encoder", r"clip_image\.", cfg.SOLVER.CLIP_MULTIPLIER)]

    def embed(
        self, features: GuidedFeatures, words: Vocabulary | AskedWords | None, prompts: Prompts | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """SAM's image embedding (P,C,h,w) for each word, and the word's similarity (P,h,w) with the image.

        Of the last words they are remembered, so that further prompts of them cost no pass of the encoder.

        Args:
            features: of P images, or of one for all.
            words: one for all, or P; None for SAM's embedding (B,C,h,w) or (P,C,h,w) without a word.
            prompts: whose number is P, where neither images nor words say it.

        Raises:
            ValueError: there are other numbers of words than of images or prompts.
        """
        images, device = features.rows, features.vision.device
        if words is None:
            (embedding,) = features.remember("", lambda: (self.encoder.finish(features.state, None),))
            return (embedding if images is None else embedding[images]), None
        counts = [len(x) for x in (images, prompts and prompts.labels) if x is not None]
        count = counts[0] if counts else len(words.rows)
        asked = AskedWords.of(words, count)
        number = len(features.vision)
        is_one = number == 1 and asked is not words and len(words.rows) == 1
        rows = asked.rows[:1] if is_one else asked.rows
        if number == 1:
            images = torch.zeros_like(rows)
        elif images is None:
            images = torch.arange(number)

        def hear() -> tuple[Tensor, Tensor]:
            text = self._hear(asked.vocabulary)[rows.to(device)]
            signals = features.signals(text, images.to(device), self.smoothing)
            return self.encoder.finish(features.state, signals), signals.similarity

        key = words if asked is not words else (asked.vocabulary, tuple(rows.tolist()))
        embedding, similarity = features.remember(key, hear)
        if is_one:
            return embedding.expand(count, -1, -1, -1), similarity.expand(count, -1, -1)
        return embedding, similarity

    def similarity(self, features: GuidedFeatures, vocabulary: Vocabulary) -> Tensor:
        """(N,h,w) of words with one image: what prompts are read off."""
        text = self._hear(vocabulary)
        return features.signals(text, text.new_zeros(len(text), dtype=torch.long), self.smoothing).similarity

    def _hear(self, vocabulary: Vocabulary) -> Tensor:
        """(N,D) what of words enters SAM."""
        text = self.clip_text.encode(vocabulary)
        return self.heard(text, self.clip_text.encode_empty(vocabulary.templates)) if self.subtracts_empty else text

    @staticmethod
    def heard(text: Tensor, empty: Tensor) -> Tensor:
        """Features (N,D) of words, less that of no word (D,)."""
        return F.normalize(text - empty, dim=-1)

    def _draw(self, image: GuidedFeatures, text: Tensor, rows: Tensor) -> Iterator[DrawnWords]:
        """The masks of the words `rows` (M,) of one image, some of them at a time."""
        numbers = self.prompting.random_numbers(0, False)
        for places in torch.arange(len(rows), device=text.device).split(self.word_chunk or max(len(rows), 1)):
            of_chunk = rows.to(text.device)[places]
            answer, similarity, embedding = self.draw(image, text[of_chunk], numbers)
            is_given = torch.zeros_like(places, dtype=torch.bool)
            for place, row in enumerate(of_chunk.tolist() if image.given else ()):
                if row in image.given:
                    is_given[place] = True
                    own = slice(place, place + 1)
                    exact = self._point(embedding[own], image.given[row], similarity[own])
                    answer.logits[own], answer.quality[own] = exact
            yield DrawnWords(places, answer, is_given, similarity)

    def _point(
        self, embedding: Tensor, prompts: Prompts, similarity: Tensor | None, multimask: bool = False
    ) -> MaskPrediction:
        """The masks of prompts; those without a mask prompt get that of their words, by similarities (P,h,w)."""
        if similarity is not None and prompts.masks is None:
            prompts = replace(prompts, masks=self.prompting.hint(similarity, self.mask_size))
        return predict_masks(self, embedding, prompts, multimask, self.inference.image_size)
