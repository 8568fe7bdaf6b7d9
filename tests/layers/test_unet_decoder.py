"""The U-Net decoder against its plain, unshared form."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from escnet.layers.unet_decoder import UNetDecoder


def make():
    torch.manual_seed(0)
    decoder = UNetDecoder(dim=8, level_dim=6, stage_dims=(8, 4), skip_dims=(4, 2)).eval()
    embedding = torch.randn(2, 3, 4 * 5, 8)
    levels = [torch.randn(2, 6, 4, 5), torch.randn(2, 6, 4, 5)]
    return decoder, embedding, levels


@torch.no_grad()
def test_equals_concatenated_skips_class_by_class():
    decoder, embedding, levels = make()
    result = decoder(embedding, levels, (4, 5))
    assert result.shape == (2, 3, 16, 20)
    skips = [decoder.skips[0](levels[1]), decoder.skips[1](levels[0])]
    for n in range(3):
        x = embedding[:, n].transpose(1, 2).view(2, 8, 4, 5)
        for stage, skip in zip(decoder.stages, skips, strict=True):
            x = stage.reduce(F.interpolate(x, scale_factor=2, mode="bilinear"))
            weight = torch.cat([stage.conv1.weight, stage.skip.weight], dim=1)
            x = F.relu(stage.norm1(F.conv2d(torch.cat([x, skip], dim=1), weight, padding=1)))
            x = F.relu(stage.norm2(stage.conv2(x)))
        torch.testing.assert_close(result[:, n], decoder.head(x)[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2])
@torch.no_grad()
def test_chunks_do_not_change_the_result(chunk):
    decoder, embedding, levels = make()
    torch.testing.assert_close(
        decoder(embedding, levels, (4, 5), chunk=chunk), decoder(embedding, levels, (4, 5)), atol=1e-5, rtol=1e-5
    )
