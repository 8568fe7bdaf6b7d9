"""CostAggregation: CAT-Seg's structure on this house's parts, the floor under every table of trained models."""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from escnet.layers.chunking import classes_at_a_time
from escnet.layers.clip_image_encoder import ClipFeatures, ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.cost_aggregator import CostAggregator
from escnet.layers.pixels import PixelNormalisation
from escnet.layers.trainable_attention import trainable_attention_parameters
from escnet.layers.unet_decoder import UNetDecoder
from escnet.meta_arch.clip import clip_image_encoder
from escnet.meta_arch.correlation_model import CHOICE_KEYS, Candidates, ClassChoice, CorrelationModel
from escnet.meta_arch.dense_clip import CLIP_KEYS, CLIP_PARTS
from escnet.meta_arch.interfaces import InferenceOptions, LearningPart
from escnet.meta_arch.segmentation import Segmentation
from escnet.pretrained.clip import build_clip


@META_ARCH_REGISTRY.register()
class CostAggregation(CorrelationModel):
    """CLIP's correlation maps, aggregated over space and classes (Cho et al., "CAT-Seg", CVPR 2024), without SAM.

    Its sizes are those of MODEL.ESC: NUM_BLOCKS are its aggregation layers (CAT-Seg: 2), CLASS_POOL its pooling (2).
    The first pass, if one is asked for, is a whole one.

    Args:
        clip_image: CLIP's image encoder.
        aggregator: from its maps to logits.
        class_chunk: classes at a time (0: all).
        recompute: checkpoint activations of class chunks while training.
        compile_backend: see `compile_parts`.
        clip_text, logit_scale, inference, smoothing, choice, loss, first_loss: see `CorrelationModel`.
    """

    prediction_keys = (
        *CLIP_KEYS,
        *(f"MODEL.ESC.{key}" for key in ("NUM_BLOCKS", "CLASS_POOL", "NUM_HEADS", "WINDOW", *CHOICE_KEYS)),
    )
    cost_parts: ClassVar = CLIP_PARTS | {
        "Swin": r"aggregator\.swin",
        "class attention": r"aggregator\.class_attention",
        "decoder": r"aggregator\.decoder",
    }

    @configurable
    def __init__(
        self,
        *,
        clip_image: ClipImageEncoder,
        clip_text: ClipTextEncoder,
        logit_scale: float,
        aggregator: CostAggregator,
        inference: InferenceOptions,
        smoothing: int = 1,
        choice: ClassChoice = ClassChoice(),  # noqa: B008  (it cannot be changed)
        class_chunk: int = 8,
        recompute: bool = True,
        loss: str = "bce",
        first_loss: float = 0.4,
        compile_backend: str = "",
    ) -> None:
        super().__init__(inference, clip_text, logit_scale, smoothing, choice, loss, 0.0, first_loss)
        self.normalise = PixelNormalisation()
        self.clip_image = clip_image
        self.aggregator = aggregator
        self.class_chunk = class_chunk
        self.recompute = recompute
        self.compile_parts(compile_backend)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Constructor arguments from a config; reads the public weights unless MODEL.WEIGHTS brings all of them.

        Raises:
            ValueError: for MODEL.ESC.AUX_LOSS, as there are no refined maps.
        """
        esc = cfg.MODEL.ESC
        if esc.AUX_LOSS:
            raise ValueError(f"MODEL.ESC.AUX_LOSS is {esc.AUX_LOSS}; CostAggregation refines no maps: set it to 0.0")
        clip, tokenizer = build_clip(cfg.MODEL.CLIP.NAME, "" if cfg.MODEL.WEIGHTS else cfg.MODEL.CLIP.WEIGHTS)
        clip_text = ClipTextEncoder(clip, tokenizer)
        clip_image = clip_image_encoder(clip.visual, cfg)
        for encoder in (clip_text, clip_image):
            trainable_attention_parameters(encoder, cfg.MODEL.CLIP.TRAIN)
        decoder = UNetDecoder(esc.DIM, clip_image.width, tuple(esc.DECODER_DIMS), tuple(esc.SKIP_DIMS))
        widths = (esc.DIM, clip_image.embed_dim, clip_image.embed_dim)
        sizes = (esc.NUM_BLOCKS, esc.NUM_HEADS, esc.WINDOW, esc.MLP_RATIO, esc.CLASS_POOL)
        return {
            "clip_image": clip_image,
            "clip_text": clip_text,
            "logit_scale": clip.logit_scale.exp().item(),
            "aggregator": CostAggregator(*widths, decoder, *sizes),
            "inference": InferenceOptions.from_config(cfg, "MODEL.CLIP.IMAGE_SIZE", clip_image.patch_size),
            "smoothing": cfg.MODEL.CLIP.SMOOTHING,
            "choice": ClassChoice.from_config(cfg),
            "class_chunk": classes_at_a_time(esc.CLASS_CHUNK, cfg.MODEL.DEVICE),
            "recompute": esc.CHECKPOINT,
            "loss": esc.LOSS,
            "first_loss": esc.FIRST_LOSS,
            "compile_backend": cfg.MODEL.COMPILE,
        }

    def encode_pixels(self, pixels: Tensor) -> ClipFeatures:
        """CLIP's features of images of the model's size."""
        return self.clip_image(self.normalise(pixels), pooled=False)

    def refine(self, features: ClipFeatures, words: Candidates) -> Segmentation:
        """Logits four times finer than CLIP's grid, which are the decoder's alone."""
        logits = self.aggregator(
            words.correlation,
            features.dense,
            features.levels,
            words.text,
            chunk=self.class_chunk,
            recompute=self.recompute and self.training,
        )
        return Segmentation(logits, None, [words.correlation])

    def early_logits(self, features: ClipFeatures, words: Candidates) -> Tensor:
        """A whole pass."""
        return self.refine(features, words).logits

    def learning_parts(self, cfg: Any) -> list[LearningPart]:
        """CLIP learns more slowly than the rest (CAT-Seg, sec. 4, "Implementation details")."""
        rate = cfg.SOLVER.CLIP_MULTIPLIER
        return [LearningPart("CLIP image", r"clip_image\.", rate), LearningPart("CLIP text", r"clip_text\.", rate)]
