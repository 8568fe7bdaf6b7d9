"""The ESC block: symmetries, chunks, and which parameters learn."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.prompt_encoder import PromptEncoder
from segment_anything.modeling.transformer import TwoWayTransformer

from escnet.layers.esc_block import CLASS_MERGES, ESCBlock
from escnet.layers.fusion import VisionLanguageFusion
from escnet.layers.pseudo_prompts import PseudoPromptGenerator
from escnet.layers.sam_block import SamBlock
from escnet.layers.sam_prompt_encoder import SamPromptEncoder

CLIP_DIM, SAM_DIM, DIM = 10, 16, 8


def make_block(merge: str = "correlation", sam: bool = True) -> ESCBlock:
    torch.manual_seed(0)
    sam_block = SamBlock(TwoWayTransformer(2, SAM_DIM, num_heads=2, mlp_dim=12)) if sam else None
    fusion = VisionLanguageFusion(DIM, SAM_DIM, CLIP_DIM, num_heads=2, window=4)
    torch.nn.init.normal_(fusion.change.weight)
    return ESCBlock(CLIP_DIM, SAM_DIM, sam_block, fusion, merge)


def make_inputs(classes: int = 5):
    torch.manual_seed(1)
    encoder = PromptEncoder(SAM_DIM, (1, 1), (1, 1), mask_in_chans=4).requires_grad_(False)
    return {
        "dense": torch.randn(2, CLIP_DIM, 6, 4),
        "correlation": torch.rand(2, classes, 6, 4),
        "embedding": torch.randn(2, classes, 24, DIM),
        "text": torch.randn(2, classes, CLIP_DIM),
        "logit_scale": 10.0,
        "generator": PseudoPromptGenerator(3, alpha=0.3),
        "prompt_encoder": SamPromptEncoder(encoder),
    }


@pytest.mark.parametrize("merge", CLASS_MERGES)
@torch.no_grad()
def test_permuting_the_classes_permutes_the_result(merge):
    block, inputs = make_block(merge), make_inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = block(**inputs)
    for key in ("correlation", "embedding", "text"):
        inputs[key] = inputs[key][:, order]
    result = block(**inputs)
    torch.testing.assert_close(result.correlation, expected.correlation[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.embedding, expected.embedding[:, order], atol=1e-5, rtol=1e-5)
    assert torch.equal(result.prompts.points, expected.prompts.points[:, order])


@pytest.mark.parametrize("merge", CLASS_MERGES)
@torch.no_grad()
def test_chunks_do_not_change_the_result(merge):
    block, inputs = make_block(merge), make_inputs()
    expected, result = block(**inputs), block(**inputs, chunk=2)
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
        block(**inputs)
    each = seen["per_class"]
    weights = (inputs["correlation"] * 10.0).softmax(dim=1).flatten(2).unsqueeze(-1)
    torch.testing.assert_close(seen["correlation"], (each * weights).sum(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen["mean"], each.mean(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merge", CLASS_MERGES)
def test_recomputation_keeps_the_gradients(merge):
    block, inputs = make_block(merge), make_inputs()
    gradients = []
    for recompute in (False, True):
        out = block(**inputs, chunk=2, recompute=recompute)
        loss = out.correlation.square().sum() + out.embedding.square().mean()
        gradients.append(torch.autograd.grad(loss, list(block.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        assert b.isfinite().all()


def test_without_a_sam_block_fusion_sees_the_projected_features():
    block, inputs = make_block(sam=False), make_inputs()
    inputs["prompt_encoder"] = None
    out = block(**inputs)
    assert out.prompts is None
    assert out.correlation.shape == inputs["correlation"].shape


def test_unknown_merge_is_refused():
    with pytest.raises(ValueError, match="vote"):
        make_block("vote")
