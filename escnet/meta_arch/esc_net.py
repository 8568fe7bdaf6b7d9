"""ESC-Net: CLIP correlation maps → ESC blocks → U-Net decoder, as a Detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.ignore_label import IGNORE_LABEL
from escnet.layers.clip_image_encoder import ClipFeatures, ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.esc_block import ClassMaps, ESCBlock
from escnet.layers.merged_image_encoder import MergedImageEncoder, MergedImageFeatures
from escnet.layers.pixels import SAM_DEVIATION, SAM_MEAN, PixelNormalisation
from escnet.layers.pseudo_prompts import PseudoPromptGenerator
from escnet.layers.sam_prompt_encoder import SamPromptEncoder
from escnet.layers.unet_decoder import UNetDecoder
from escnet.losses.segmentation import segmentation_loss
from escnet.meta_arch.alignment import align_from_config
from escnet.meta_arch.dense_clip import CLIP_KEYS, CLIP_PARTS
from escnet.meta_arch.esc_net_parts import build_parts
from escnet.meta_arch.interfaces import InferenceOptions, LearningPart, SegmentingModel
from escnet.meta_arch.segmentation import Segmentation
from escnet.vocabulary import Vocabulary

# Those of MODEL.ESC that change a prediction. The widths do too, but a change of them is seen in the weights.
_PREDICTION_KEYS = (
    "BACKBONE", "NUM_BLOCKS", "NUM_PROMPTS", "PROMPTS", "SOFTMAX_AXIS", "ALPHA", "KMEANS", "MASK_ENCODING",
    "MASK_LOGIT", "CLASS_MERGE", "GUIDANCE", "NUM_HEADS", "WINDOW", "PASSES", "MAX_CLASSES",
)  # fmt: skip


@META_ARCH_REGISTRY.register()
class ESCNet(SegmentingModel):
    """ESC-Net (Lee et al., "Effective SAM Combination for Open-Vocabulary Semantic Segmentation", CVPR 2025).

    Args:
        image_encoder: CLIP's, or a merged backbone with its CLIP head.
        clip_text: CLIP's text encoder.
        logit_scale: CLIP's temperature, kept fixed.
        generator: reads pseudo prompts off correlation maps.
        prompt_encoder: SAM's, frozen and shared by the blocks; None in the ablation without SAM blocks.
        blocks: the ESC blocks, in order.
        decoder: the U-Net decoder.
        inference: how images are run.
        class_chunk: classes at a time (0: all).
        max_classes: classes kept for an image at inference, those that correlate most (0: all).
        passes: of blocks and decoder over an image at inference; from the second on, the prompts of all blocks are read
            from the prediction of the pass before (1 in the paper).
        train_classes: classes kept for an image while training, those it holds and random others (0: all).
        recompute: checkpoint activations of class chunks while training.
        loss: `ce`, `bce` or `ce_dice`.
        aux_loss: weight of the loss on each block's correlation map.
    """

    prediction_keys = (
        *CLIP_KEYS,
        "MODEL.SAM.NAME",
        "MODEL.SAM_CLIP.SAM_INPUT",
        *(f"MODEL.ESC.{key}" for key in _PREDICTION_KEYS),
    )
    cost_parts: ClassVar = CLIP_PARTS | {
        "merged backbone": r"merged_image\.backbone",
        "CLIP head": r"merged_image\.clip_head",
        "SAM prompt encoder": r"prompt_encoder",
        "SAM blocks": r"blocks\.\d+\.sam_block",
        "projection, unification": r"blocks\.\d+\.(project|unify)",
        "fusion: Swin": r"blocks\.\d+\.fusion\.swin",
        "fusion: class attention": r"blocks\.\d+\.fusion\.class_attention",
        "decoder": r"decoder",
    }
    text_encoder = "clip_text"
    untraceable = ("generator",)

    @configurable
    def __init__(
        self,
        *,
        image_encoder: ClipImageEncoder | MergedImageEncoder,
        clip_text: ClipTextEncoder,
        logit_scale: float,
        generator: PseudoPromptGenerator,
        prompt_encoder: SamPromptEncoder | None,
        blocks: Sequence[ESCBlock],
        decoder: UNetDecoder,
        inference: InferenceOptions,
        class_chunk: int = 8,
        max_classes: int = 0,
        passes: int = 1,
        train_classes: int = 0,
        recompute: bool = True,
        loss: str = "ce",
        aux_loss: float = 0.0,
    ) -> None:
        if passes < 1:
            raise ValueError(f"MODEL.ESC.PASSES must be at least 1, got {passes}")
        super().__init__(inference)
        # Each by a name of its own, under which its weights are saved.
        self.is_merged = isinstance(image_encoder, MergedImageEncoder)
        if self.is_merged:
            self.normalise = PixelNormalisation(SAM_MEAN, SAM_DEVIATION)
            self.merged_image = image_encoder
        else:
            self.normalise = PixelNormalisation()
            self.clip_image = image_encoder
        self.clip_text = clip_text
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))
        self.generator = generator
        self.prompt_encoder = prompt_encoder
        self.blocks = nn.ModuleList(blocks)
        self.decoder = decoder
        self.class_chunk = class_chunk
        self.max_classes = max_classes
        self.passes = passes
        self.train_classes = train_classes
        self.recompute = recompute
        self.loss = loss
        self.aux_loss = aux_loss

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Constructor arguments from a config; reads the public weights unless MODEL.WEIGHTS brings all of them."""
        parts = build_parts(cfg)
        esc = cfg.MODEL.ESC
        return {
            "image_encoder": parts.image_encoder,
            "clip_text": parts.clip_text,
            "logit_scale": parts.logit_scale,
            "generator": PseudoPromptGenerator(esc.NUM_PROMPTS, esc.ALPHA, esc.SOFTMAX_AXIS, esc.KMEANS),
            "prompt_encoder": parts.prompt_encoder,
            "blocks": parts.blocks,
            "decoder": UNetDecoder(esc.DIM, parts.image_encoder.width, tuple(esc.DECODER_DIMS), tuple(esc.SKIP_DIMS)),
            "inference": InferenceOptions.from_config(cfg, "MODEL.CLIP.IMAGE_SIZE", parts.image_encoder.patch_size),
            "class_chunk": esc.CLASS_CHUNK,
            "max_classes": esc.MAX_CLASSES,
            "passes": esc.PASSES,
            "train_classes": esc.TRAIN_CLASSES,
            "recompute": esc.CHECKPOINT,
            "loss": esc.LOSS,
            "aux_loss": esc.AUX_LOSS,
        }

    def encode_pixels(self, pixels: Tensor) -> ClipFeatures | MergedImageFeatures:
        """Features of images of the model's size."""
        if self.is_merged:
            return self.merged_image(self.normalise(pixels))
        return self.clip_image(self.normalise(pixels), pooled=False)

    def segment_features(self, features: ClipFeatures | MergedImageFeatures, vocabulary: Vocabulary) -> Segmentation:
        """Logits four times finer than CLIP's grid."""
        return self._segment(features, vocabulary, self._most_correlated, self.passes)

    def _segment(
        self,
        features: ClipFeatures | MergedImageFeatures,
        vocabulary: Vocabulary,
        choose: Callable[[Tensor], Tensor | None],
        passes: int = 1,
    ) -> Segmentation:
        """`segment_features` with the classes (B, M) chosen by CLIP's correlation maps (B, N, h, w); None for all."""
        text = self._embed_text(vocabulary)
        correlation = torch.einsum("bdhw,nd->bnhw", features.dense, text).float()
        text = text.expand(len(correlation), -1, -1)
        rows = choose(correlation)
        if rows is not None:
            correlation = correlation.gather(1, rows[:, :, None, None].expand(-1, -1, *correlation.shape[2:]))
            text = text.gather(1, rows[:, :, None].expand(-1, -1, text.shape[2]))

        result = self._pass(features, correlation, text, None)
        for _ in range(passes - 1 if self.prompt_encoder is not None else 0):
            # Cells see the mean of their logits, at the scale of a correlation.
            prompting = F.adaptive_avg_pool2d(result.logits, correlation.shape[-2:]) / self.logit_scale
            result = self._pass(features, correlation, text, prompting)
        return replace(result, rows=rows)

    def _pass(
        self, features: ClipFeatures | MergedImageFeatures, correlation: Tensor, text: Tensor, prompting: Tensor | None
    ) -> Segmentation:
        """Blocks and decoder; prompts are read from the maps `prompting`, or from those that each block is given."""
        maps = ClassMaps(correlation, None)
        correlations, prompts = [correlation], []
        chunking = {"chunk": self.class_chunk, "recompute": self.recompute and self.training}
        for block in self.blocks:
            prompted = None
            if self.prompt_encoder is not None:
                prompts.append(self.generator(maps.correlation if prompting is None else prompting, self.logit_scale))
                prompted = self.prompt_encoder(prompts[-1])
            maps = block(features.sam_input, maps, text, self.logit_scale, prompted, **chunking)
            correlations.append(maps.correlation)
        fine = self.decoder(maps.embedding, features.levels, tuple(correlation.shape[-2:]), **chunking)
        # The decoder too only changes what the correlation map says.
        coarse = self._correlation_logits(maps.correlation)
        logits = fine + F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return Segmentation(logits, None, correlations, prompts)

    def losses(self, images: Tensor, targets: Tensor, vocabulary: Vocabulary) -> dict[str, Tensor]:
        """`loss_sem_seg` and, if configured, `loss_aux`, the mean over the blocks' correlation maps."""
        features = self.encode(images)
        out = self._segment(features, vocabulary, lambda correlation: self._training_rows(correlation, targets))
        targets = targets.to(self.device)
        if out.rows is not None:
            targets = _positions(targets, out.rows, len(vocabulary.rows))
        losses = {"loss_sem_seg": segmentation_loss(out.logits, targets, self.loss)}
        if self.aux_loss > 0:
            coarse = F.interpolate(targets[:, None].float(), out.logits.shape[-2:], mode="nearest")[:, 0].long()
            maps = [self._correlation_logits(c) for c in out.correlations[1:]]
            total = sum(segmentation_loss(m, coarse, self.loss) for m in maps)
            losses["loss_aux"] = self.aux_loss * total / len(maps)
        return losses

    def prepare_training(self, cfg: Any, images: Callable[[int], Iterable[Tensor]]) -> None:
        """Align the projections with SAM's features, if the configuration asks for it."""
        align_from_config(cfg, self, images)

    def learning_parts(self, cfg: Any) -> list[LearningPart]:
        """CLIP and a pretrained SAM block learn more slowly than the rest (ESC-Net, training details)."""
        clip, sam = cfg.SOLVER.CLIP_MULTIPLIER, cfg.SOLVER.SAM_MULTIPLIER
        return [
            LearningPart("CLIP image", r"clip_image\.", clip),
            LearningPart("merged image", r"merged_image\.", clip),
            LearningPart("CLIP text", r"clip_text\.", clip),
            LearningPart("SAM blocks", r"blocks\.\d+\.sam_block\.", sam if cfg.MODEL.SAM.INIT == "pretrained" else 1.0),
        ]

    def _embed_text(self, vocabulary: Vocabulary) -> Tensor:
        """(N, D); computed again at each step only while it is trained."""
        if self.training and any(p.requires_grad for p in self.clip_text.parameters()):
            return self.clip_text(vocabulary)
        return self.clip_text.encode(vocabulary)

    def _most_correlated(self, correlation: Tensor) -> Tensor | None:
        """(B, M) the classes with the highest share of any cell, in the order of the vocabulary; None for all."""
        if not 0 < self.max_classes < correlation.shape[1]:
            return None
        peak = (correlation * self.logit_scale).softmax(dim=1).amax(dim=(2, 3))
        return peak.topk(self.max_classes, dim=1).indices.sort(dim=1).values

    def _training_rows(self, correlation: Tensor, targets: Tensor) -> Tensor | None:
        """(B, M) the classes that each image holds and others drawn at random; None for all.

        M is `train_classes`, or the most that an image of the batch holds if that is more.
        """
        classes = correlation.shape[1]
        if not 0 < self.train_classes < classes:
            return None
        present, most = present_classes(targets, classes)
        size = min(classes, max(self.train_classes, most))
        present = present.to(correlation.device)
        return (present + torch.rand_like(present)).topk(size, dim=1).indices.sort(dim=1).values

    def _correlation_logits(self, correlation: Tensor) -> Tensor:
        """Correlation at the scale of logits, without the offset that CLIP gives to all similarities alike."""
        return (correlation - correlation.mean(dim=(1, 2, 3), keepdim=True)) * self.logit_scale


def present_classes(targets: Tensor, classes: int) -> tuple[Tensor, int]:
    """(B, N) 1.0 for the classes in (B, H, W) targets, and the most that an image holds.

    Computed where the targets are: as they come from a loader, on the CPU, so that nothing waits for another device.
    """
    counts = torch.zeros(len(targets), classes + 1, device=targets.device)
    # Ignored pixels are counted in one place more, which is dropped.
    counts.scatter_(1, torch.where(targets < 0, classes, targets).flatten(1), 1.0)
    present = counts[:, :classes]
    return present, int(present.sum(dim=1).max())


def _positions(targets: Tensor, rows: Tensor, classes: int) -> Tensor:
    """Class ids (B, H, W) as positions in `rows` (B, M), which hold every id of their image; -1 stays."""
    table = torch.full((len(rows), classes), IGNORE_LABEL, device=rows.device)
    table.scatter_(1, rows, torch.arange(rows.shape[1], device=rows.device).expand_as(rows))
    positions = table.gather(1, targets.clamp(min=0).flatten(1)).view_as(targets)
    return torch.where(targets < 0, IGNORE_LABEL, positions)
