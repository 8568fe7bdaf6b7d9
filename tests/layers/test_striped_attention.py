"""Attention in strips against segment_anything's, and where it steps aside."""

from __future__ import annotations

import copy

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT
from torch import nn

from escnet.layers.striped_attention import StripedAttention, use_striped_attention


def attention(size: tuple[int, int] = (6, 6), use_rel_pos: bool = True) -> Attention:
    torch.manual_seed(0)
    made = Attention(16, num_heads=2, use_rel_pos=use_rel_pos, input_size=size)
    if use_rel_pos:
        nn.init.normal_(made.rel_pos_h)
        nn.init.normal_(made.rel_pos_w)
    return made


@pytest.mark.parametrize("use_rel_pos", [True, False])
@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8), (9, 4)])
@torch.no_grad()
def test_strips_give_what_the_whole_gives(height: int, width: int, use_rel_pos: bool) -> None:
    whole, x = attention(use_rel_pos=use_rel_pos), torch.randn(2, height, width, 16)
    for rows in (1, 2, 4, 20):
        striped = StripedAttention(whole, least=0, rows=rows)
        torch.testing.assert_close(striped(x), whole(x), atol=1e-6, rtol=1e-5)


def test_with_a_gradient_or_a_small_image_it_is_segment_anythings() -> None:
    whole, x = attention(), torch.randn(1, 6, 6, 16)
    assert torch.equal(StripedAttention(whole, least=0)(x), whole(x))
    with torch.no_grad():
        assert torch.equal(StripedAttention(whole)(x), whole(x))


@torch.no_grad()
def test_an_encoder_keeps_its_names_and_values() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=512, patch_size=16, embed_dim=16, depth=2, num_heads=2, out_chans=8, use_rel_pos=True,
        global_attn_indexes=(1,), window_size=14,
    ).eval()  # fmt: skip
    striped = use_striped_attention(copy.deepcopy(encoder))
    assert use_striped_attention(striped) is striped
    assert isinstance(striped.blocks[1].attn, StripedAttention)
    assert not isinstance(striped.blocks[0].attn, StripedAttention)
    assert list(striped.state_dict()) == list(encoder.state_dict())
    picture = torch.randn(1, 3, 512, 512)
    torch.testing.assert_close(striped(picture), encoder(picture), atol=1e-5, rtol=1e-5)
