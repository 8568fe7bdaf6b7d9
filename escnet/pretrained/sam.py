"""SAM by name, with random, public or own weights; errors say which file, what is wrong and what to do."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from escnet.pretrained.files import WeightsError, read_weights
from escnet.pretrained.loading import load_exactly
from escnet.pretrained.public import PUBLIC_WEIGHTS, fetch, where_to_get


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


SAM_SIZES: dict[str, SamSize] = {
    "vit_b": SamSize(),
    "vit_l": SamSize(encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamSize(encoder_dim=1280, encoder_depth=32, encoder_heads=16, global_blocks=(7, 15, 23, 31)),
    "mini": SamSize(
        channels=64,
        heads=4,
        mlp_dim=128,
        image_size=128,
        patch_size=8,
        encoder_dim=64,
        encoder_depth=2,
        encoder_heads=2,
        global_blocks=(0, 1),
    ),
    "moji": SamSize(
        channels=64,
        heads=4,
        mlp_dim=256,
        image_size=128,
        patch_size=8,
        encoder_dim=96,
        encoder_depth=4,
        encoder_heads=3,
        global_blocks=(0, 1, 2, 3),
    ),
}


def build_sam(name: str, weights: str | Path = "") -> Sam:
    """Build the whole of SAM, in fp32 on the CPU.

    Arguments:
      name: "vit_b", "vit_l", "vit_h", or "mini" (the same code, tiny; without public weights).
      weights: "" for random ones; "official" for the published file, looked for in `weights_directory()` and else
        downloaded to it; or the path of a file of that format.

    Raises:
      WeightsError: for an unknown name, for weights that can neither be found nor downloaded, or that do not fit.
    """
    size = _sam_size(name)
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
        state, path = _read_sam(name, weights)
        load_exactly(sam, state, path)
    return sam


def build_sam_decoder(name: str, weights: str | Path = "") -> tuple[PromptEncoder, TwoWayTransformer]:
    """Build only SAM's prompt encoder and the two-way transformer of its mask decoder, in fp32 on the CPU.

    All three public sizes have the same decoder, so the file of any of them will do.

    Arguments: as `build_sam`; the file is that of the whole SAM, of which only these parts are read.

    Raises:
      WeightsError: as `build_sam`; missing and misshapen keys are named.
    """
    size = _sam_size(name)
    prompt_encoder, transformer = _sam_decoder_parts(size)
    if weights:
        state, path = _read_sam(name, weights)
        for module, prefix in ((prompt_encoder, "prompt_encoder."), (transformer, "mask_decoder.transformer.")):
            load_exactly(module, {key: state[key] for key in state if key.startswith(prefix)}, path, prefix)
    return prompt_encoder.eval(), transformer.eval()


def _sam_size(name: str) -> SamSize:
    if name not in SAM_SIZES:
        raise WeightsError(f'there is no SAM "{name}"; there are {", ".join(SAM_SIZES)}')
    return SAM_SIZES[name]


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


def _read_sam(name: str, weights: str | Path) -> tuple[dict[str, Tensor], Path]:
    public = PUBLIC_WEIGHTS.get(name)
    if str(weights) != "official":
        return read_weights(weights, where_to_get(public) if public else ""), Path(weights)
    if public is None:
        raise WeightsError(f'SAM "{name}" has no official weights; pass a path, or "" for random ones')
    path = fetch(public)
    return read_weights(path, where_to_get(public)), path
