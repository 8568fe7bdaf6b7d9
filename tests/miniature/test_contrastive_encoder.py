"""The image tower of contrastive training: patch dropout as open_clip's, and the cells of collages."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from escnet.miniature.contrastive_encoder import ContrastiveImageEncoder

VISION = {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}


def make_clip(**vision: object) -> CLIP:
    torch.manual_seed(0)
    return CLIP(24, {**VISION, **vision}, TEXT, quick_gelu=True).eval()


def make_images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool_type", ("avg", "tok"))
def test_pooling_alone_equals_encode_image(pool_type: str) -> None:
    model = make_clip(pool_type=pool_type)
    images = make_images(2, 32, 32)
    with torch.no_grad():
        pooled = ContrastiveImageEncoder(model.visual).pool(images)
        torch.testing.assert_close(pooled, model.encode_image(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool_type", ("avg", "tok"))
def test_pooling_in_training_drops_the_patches_that_open_clip_drops(pool_type: str) -> None:
    model = make_clip(patch_dropout=0.5, pool_type=pool_type).train()
    images = make_images(3, 32, 32)
    torch.manual_seed(7)
    pooled = ContrastiveImageEncoder(model.visual).train().pool(images)
    torch.manual_seed(7)
    torch.testing.assert_close(pooled, model.encode_image(images), atol=1e-5, rtol=0)
    assert not torch.allclose(pooled, model.eval().encode_image(images), atol=1e-3)


def test_pooled_cells_are_means_of_the_dense_features() -> None:
    encoder = ContrastiveImageEncoder(make_clip(patch_dropout=0.5).visual).eval()
    images = make_images(2, 32, 32)
    patches = encoder.pool_cells(images, 4)
    dense = encoder(images).dense
    torch.testing.assert_close(F.normalize(patches, dim=-1), dense.flatten(2).transpose(1, 2))
    halves = patches.unflatten(1, (2, 2, 2, 2)).mean(dim=(2, 4)).flatten(1, 2)
    torch.testing.assert_close(encoder.pool_cells(images, 2), halves)


def test_pooled_cells_in_training_are_of_some_patches_of_each() -> None:
    """Pictures of one colour each and no positions: a cell's feature does not depend on which patches are left."""
    encoder = ContrastiveImageEncoder(make_clip(patch_dropout=0.5).visual).train()
    with torch.no_grad():
        encoder.visual.positional_embedding.zero_()
    colours = torch.arange(4.0).view(2, 2).repeat_interleave(16, 0).repeat_interleave(16, 1).expand(1, 3, -1, -1)
    some, others = encoder.pool_cells(colours, 2), encoder.pool_cells(colours, 2)
    torch.testing.assert_close(some, others)
    assert (some[0, 0] - some[0, 1]).abs().max() > 1e-3
    noise = make_images(1, 32, 32)
    assert not torch.allclose(encoder.pool_cells(noise, 2), encoder.pool_cells(noise, 2), atol=1e-4)


def test_a_grid_that_cells_do_not_fit_into() -> None:
    with pytest.raises(ValueError, match="4x4 patches cannot be divided into 3x3"):
        ContrastiveImageEncoder(make_clip().visual).pool_cells(make_images(1, 32, 32), 3)
