"""CLIP's blocks within SAM's encoder compute what they compute in CLIP; SAM within SAM-CLIP; sizes that do not fit."""

from __future__ import annotations

import functools

import pytest
import torch
from open_clip.transformer import VisionTransformer
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.pretrained.clip import build_clip
from escnet.pretrained.common_parts import (
    average_sam_and_clip,
    clip_as_sam_encoder,
    clip_size_of,
    is_clip,
    is_sam,
    sam_as_sam_clip,
    sam_size_of,
)
from escnet.pretrained.files import WeightsError
from escnet.pretrained.sam import build_sam

WIDTH, DEPTH, HEADS = 32, 3, 4


def make_sam() -> ImageEncoderViT:
    """An encoder on 6×6 cells of 8 pixels, whose attention is global and has no bias of positions yet."""
    torch.manual_seed(0)
    return ImageEncoderViT(
        img_size=48,
        patch_size=8,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        out_chans=16,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-5),
        use_rel_pos=True,
        global_attn_indexes=tuple(range(DEPTH)),
        window_size=14,
    ).eval()


def make_clip(image_size: int = 48) -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer(image_size, 8, WIDTH, DEPTH, HEADS, 4.0, output_dim=16).eval()


def prefixed(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


@torch.no_grad()
def test_clips_blocks_compute_the_same_in_sams_encoder() -> None:
    sam, clip = make_sam(), make_clip()
    weights = average_sam_and_clip(prefixed(sam, "image_encoder."), prefixed(clip, "visual."), 1.0, WIDTH // HEADS)
    sam.load_state_dict({name.removeprefix("image_encoder."): value for name, value in weights.items()})
    tokens = torch.randn(2, 6, 6, WIDTH)
    ours, theirs = tokens, tokens.flatten(1, 2)
    for mine, his in zip(sam.blocks, clip.transformer.resblocks, strict=True):
        ours, theirs = mine(ours), his(theirs)
    torch.testing.assert_close(ours.flatten(1, 2), theirs, atol=1e-5, rtol=1e-4)
    images = torch.randn(2, 3, 48, 48)
    bias = sam.patch_embed.proj.bias[:, None, None]
    torch.testing.assert_close(sam.patch_embed(images).permute(0, 3, 1, 2) - bias, clip.conv1(images))
    torch.testing.assert_close(sam.pos_embed[0].flatten(0, 1), clip.positional_embedding[1:])


def test_half_of_each_and_what_has_no_partner_stays_sams() -> None:
    sam, clip = prefixed(make_sam(), "image_encoder."), prefixed(make_clip(), "visual.")
    sam["mask_decoder.x"] = torch.ones(2)
    merged = average_sam_and_clip(sam, clip, 0.5, WIDTH // HEADS)
    assert merged.keys() == sam.keys()
    name, partner = "image_encoder.blocks.1.mlp.lin2.weight", "visual.transformer.resblocks.1.mlp.c_proj.weight"
    torch.testing.assert_close(merged[name], (sam[name] + clip[partner]) / 2)
    partners = clip_as_sam_encoder(sam, clip, WIDTH // HEADS)
    kept = [name for name in sam if name not in partners]
    assert all(merged[name] is sam[name] for name in kept)
    assert {name.split(".")[-1] for name in kept if ".blocks." in name} == {"rel_pos_h", "rel_pos_w"}
    assert len(partners) == 12 * DEPTH + 2
    for alpha, same in ((0.0, True), (1.0, False)):
        ends = average_sam_and_clip(sam, clip, alpha, WIDTH // HEADS)
        assert (
            all(torch.equal(ends[name], sam[name]) for name in partners if "weight" in name and "mlp" in name) == same
        )


def test_clips_positions_are_resized_to_sams_grid() -> None:
    sam, clip = prefixed(make_sam(), "image_encoder."), prefixed(make_clip(image_size=32), "visual.")
    found = clip_as_sam_encoder(sam, clip, WIDTH // HEADS)["image_encoder.pos_embed"]
    maps = clip["visual.positional_embedding"][1:].T.unflatten(1, (4, 4))[None]
    expected = F.interpolate(maps, (6, 6), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 1))


def test_sizes_are_read_from_weights_and_others_are_refused() -> None:
    sam, clip = build_sam("moji").state_dict(), build_clip("escnet-moji")[0].state_dict()
    assert sam_size_of(sam) == (96, 4, 384, 32, 8) and clip_size_of(clip, 48) == (192, 4, 768, 48, 8)
    with pytest.raises(WeightsError, match=r"SAM's encoder has width 96, 4 blocks.*tower width 192.*share an ancestor"):
        average_sam_and_clip(sam, clip, 0.5, 48)
    own = prefixed(make_sam(), "image_encoder."), prefixed(make_clip(), "visual.")
    with pytest.raises(WeightsError, match=r"heads of 8 channels.*heads of 64 channels"):
        average_sam_and_clip(*own, 0.5)
    scaled = own[1] | {"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(WIDTH)}
    with pytest.raises(WeightsError, match=r"ls_1\.gamma"):
        average_sam_and_clip(own[0], scaled, 0.5, WIDTH // HEADS)
    for a, b in ((clip, clip), (sam, sam)):
        with pytest.raises(WeightsError, match="these are not the weights of a"):
            average_sam_and_clip(a, b, 0.5)
    assert is_sam(sam) and is_clip(clip) and not is_sam(clip) and not is_clip(sam)


def test_the_public_sizes_of_vit_b_fit() -> None:
    with torch.device("meta"):
        sam, clip = build_sam("vit_b").state_dict(), build_clip("ViT-B-16-quickgelu")[0].state_dict()
    assert sam_size_of(sam) == clip_size_of(clip) == (768, 12, 3072, 64, 16)


def test_sam_takes_its_place_in_a_sam_clip() -> None:
    sam = {"image_encoder.w": torch.ones(2), "mask_decoder.w": torch.ones(3), "pixel_mean": torch.ones(3)}
    tuned = {"backbone.encoder.w": torch.zeros(2), "mask_decoder.w": torch.zeros(3), "clip_head.w": torch.zeros(4)}
    start = sam_as_sam_clip(sam, tuned)
    assert {name: value.sum().item() for name, value in start.items()} == {
        "backbone.encoder.w": 2,
        "mask_decoder.w": 3,
        "clip_head.w": 0,
    }
    with pytest.raises(
        WeightsError, match=r"1 of 2 tensors of SAM are not in the SAM-CLIP, such as backbone.encoder.w"
    ):
        sam_as_sam_clip(sam | {"image_encoder.w": torch.ones(5)}, tuned)
