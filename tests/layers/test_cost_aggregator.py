"""CAT-Seg's aggregation: what it is made of, and that neither chunks nor order of the classes matter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from escnet.layers.cost_aggregator import CostAggregator
from escnet.layers.unet_decoder import UNetDecoder

DIM, CLIP, WIDTH, GRID = 8, 12, 10, (6, 8)


def make_aggregator() -> CostAggregator:
    torch.manual_seed(0)
    decoder = UNetDecoder(DIM, WIDTH, (8, 4), (4, 4))
    aggregator = CostAggregator(DIM, CLIP, CLIP, decoder, num_layers=2, num_heads=2, window=4, mlp_ratio=2.0).eval()
    nn.init.normal_(aggregator.embed.weight)
    return aggregator


def make_inputs(classes: int = 5) -> dict[str, Tensor | list[Tensor]]:
    torch.manual_seed(1)
    return {
        "correlation": torch.randn(2, classes, *GRID),
        "dense": torch.randn(2, CLIP, *GRID),
        "levels": [torch.randn(2, WIDTH, *GRID) for _ in range(2)],
        "text": torch.randn(2, classes, CLIP),
    }


@torch.no_grad()
def test_the_structure_step_by_step() -> None:
    aggregator, inputs = make_aggregator(), make_inputs()
    x = aggregator.embed(inputs["correlation"].reshape(10, 1, *GRID)).reshape(2, 5, DIM, -1).transpose(2, 3)
    image = aggregator.image_guidance(inputs["dense"]).flatten(2).transpose(1, 2)[:, None]
    text = aggregator.text_guidance(inputs["text"])
    assert (image >= 0).all() and (text >= 0).all()
    for pair, attention in zip(aggregator.swin, aggregator.class_attention, strict=True):
        for block in pair:
            x = block(x, block.guide(image), GRID)
        x = attention(x, text, attention.context(x, text, GRID), GRID)
        assert attention.pool == 2
    expected = aggregator.decoder(x, inputs["levels"], GRID)
    torch.testing.assert_close(aggregator(**inputs), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape == (2, 5, 24, 32)


@torch.no_grad()
def test_chunks_do_not_change_the_logits() -> None:
    aggregator, inputs = make_aggregator(), make_inputs()
    torch.testing.assert_close(aggregator(**inputs, chunk=2), aggregator(**inputs), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_permuting_the_classes_permutes_the_logits() -> None:
    aggregator, inputs, order = make_aggregator(), make_inputs(), [3, 0, 4, 1, 2]
    expected = aggregator(**inputs)[:, order]
    permuted = inputs | {"correlation": inputs["correlation"][:, order], "text": inputs["text"][:, order]}
    torch.testing.assert_close(aggregator(**permuted), expected, atol=1e-4, rtol=1e-4)


def test_recomputation_keeps_the_gradients() -> None:
    aggregator, inputs = make_aggregator(), make_inputs()
    gradients = []
    for recompute in (False, True):
        loss = aggregator(**inputs, chunk=2, recompute=recompute).square().mean()
        gradients.append(torch.autograd.grad(loss, list(aggregator.parameters())))
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, atol=1e-5, rtol=1e-4)
