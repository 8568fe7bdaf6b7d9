"""SAM-CLIP: one backbone that answers as SAM and as CLIP, as a Detectron2 meta-architecture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import Tensor
from torch.nn import functional as F

from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.correlation import correlation_maps
from escnet.layers.merged_backbone import MergedBackbone
from escnet.layers.merged_heads import ClipHead, Head, MergedFeatures, SamHead
from escnet.layers.pixels import SAM_DEVIATION, SAM_MEAN, PixelNormalisation
from escnet.layers.point_sampling import sample_points
from escnet.losses.segmentation import segmentation_loss
from escnet.meta_arch.interfaces import (
    ClassifyingModel,
    InferenceOptions,
    LearningPart,
    MaskPrediction,
    PromptableModel,
    Prompts,
    SegmentingModel,
)
from escnet.meta_arch.mask_scores import MaskScores
from escnet.meta_arch.representation import RepresentingModel
from escnet.meta_arch.sam import predict_masks
from escnet.meta_arch.segmentation import Segmentation
from escnet.pretrained.clip import build_clip
from escnet.pretrained.sam import build_sam
from escnet.vocabulary import Vocabulary

LABEL_MAPS = ("clip", "both")
TRAINED = ("head", "all", "none")
# Of a score as a mask prompt, a logit.
LARGEST_HINT = 8.0
# Nearer to 0 or 1 a score has no finite logit.
_EPSILON = 1e-4


@META_ARCH_REGISTRY.register()
class SamClip(SegmentingModel, PromptableModel, ClassifyingModel, RepresentingModel):
    """SAM-CLIP (Wang et al., "SAM-CLIP: Merging Vision Foundation Models towards Semantic and Spatial Understanding").

    One pass of the backbone answers four questions: `classify`, what is in the image; `masks`, what a point or a box
    belongs to, as SAM does; `segment` with `label_map="clip"`, where words are, from the CLIP head alone; and with
    "both", where each word with a cell above `score` becomes points and a mask prompt of the SAM head (sec. A.3), whose
    masks then give the word its shape (`MaskScores`, with the softmax over the words of the scaled similarity as p).

    Args:
        backbone: SAM's image encoder.
        clip_head: into the text space.
        prompt_encoder, mask_decoder: SAM's.
        clip_text: the CLIP teacher's text encoder, frozen.
        logit_scale: the CLIP teacher's temperature.
        inference: how images are run.
        label_map: which heads make a label map, "clip" or "both".
        points: most points drawn for a word (1 to 3 in the paper).
        score: above which a cell can be drawn as a point.
        mask_share: of the SAM head's masks in a score, the rest is the CLIP head's own map.
        smoothing: side of the squares of cells over which the CLIP head's maps are averaged.
        prompt_chunk: words in the mask decoder at a time; changes speed and memory, never the result.

    Raises:
        ValueError: for an unknown label map, or sliding windows with both heads.
    """

    prediction_keys = (
        "MODEL.CLIP.NAME",
        "MODEL.CLIP.SMOOTHING",
        "MODEL.SAM.NAME",
        "MODEL.MASK_SHARE",
        *(f"MODEL.SAM_CLIP.{key}" for key in ("IMAGE_SIZE", "POOLING", "LABEL_MAP", "POINTS", "SCORE")),
    )
    cost_parts: ClassVar = {
        "backbone": r"backbone",
        "CLIP head": r"clip_head",
        "SAM prompt encoder": r"prompt_encoder",
        "SAM mask decoder": r"mask_decoder",
        "CLIP text encoder": r"clip_text",
    }
    text_encoder = "clip_text"
    representations = ("backbone", "head", "both", "text", "all")

    @configurable
    def __init__(
        self,
        *,
        backbone: MergedBackbone,
        clip_head: ClipHead,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        clip_text: ClipTextEncoder,
        logit_scale: float,
        inference: InferenceOptions,
        label_map: str = "clip",
        points: int = 3,
        score: float = 0.5,
        mask_share: float = 0.8,
        smoothing: int = 1,
        prompt_chunk: int = 16,
    ) -> None:
        if label_map not in LABEL_MAPS:
            raise ValueError(f"MODEL.SAM_CLIP.LABEL_MAP must be one of {LABEL_MAPS}, got {label_map!r}")
        if label_map == "both" and inference.sliding is not None:
            raise ValueError("prompts are of whole objects: set TEST.SLIDING.ENABLED to False, or LABEL_MAP to clip")
        super().__init__(inference)
        self.normalise = PixelNormalisation(SAM_MEAN, SAM_DEVIATION)
        self.backbone = backbone
        self.clip_head = clip_head
        self.sam_head = SamHead()
        self.prompt_encoder = prompt_encoder.requires_grad_(False)
        self.mask_decoder = mask_decoder
        self.clip_text = clip_text.requires_grad_(False)
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))
        self.label_map = label_map
        self.points, self.score, self.mask_share = points, score, mask_share
        self.smoothing, self.prompt_chunk = smoothing, prompt_chunk

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Constructor arguments from a config; reads the public weights unless MODEL.WEIGHTS brings all of them.

        Raises:
            ValueError: for an unknown MODEL.SAM_CLIP.TRAIN.
        """
        own, brings_all = cfg.MODEL.SAM_CLIP, bool(cfg.MODEL.WEIGHTS)
        clip, tokenizer = build_clip(cfg.MODEL.CLIP.NAME, "" if brings_all else cfg.MODEL.CLIP.WEIGHTS)
        sam = build_sam(cfg.MODEL.SAM.NAME, "" if brings_all else cfg.MODEL.SAM.WEIGHTS)
        backbone = MergedBackbone(sam.image_encoder)
        embed_dim, hidden_dim = clip.visual.output_dim, own.HIDDEN_DIM or backbone.width
        head = ClipHead.from_encoder(
            sam.image_encoder, own.HEAD_BLOCKS, embed_dim, hidden_dim, own.POOLING, own.HEAD_CELLS
        )
        _set_trainable(backbone, head, sam.mask_decoder, own.TRAIN)
        return {
            "backbone": backbone,
            "clip_head": head,
            "prompt_encoder": sam.prompt_encoder,
            "mask_decoder": sam.mask_decoder,
            "clip_text": ClipTextEncoder(clip, tokenizer),
            "logit_scale": clip.logit_scale.exp().item(),
            "inference": InferenceOptions.from_config(cfg, "MODEL.SAM_CLIP.IMAGE_SIZE", backbone.patch_size),
            "label_map": own.LABEL_MAP,
            "points": own.POINTS,
            "score": own.SCORE,
            "mask_share": cfg.MODEL.MASK_SHARE,
            "smoothing": cfg.MODEL.CLIP.SMOOTHING,
        }

    @property
    def heads(self) -> dict[str, Head]:
        """The heads by the names of their teachers."""
        return {"clip": self.clip_head, "sam": self.sam_head}

    @property
    def input_size(self) -> int:
        """Side of the square input in pixels, in which prompts are given.

        Raises:
            ValueError: the model's input is not square.
        """
        height, width = self.inference.image_size
        if height != width:
            raise ValueError(f"prompts are for square images, and MODEL.SAM_CLIP.IMAGE_SIZE is {(height, width)}")
        return height

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) to which images are brought."""
        return self.inference.image_size

    @property
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of the mask logits: four to a side of a patch."""
        height, width = (4 * side // self.backbone.patch_size for side in self.inference.image_size)
        return height, width

    @property
    def patch_size(self) -> int:
        """Side of a cell in pixels."""
        return self.backbone.patch_size

    def representation(self, images: Tensor, name: str = "backbone") -> Tensor:
        """Output (B, W, h, w) of the last block of the backbone, of the CLIP head, or of both, (B, 2W, h, w).

        Text is what is compared with words (B, D, h, w), L2-normalised; all is (B, 2W + D, h, w).
        """
        parts = [part.permute(0, 3, 1, 2) for part in self._parts(images, name, pooled=False)]
        grid = parts[0].shape[-2:]
        # The head's grid may be coarser.
        same = (part if part.shape[-2:] == grid else F.interpolate(part, grid, mode="bilinear") for part in parts)
        return torch.cat(list(same), dim=1)

    def pooled_representation(self, images: Tensor, name: str = "backbone") -> Tensor:
        """The same of whole images: the mean over the cells of the backbone; of the head as the head itself pools."""
        return torch.cat(list(self._parts(images, name, pooled=True)), dim=1)

    def encode_pixels(self, pixels: Tensor, neck: bool = True) -> MergedFeatures:
        """One pass of the backbone over images of any size that its patches divide.

        Args:
            pixels: (B, 3, R1, R2) in 0..255, on the model's device.
            neck: whether the SAM head is going to be asked.
        """
        return MergedFeatures(self.backbone(self.normalise(pixels), neck), self.heads)

    def summary(self, features: MergedFeatures) -> Tensor:
        """(B, D) L2-normalised feature of each image."""
        with self.autocast():
            return F.normalize(features.of("clip").summary.float(), dim=-1)

    def text_features(self, vocabulary: Vocabulary) -> Tensor:
        """(rows, D) L2-normalised features of the rows of a vocabulary."""
        return self.clip_text.encode(vocabulary)

    def sentence_features(self, sentences: Sequence[str]) -> Tensor:
        """(n, D) L2-normalised features of whole sentences; the end of a long one is cut off."""
        return self.clip_text.encode_sentences(sentences)

    def of_images(self, features: MergedFeatures, rows: Tensor) -> Tensor:
        """SAM's image embedding (P, C, h, w) of the images `rows` (P,)."""
        embedding = features.of("sam").features
        return embedding[rows.to(embedding.device)]

    def masks(
        self,
        features: MergedFeatures | Tensor,
        prompts: Prompts,
        words: Vocabulary | None = None,
        multimask: bool = False,
    ) -> MaskPrediction:
        """Answer prompts with one mask each, or three; see `PromptableModel.masks`."""
        if words is not None:
            raise ValueError("SAM-CLIP takes prompts or words: leave the words out, or call `segment` with them")
        embedding = features.of("sam").features if isinstance(features, MergedFeatures) else features
        return predict_masks(self, embedding, prompts, multimask, self.inference.image_size)

    def losses(self, images: Tensor, targets: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
        """Cross entropy of the CLIP head's label map, for a fine-tuning on labelled pixels; see `SegmentingModel`."""
        features = self.encode_pixels(self.to_size(images, self.inference.image_size), neck=False)
        logits = self._correlation(features, vocabulary) * self.logit_scale
        return {"loss_sem_seg": segmentation_loss(logits, targets.to(logits.device))}

    def segment_features(self, features: MergedFeatures, vocabulary: Vocabulary) -> Segmentation:
        """Logits on the CLIP head's grid from that head alone, four times finer than the backbone's with both heads."""
        correlation = self._correlation(features, vocabulary)
        logits = correlation * self.logit_scale
        if self.label_map == "both":
            logits = self._refine(features.of("sam").features, logits)
        return Segmentation(logits, None, [correlation])

    def as_sam(self) -> Sam:
        """The SAM in it, of the same weights, for what knows segment_anything alone, like its `SamPredictor`."""
        sam = Sam(self.backbone.encoder, self.prompt_encoder, self.mask_decoder)
        return sam.to(self.device).train(self.training)

    def learning_parts(self, cfg: Any) -> list[LearningPart]:
        """What SAM brought learns more slowly than the CLIP head (SAM-CLIP, sec. A "Training")."""
        rate = cfg.SOLVER.SAM_MULTIPLIER
        return [LearningPart("backbone", r"backbone\.", rate), LearningPart("SAM head", r"mask_decoder\.", rate)]

    def _correlation(self, features: MergedFeatures, vocabulary: Vocabulary) -> Tensor:
        """(B, N, h, w) similarity of the CLIP head's cells with the words."""
        dense = F.normalize(features.of("clip").features, dim=1)
        return correlation_maps(dense, self.clip_text.encode(vocabulary), self.smoothing)

    def _parts(self, images: Tensor, name: str, pooled: bool) -> Iterator[Tensor]:
        """What a representation consists of, of cells (B, h, w, .) or pooled (B, .)."""
        self.check_representation(name)
        parts = {"both": ("backbone", "head"), "all": ("backbone", "head", "text")}.get(name, (name,))
        with self.autocast():
            features = self.backbone(self.normalise(self.to_pixels(images)), neck=False)
            if "backbone" in parts:
                tokens = features.tokens.permute(0, 2, 3, 1)
                yield tokens.mean(dim=(1, 2)) if pooled else tokens
            if parts == ("backbone",):
                return
            tokens = self.clip_head.tokens(features)
            tokens = self.clip_head.pool(tokens) if pooled else tokens
            if "head" in parts:
                yield tokens
            if "text" in parts:
                yield F.normalize(self.clip_head.project(tokens), dim=-1)

    def _refine(self, embedding: Tensor, logits: Tensor) -> Tensor:
        """CLIP's logits (B, N, h', w') as prompts of the SAM head, whose embedding is (B, C, h, w): (B, N, 4h, 4w)."""
        probability = logits.softmax(dim=1)
        fine = self.finer(probability, embedding)
        uniform = uniform_numbers(logits[0, 0].numel()).to(logits.device)
        refined = []
        for image, scores, finer in zip(embedding, probability, fine, strict=True):
            asked = (scores.amax(dim=(1, 2)) > self.score).nonzero()[:, 0]
            drawn = MaskScores(finer, self.mask_share)
            for start in range(0, len(asked), self.prompt_chunk):
                rows = asked[start : start + self.prompt_chunk]
                drawn.add(rows, self.draw(image[None], scores[rows], uniform))
            refined.append(drawn.logits())
        return torch.stack(refined)

    def draw(self, embedding: Tensor, scores: Tensor, uniform: Tensor) -> Tensor:
        """SAM's mask logits (P, 4h, 4w) for score maps (P, h', w') of one image (1, C, h, w).

        Args:
            embedding: of the SAM head.
            scores: of words, from 0 to 1.
            uniform: from `uniform_numbers`, which decide the points.
        """
        drawn = sample_points(scores, self.score, self.points, uniform)
        cells = scores.new_tensor([scores.shape[2], scores.shape[1]])
        height, width = self.inference.image_size
        # From the middle of a cell to a pixel's index, to whose middle SAM adds the half again.
        points = (drawn.cells + 0.5) / cells * scores.new_tensor([width, height]) - 0.5
        # As a mask prompt it is positive where a point may be.
        hint = scores[:, None].logit(eps=_EPSILON) - math.log(max(self.score, _EPSILON) / (1 - self.score))
        hint = hint.clamp(-LARGEST_HINT, LARGEST_HINT)
        hint = self.finer(hint, embedding)
        return self.masks(embedding, Prompts(points, drawn.labels, masks=hint)).logits[:, 0]

    @staticmethod
    def finer(maps: Tensor, embedding: Tensor) -> Tensor:
        """Maps (B, N, h', w') on the grid of the masks of SAM's embedding (B, C, h, w): (B, N, 4h, 4w)."""
        size = 4 * embedding.shape[-2], 4 * embedding.shape[-1]
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def uniform_numbers(count: int) -> Tensor:
    """(count,) the same random numbers for every map, so that a label map depends on the image and the words alone."""
    return torch.rand(count, generator=torch.Generator().manual_seed(0))


def _set_trainable(backbone: MergedBackbone, head: ClipHead, decoder: MaskDecoder, which: str) -> None:
    if which not in TRAINED:
        raise ValueError(f"MODEL.SAM_CLIP.TRAIN must be one of {TRAINED}, got {which!r}")
    head.requires_grad_(which != "none")
    for module in (backbone, decoder):
        module.requires_grad_(which == "all")
