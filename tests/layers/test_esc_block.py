"""The ESC block: symmetries, chunks, and which parameters learn."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from segment_anything.modeling.prompt_encoder import PromptEncoder
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor

from escnet.layers.esc_block import CLASS_MERGES, ClassMaps, ESCBlock
from escnet.layers.fusion import VisionLanguageFusion
from escnet.layers.image_projection import ImageProjection
from escnet.layers.pseudo_prompts import PseudoPromptGenerator
from escnet.layers.sam_block import SamBlock
from escnet.layers.sam_prompt_encoder import PromptEmbedding, SamPromptEncoder

CLIP_DIM, SAM_DIM, DIM = 10, 16, 8


def make_block(merge: str = "correlation", sam: bool = True) -> ESCBlock:
    torch.manual_seed(0)
    sam_block = SamBlock(TwoWayTransformer(2, SAM_DIM, num_heads=2, mlp_dim=12)) if sam else None
    fusion = VisionLanguageFusion(DIM, SAM_DIM, CLIP_DIM, num_heads=2, window=4)
    torch.nn.init.normal_(fusion.change.weight)
    return ESCBlock(ImageProjection(CLIP_DIM, SAM_DIM), SAM_DIM, sam_block, fusion, merge)


class Inputs(NamedTuple):
    """What a block is given, its prompts read from the correlation maps."""

    dense: Tensor
    maps: ClassMaps
    text: Tensor
    logit_scale: float
    prompted: PromptEmbedding

    def permuted(self, order: Tensor) -> Inputs:
        maps = ClassMaps(*(values[:, order] for values in self.maps))
        return self._replace(maps=maps, text=self.text[:, order], prompted=embed(maps.correlation))


def embed(correlation: Tensor) -> PromptEmbedding:
    torch.manual_seed(2)
    encoder = PromptEncoder(SAM_DIM, (1, 1), (1, 1), mask_in_chans=4).requires_grad_(False)
    return SamPromptEncoder(encoder)(PseudoPromptGenerator(3, alpha=0.3)(correlation, 10.0))


def make_inputs(classes: int = 5) -> Inputs:
    torch.manual_seed(1)
    maps = ClassMaps(torch.rand(2, classes, 6, 4), torch.randn(2, classes, 24, DIM))
    dense, text = torch.randn(2, CLIP_DIM, 6, 4), torch.randn(2, classes, CLIP_DIM)
    return Inputs(dense, maps, text, 10.0, embed(maps.correlation))


@pytest.mark.parametrize("merge", CLASS_MERGES)
@torch.no_grad()
def test_permuting_the_classes_permutes_the_result(merge):
    block, inputs = make_block(merge), make_inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    expected, result = block(*inputs), block(*inputs.permuted(order))
    torch.testing.assert_close(result.correlation, expected.correlation[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.embedding, expected.embedding[:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merge", CLASS_MERGES)
@torch.no_grad()
def test_chunks_do_not_change_the_result(merge):
    block, inputs = make_block(merge), make_inputs()
    expected, result = block(*inputs), block(*inputs, chunk=2)
    torch.testing.assert_close(result.correlation, expected.correlation, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.embedding, expected.embedding, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_merge_is_the_convolution_of_each_class_then_the_mean():
    """The 1×1 convolution after the mean equals the one on each class before it."""
    inputs = make_inputs()
    seen = {}
    for merge in CLASS_MERGES:
        block = make_block(merge)
        block.fusion.forward = lambda c, e, features, *_, merge=merge, **__: (seen.update({merge: features}), e)
        block(*inputs)
    each = seen["per_class"]
    weights = (inputs.maps.correlation * 10.0).softmax(dim=1).flatten(2).unsqueeze(-1)
    torch.testing.assert_close(seen["correlation"], (each * weights).sum(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen["mean"], each.mean(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merge", CLASS_MERGES)
def test_recomputation_keeps_the_gradients(merge):
    block, inputs = make_block(merge), make_inputs()
    gradients = []
    for recompute in (False, True):
        out = block(*inputs, chunk=2, recompute=recompute)
        loss = out.correlation.square().sum() + out.embedding.square().mean()
        gradients.append(torch.autograd.grad(loss, list(block.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        assert b.isfinite().all()


def test_without_a_sam_block_fusion_sees_the_projected_features():
    block, inputs = make_block(sam=False), make_inputs()
    out = block(*inputs._replace(prompted=None))
    assert out.correlation.shape == inputs.maps.correlation.shape


def test_unknown_merge_is_refused():
    with pytest.raises(ValueError, match="vote"):
        make_block("vote")
