"""ESC-Net: CLIP correlation maps → ESC blocks → U-Net decoder, as a Detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.chunking import classes_at_a_time
from escnet.layers.clip_image_encoder import ClipFeatures, ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.esc_block import ClassMaps, ESCBlock
from escnet.layers.merged_image_encoder import MergedImageEncoder, MergedImageFeatures
from escnet.layers.pixels import SAM_DEVIATION, SAM_MEAN, PixelNormalisation
from escnet.layers.pseudo_prompts import PseudoPromptGenerator, PseudoPrompts
from escnet.layers.sam_prompt_encoder import SamPromptEncoder
from escnet.layers.unet_decoder import UNetDecoder
from escnet.meta_arch.alignment import align_from_config
from escnet.meta_arch.correlation_model import CHOICE_KEYS, Candidates, ClassChoice, CorrelationModel
from escnet.meta_arch.dense_clip import CLIP_KEYS, CLIP_PARTS
from escnet.meta_arch.esc_net_parts import build_parts
from escnet.meta_arch.interfaces import InferenceOptions, LearningPart
from escnet.meta_arch.segmentation import Segmentation

# Those of MODEL.ESC that change a prediction. The widths do too, but a change of them is seen in the weights.
_PREDICTION_KEYS = (
    "BACKBONE", "NUM_BLOCKS", "NUM_PROMPTS", "PROMPTS", "SOFTMAX_AXIS", "ALPHA", "KMEANS", "MASK_ENCODING",
    "MASK_LOGIT", "CLASS_MERGE", "GUIDANCE", "AGGREGATION", "CLASS_POOL", "NUM_HEADS", "WINDOW", "PASSES",
    "FIRST_BLOCKS", *CHOICE_KEYS,
)  # fmt: skip


@META_ARCH_REGISTRY.register()
class ESCNet(CorrelationModel):
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
        smoothing, choice, loss, aux_loss, first_loss: see `CorrelationModel`; its refined maps are those after blocks.
        first_blocks: in the first pass, which chooses the classes, so many blocks and no decoder (0: all and decoder).
        class_chunk: classes at a time (0: all).
        passes: of blocks and decoder over an image at inference; from the second on, the prompts of all blocks are read
            from the prediction of the pass before (1 in the paper).
        recompute: checkpoint activations of class chunks while training.
        compile_backend: see `compile_parts`.
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
        smoothing: int = 1,
        choice: ClassChoice = ClassChoice(),  # noqa: B008  (it cannot be changed)
        first_blocks: int = 0,
        class_chunk: int = 8,
        passes: int = 1,
        recompute: bool = True,
        loss: str = "ce",
        aux_loss: float = 0.0,
        first_loss: float = 0.4,
        compile_backend: str = "",
    ) -> None:
        if passes < 1:
            raise ValueError(f"MODEL.ESC.PASSES must be at least 1, got {passes}")
        if first_blocks > len(blocks):
            raise ValueError(f"MODEL.ESC.FIRST_BLOCKS is {first_blocks}, but there are {len(blocks)} blocks")
        super().__init__(inference, clip_text, logit_scale, smoothing, choice, loss, aux_loss, first_loss)
        # Each by a name of its own, under which its weights are saved.
        self.is_merged = isinstance(image_encoder, MergedImageEncoder)
        if self.is_merged:
            self.normalise = PixelNormalisation(SAM_MEAN, SAM_DEVIATION)
            self.merged_image = image_encoder
        else:
            self.normalise = PixelNormalisation()
            self.clip_image = image_encoder
        self.generator = generator
        self.prompt_encoder = prompt_encoder
        self.blocks = nn.ModuleList(blocks)
        self.decoder = decoder
        self.class_chunk = class_chunk
        self.first_blocks = first_blocks
        self.passes = passes
        self.recompute = recompute
        self.compile_parts(compile_backend)

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
            "class_chunk": classes_at_a_time(esc.CLASS_CHUNK, cfg.MODEL.DEVICE),
            "passes": esc.PASSES,
            "first_blocks": esc.FIRST_BLOCKS,
            "smoothing": cfg.MODEL.CLIP.SMOOTHING,
            "choice": ClassChoice.from_config(cfg),
            "recompute": esc.CHECKPOINT,
            "loss": esc.LOSS,
            "aux_loss": esc.AUX_LOSS,
            "first_loss": esc.FIRST_LOSS,
            "compile_backend": cfg.MODEL.COMPILE,
        }

    def encode_pixels(self, pixels: Tensor) -> ClipFeatures | MergedImageFeatures:
        """Features of images of the model's size."""
        if self.is_merged:
            return self.merged_image(self.normalise(pixels))
        return self.clip_image(self.normalise(pixels), pooled=False)

    def refine(self, features: ClipFeatures | MergedImageFeatures, words: Candidates) -> Segmentation:
        """Logits four times finer than CLIP's grid; in further passes, with prompts from the prediction before."""
        result = self._pass(features, words)
        for _ in range(self.passes - 1 if self.prompt_encoder is not None and not self.training else 0):
            # Cells see the mean of their logits, at the scale of a correlation.
            prompting = F.adaptive_avg_pool2d(result.logits, words.correlation.shape[-2:]) / self.logit_scale
            result = self._pass(features, words, prompting)
        return result

    def early_logits(self, features: ClipFeatures | MergedImageFeatures, words: Candidates) -> Tensor:
        """What the first blocks make of the maps, on CLIP's grid; with `first_blocks` 0 the logits of a whole pass."""
        if self.first_blocks == 0:
            return self._pass(features, words).logits
        return self.map_logits(self._run_blocks(features, words, self.blocks[: self.first_blocks])[0].correlation)

    def _pass(
        self, features: ClipFeatures | MergedImageFeatures, words: Candidates, prompting: Tensor | None = None
    ) -> Segmentation:
        """Blocks and decoder; prompts are read from the maps `prompting`, or from those that each block is given."""
        maps, correlations, prompts = self._run_blocks(features, words, self.blocks, prompting)
        fine = self.decoder(maps.embedding, features.levels, tuple(maps.correlation.shape[-2:]), **self._chunking())
        # The decoder too only changes what the correlation map says.
        coarse = self.map_logits(maps.correlation)
        logits = fine + F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return Segmentation(logits, None, correlations, prompts)

    def _run_blocks(
        self,
        features: ClipFeatures | MergedImageFeatures,
        words: Candidates,
        blocks: Iterable[ESCBlock],
        prompting: Tensor | None = None,
    ) -> tuple[ClassMaps, list[Tensor], list[PseudoPrompts]]:
        """What the last block returns; the correlation maps before the first and after each; the prompts of each."""
        maps = ClassMaps(words.correlation, None)
        correlations, prompts = [words.correlation], []
        for block in blocks:
            prompted = None
            if self.prompt_encoder is not None:
                prompts.append(self.generator(maps.correlation if prompting is None else prompting, self.logit_scale))
                prompted = self.prompt_encoder(prompts[-1])
            maps = block(features.sam_input, maps, words.text, self.logit_scale, prompted, **self._chunking())
            correlations.append(maps.correlation)
        return maps, correlations, prompts

    def _chunking(self) -> dict[str, Any]:
        return {"chunk": self.class_chunk, "recompute": self.recompute and self.training}

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
