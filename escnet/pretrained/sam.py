"""SAM by name, with random, public or own weights; errors say which file, what is wrong and what to do."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from escnet.pretrained.files import WeightsError
from escnet.pretrained.loading import load_exactly
from escnet.pretrained.public import PUBLIC_WEIGHTS, fetch, where_to_get
from escnet.pretrained.reading import read_weights

SMALL_SIZES = Path(__file__).parent / "model_configs" / "sam"


@dataclass(frozen=True)
class SamSize:
    """The numbers of a SAM model: of its decoder, then of its image encoder."""

    channels: int = 256
    heads: int = 8
    mlp_dim: int = 2048
    image_size: int = 1024
    patch_size: int = 16
    encoder_dim: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)

    def check_side(self, what: str, side: int) -> None:
        """Refuse a side of images that the patches do not divide.

        Args:
          what: the option or key that says it.
          side: in pixels.

        Raises:
          ValueError: as said.
        """
        if side < self.patch_size or side % self.patch_size:
            raise ValueError(f"{what} is {side}; it has to be a multiple of SAM's patches, {self.patch_size} pixels")


# The public ones; others are read from files.
SAM_SIZES: dict[str, SamSize] = {
    "vit_b": SamSize(),
    "vit_l": SamSize(encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamSize(encoder_dim=1280, encoder_depth=32, encoder_heads=16, global_blocks=(7, 15, 23, 31)),
}


@dataclass(frozen=True)
class SamWeights:
    """The weights of a whole SAM that were read from a file.

    Attributes:
      tensors: by segment_anything's names.
      source: the file.
    """

    tensors: dict[str, Tensor]
    source: str


def sam_size(name: str) -> SamSize:
    """The numbers of a SAM: "vit_b", "vit_l", "vit_h", or a file model_configs/sam/NAME.json of this package.

    Raises:
      WeightsError: there is none of this name.
    """
    if name in SAM_SIZES:
        return SAM_SIZES[name]
    small = {path.stem: path for path in sorted(SMALL_SIZES.glob("*.json"))}
    if name not in small:
        raise WeightsError(f'there is no SAM "{name}"; there are {", ".join(SAM_SIZES | small)}')
    numbers = json.loads(small[name].read_text(encoding="utf-8"))
    return SamSize(**{**numbers, "global_blocks": tuple(numbers["global_blocks"])})


def read_sam(name: str, weights: str | Path) -> SamWeights:
    """Read a SAM's file, once for all that is built of it.

    Arguments:
      name: as for `sam_size`.
      weights: "official" for the published file, looked for in `weights_directory()` and else downloaded to it; or a
        path, or "shipped:NAME", of a file of that format.

    Raises:
      WeightsError: for weights that can neither be found nor downloaded, or not be read.
    """
    public = PUBLIC_WEIGHTS.get(name)
    if str(weights) != "official":
        return SamWeights(read_weights(weights, where_to_get(public) if public else ""), str(weights))
    if public is None:
        raise WeightsError(f'SAM "{name}" has no official weights; pass a path, or "" for random ones')
    path = fetch(public)
    return SamWeights(read_weights(path, where_to_get(public)), str(path))


def build_sam(name: str, weights: str | Path = "") -> Sam:
    """Build the whole of SAM, in fp32 on the CPU.

    Arguments:
      name: as for `sam_size`.
      weights: "" for random ones; else as for `read_sam`.

    Raises:
      WeightsError: for an unknown name, for weights that can neither be found nor downloaded, or that do not fit.
    """
    size = sam_size(name)
    encoder = ImageEncoderViT(
        img_size=size.image_size,
        patch_size=size.patch_size,
        embed_dim=size.encoder_dim,
        depth=size.encoder_depth,
        num_heads=size.encoder_heads,
        out_chans=size.channels,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        global_attn_indexes=size.global_blocks,
        window_size=14,
    )
    prompt_encoder, transformer = _sam_decoder_parts(size)
    decoder = MaskDecoder(transformer_dim=size.channels, transformer=transformer, iou_head_hidden_dim=size.channels)
    sam = Sam(encoder, prompt_encoder, decoder).eval()
    if weights:
        read = read_sam(name, weights)
        load_exactly(sam, read.tensors, read.source)
    return sam


def build_sam_decoder(name: str, weights: str | Path | SamWeights = "") -> tuple[PromptEncoder, TwoWayTransformer]:
    """Build only SAM's prompt encoder and the two-way transformer of its mask decoder, in fp32 on the CPU.

    All three public sizes have the same decoder, so the file of any of them will do.

    Arguments: as `build_sam`; the file is that of the whole SAM, of which only these parts are read.

    Raises:
      WeightsError: as `build_sam`; missing and misshapen keys are named.
    """
    size = sam_size(name)
    prompt_encoder, transformer = _sam_decoder_parts(size)
    if weights:
        read = weights if isinstance(weights, SamWeights) else read_sam(name, weights)
        for module, prefix in ((prompt_encoder, "prompt_encoder."), (transformer, "mask_decoder.transformer.")):
            load_exactly(module, read.tensors, read.source, prefix=prefix)
    return prompt_encoder.eval(), transformer.eval()


def _sam_decoder_parts(size: SamSize) -> tuple[PromptEncoder, TwoWayTransformer]:
    grid = size.image_size // size.patch_size
    prompt_encoder = PromptEncoder(
        embed_dim=size.channels,
        image_embedding_size=(grid, grid),
        input_image_size=(size.image_size, size.image_size),
        mask_in_chans=16,
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=size.channels, num_heads=size.heads, mlp_dim=size.mlp_dim)
    return prompt_encoder, transformer
