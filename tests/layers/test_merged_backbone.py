"""SAM's encoder at its own size against segment_anything, at other sizes against explicit interpolation; the heads."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.merged_backbone import BackboneFeatures, MergedBackbone
from escnet.layers.merged_heads import ClipHead, Head, HeadFeatures, SamHead


def encoder(image_size: int, patch_size: int = 16, window: int = 14) -> ImageEncoderViT:
    torch.manual_seed(0)
    norm = partial(nn.LayerNorm, eps=1e-6)
    made = ImageEncoderViT(
        img_size=image_size, patch_size=patch_size, embed_dim=16, depth=3, num_heads=2, out_chans=8, norm_layer=norm,
        use_rel_pos=True, global_attn_indexes=(1,), window_size=window,
    ).eval()  # fmt: skip
    for name, parameter in made.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter, std=0.5)
    return made


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def small() -> MergedBackbone:
    return MergedBackbone(encoder(64, patch_size=8, window=3))


@torch.no_grad()
def test_at_1024_pixels_it_is_segment_anythings_encoder() -> None:
    sam = encoder(1024)
    picture = images(1024, 1024)[:1]
    features = MergedBackbone(sam)(picture)
    torch.testing.assert_close(features.neck, sam(picture), atol=1e-5, rtol=1e-5)
    assert features.tokens.shape == (1, 16, 64, 64)


@pytest.mark.parametrize("size", [(224, 224), (336, 336), (448, 448), (448, 224)])
@torch.no_grad()
def test_at_other_sizes_it_is_an_encoder_whose_positions_are_interpolated(size: tuple[int, int]) -> None:
    sam = encoder(1024)
    grid = (size[0] // 16, size[1] // 16)
    resized = copy.deepcopy(sam)
    maps = F.interpolate(sam.pos_embed.permute(0, 3, 1, 2), grid, mode="bicubic", align_corners=False, antialias=True)
    resized.pos_embed = nn.Parameter(maps.permute(0, 2, 3, 1))
    for name, table in sam.named_parameters():
        if "rel_pos" in name and len(table) != 2 * 14 - 1:
            side = grid[0] if name.endswith("h") else grid[1]
            new = F.interpolate(table.T[None], 2 * side - 1, mode="linear")[0].T
            resized.get_submodule(name.rpartition(".")[0]).register_parameter(
                name.rpartition(".")[2], nn.Parameter(new)
            )
    torch.testing.assert_close(MergedBackbone(sam)(images(*size)).neck, resized(images(*size)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_levels_are_the_states_after_one_and_two_thirds(small: MergedBackbone) -> None:
    states = []
    hooks = [block.register_forward_hook(lambda _, __, output: states.append(output)) for block in small.encoder.blocks]
    features = small(images(40, 64), neck=False)
    for hook in hooks:
        hook.remove()
    assert features.neck is None
    assert [level.shape for level in features.levels] == [(2, 16, 5, 8)] * 2
    for level, state in zip([*features.levels, features.tokens], states, strict=True):
        assert torch.equal(level, state.permute(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(2, 3, 60, 64), (2, 1, 64, 64), (3, 64, 64), (2, 3, 0, 64)])
def test_images_that_patches_do_not_divide_are_refused(small: MergedBackbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        small(torch.zeros(shape))


def test_all_parameters_are_the_encoders(small: MergedBackbone) -> None:
    assert {id(p) for p in small.parameters()} == {id(p) for p in small.encoder.parameters()}


@torch.no_grad()
def test_the_clip_head_starts_as_the_backbones_last_block(small: MergedBackbone) -> None:
    head = ClipHead.from_encoder(small.encoder, 2, embed_dim=6, hidden_dim=10)
    features = small(images(64, 64))
    tokens = features.tokens.permute(0, 2, 3, 1)
    for _ in range(2):
        tokens = small.encoder.blocks[-1](tokens)
    answer = head(features)
    torch.testing.assert_close(answer.summary, head.mlp(head.norm(tokens.flatten(1, 2).amax(dim=1))))
    torch.testing.assert_close(answer.features[1, :, 3, 5], head.mlp(head.norm(tokens[1, 3, 5])))
    # Copies, so that the backbone's own block does not learn with it.
    assert not {id(p) for p in head.parameters()} & {id(p) for p in small.parameters()}


@torch.no_grad()
def test_the_pooling_can_be_the_mean(small: MergedBackbone) -> None:
    features = BackboneFeatures(torch.randn(2, 16, 2, 3), None, [])
    head = ClipHead([], 16, embed_dim=6, hidden_dim=10, pooling="mean")
    torch.testing.assert_close(head(features).summary, head.project(features.tokens.mean(dim=(2, 3))))
    with pytest.raises(ValueError, match="median"):
        ClipHead([], 16, 6, 10, pooling="median")


@torch.no_grad()
def test_the_clip_head_looks_at_no_finer_grid_than_it_is_told(small: MergedBackbone) -> None:
    whole = ClipHead.from_encoder(small.encoder, 1, embed_dim=6, hidden_dim=10)
    coarse = ClipHead.from_encoder(small.encoder, 1, embed_dim=6, hidden_dim=10, most_cells=4)
    coarse.load_state_dict(whole.state_dict())
    features = small(images(64, 32))
    assert features.tokens.shape[-2:] == (8, 4) and whole(features).features.shape[-2:] == (8, 4)
    halved = BackboneFeatures(F.avg_pool2d(features.tokens, 2), None, [])
    for ours, theirs in zip(coarse(features), whole(halved), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert coarse(small(images(72, 40))).features.shape[-2:] == (3, 2)
    torch.testing.assert_close(coarse(small(images(32, 32))).features, whole(small(images(32, 32))).features)
    with pytest.raises(ValueError, match="-1 cells"):
        ClipHead([], 16, 6, 10, most_cells=-1)


def test_sams_head_needs_the_neck(small: MergedBackbone) -> None:
    with pytest.raises(ValueError, match="neck"):
        SamHead()(small(images(64, 64), neck=False))


@torch.no_grad()
def test_a_third_teacher_is_one_more_class(small: MergedBackbone) -> None:
    class Third(Head):
        def forward(self, backbone: BackboneFeatures) -> HeadFeatures:
            return HeadFeatures(backbone.tokens.mean(dim=(2, 3)), backbone.levels[0])

    answer = Third()(small(images(64, 64)))
    assert answer.summary.shape == (2, 16) and answer.features.shape == (2, 16, 8, 8)
