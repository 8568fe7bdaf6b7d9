"""SAM's prompt encoder and transformer on a free grid, against segment_anything's own modules."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.prompt_encoder import PromptEncoder
from segment_anything.modeling.transformer import TwoWayTransformer

from escnet.layers.pseudo_prompts import PseudoPromptGenerator
from escnet.layers.sam_block import SamBlock
from escnet.layers.sam_prompt_encoder import SamPromptEncoder

GRID = (6, 8)
CHANNELS = 32


@pytest.fixture
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(CHANNELS, GRID, GRID, mask_in_chans=8).eval()


@pytest.fixture
def transformer() -> TwoWayTransformer:
    torch.manual_seed(1)
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=4, mlp_dim=48).eval()
    for parameter in transformer.parameters():  # biases and norms too, so that no term of them can go missing
        torch.nn.init.normal_(parameter, std=0.3)
    return transformer


def make_prompts(k: int = 3, batch: int = 2, classes: int = 5):
    torch.manual_seed(2)
    correlation = torch.rand(batch, classes, *GRID)
    correlation[:, 0] -= 1.0  # nowhere the best: a single object, the rest is padding
    return PseudoPromptGenerator(k, alpha=0.3)(correlation, 5.0)


def reference_embedding(encoder, prompts, kind, mask_logit=8.0):
    """segment_anything's embedding of the same prompts, one class at a time."""
    classes = prompts.points.shape[0] * prompts.points.shape[1]
    points, boxes, masks = None, None, None
    if kind != "box" and kind != "mask":
        points = (prompts.points.flatten(0, 1), prompts.labels.flatten(0, 1))
    if kind == "mask":
        points = (torch.zeros(classes, 1, 2), -torch.ones(classes, 1))
    if "mask" in kind:
        region = prompts.region.flatten(0, 1).float().unsqueeze(1)
        masks = ((2 * region - 1) * mask_logit).repeat_interleave(4, 2).repeat_interleave(4, 3)
    if kind == "box":
        corners = prompts.boxes.flatten(0, 1).clone()
        corners[..., 2:] += 1.0
        sparse = [encoder._embed_boxes(box - 0.5) for box in corners.unbind(1)]
        sparse = torch.stack(sparse, dim=1)
        sparse[prompts.labels.flatten(0, 1) < 0] = encoder.not_a_point_embed.weight
        _, dense = encoder(None, corners[:, 0], None)
        return sparse.flatten(1, 2), dense
    sparse, dense = encoder(points, boxes, masks)
    return sparse[:, :-1], dense  # the last token is segment_anything's own padding


@pytest.mark.parametrize("kind", ["point", "mask", "point+mask", "box"])
def test_prompt_encoder_equals_segment_anything(encoder, kind):
    prompts = make_prompts()
    assert (prompts.labels < 0).any() and (prompts.labels > 0).any()
    embedded = SamPromptEncoder(encoder, kind)(prompts)
    sparse, dense = reference_embedding(encoder, prompts, kind)
    torch.testing.assert_close(embedded.sparse.flatten(0, 1), sparse, atol=1e-5, rtol=0)
    torch.testing.assert_close(embedded.dense.flatten(0, 1), dense, atol=1e-5, rtol=0)


def test_masks_encoded_one_by_one_are_averaged(encoder):
    prompts = make_prompts()
    embedded = SamPromptEncoder(encoder, mask_encoding="each")(prompts).dense
    for b in range(2):
        for n in range(5):
            masks = prompts.masks[b, n][prompts.labels[b, n] > 0].float().unsqueeze(1)
            masks = ((2 * masks - 1) * 8.0).repeat_interleave(4, 2).repeat_interleave(4, 3)
            expected = encoder(None, None, masks)[1].mean(dim=0)
            torch.testing.assert_close(embedded[b, n], expected, atol=1e-5, rtol=0)


def test_positional_encoding_equals_segment_anything(encoder):
    expected = encoder.get_dense_pe()[0].flatten(1).T
    torch.testing.assert_close(SamPromptEncoder(encoder).positional_encoding(GRID), expected)


@pytest.mark.parametrize("kind", ["point", "mask", "point+mask", "box"])
def test_sam_block_equals_segment_anything(encoder, transformer, kind):
    torch.manual_seed(3)
    image = torch.randn(2, CHANNELS, *GRID)
    prompts = make_prompts()
    sam_encoder = SamPromptEncoder(encoder, kind)
    embedded = sam_encoder(prompts)
    position = sam_encoder.positional_encoding(GRID)
    block = SamBlock(transformer)
    result = block(block.share(image, embedded), embedded.sparse, embedded.mask)

    dense = (image.unsqueeze(1) + embedded.dense).flatten(0, 1)
    pe = position.T.unflatten(1, GRID).expand(len(dense), -1, -1, -1)
    _, expected = transformer(dense, pe, embedded.sparse.flatten(0, 1))
    torch.testing.assert_close(result.flatten(0, 1), expected, atol=1e-5, rtol=1e-5)


def test_sam_block_has_the_gradients_of_segment_anything(encoder, transformer):
    torch.manual_seed(4)
    image = torch.randn(1, CHANNELS, *GRID, requires_grad=True)
    sam_encoder = SamPromptEncoder(encoder)
    embedded = sam_encoder(make_prompts(batch=1))
    position = sam_encoder.positional_encoding(GRID)
    block = SamBlock(transformer)
    weight = torch.randn(5, GRID[0] * GRID[1], CHANNELS)
    leaves = [image, *block.parameters()]

    result = block(block.share(image, embedded), embedded.sparse, embedded.mask)
    actual = torch.autograd.grad((result[0] * weight).sum(), leaves)
    dense = (image.unsqueeze(1) + embedded.dense).flatten(0, 1)
    pe = position.T.unflatten(1, GRID).expand(len(dense), -1, -1, -1)
    _, keys = transformer(dense, pe, embedded.sparse.flatten(0, 1))
    expected = torch.autograd.grad((keys * weight).sum(), leaves)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("argument", [{"kind": "scribble"}, {"mask_encoding": "all"}])
def test_unknown_choices_are_refused(encoder, argument):
    with pytest.raises(ValueError, match=next(iter(argument.values()))):
        SamPromptEncoder(encoder, **argument)
