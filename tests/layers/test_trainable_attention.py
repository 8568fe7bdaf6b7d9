"""Tests of which CLIP weights are trained."""

from __future__ import annotations

import copy

import pytest
import torch
from open_clip.model import CLIP
from torch import nn

from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.trainable_attention import trainable_attention_parameters


def make_encoder() -> ClipImageEncoder:
    torch.manual_seed(0)
    vision = {"image_size": 16, "layers": 2, "width": 12, "patch_size": 8, "head_width": 6}
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    return ClipImageEncoder(CLIP(6, vision, text).visual, "qk")


def step(encoder: ClipImageEncoder) -> set[str]:
    """Take a step; return the names of the parameters that moved."""
    before = copy.deepcopy(encoder.state_dict())
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    encoder.zero_grad()
    features = encoder(torch.randn(2, 3, 16, 16))
    loss = features.dense[:, 0].sum() + features.pooled.square().sum()
    if trained:
        loss.backward()
        torch.optim.SGD(trained, lr=0.1).step()
    return {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}


def test_choices() -> None:
    encoder = make_encoder()
    everything = {name for name, _ in encoder.named_parameters()}
    attention = {name for name in everything if ".attn." in name}
    packed = {name for name in attention if "in_proj" in name}
    for which, expected in (
        ("qv", packed),
        ("attention", attention),
        ("none", set()),
        ("all", everything),
        ("qv", packed),
        ("qv", packed),
    ):
        trainable_attention_parameters(encoder, which)
        assert {name for name, parameter in encoder.named_parameters() if parameter.requires_grad} == expected
        assert step(encoder) == expected


def test_qv_leaves_the_keys_alone_and_only_qv() -> None:
    encoder = make_encoder()
    weight = encoder.visual.transformer.resblocks[0].attn.in_proj_weight
    query, key, value = (slice(12 * part, 12 * part + 12) for part in range(3))
    trainable_attention_parameters(encoder, "qv")
    before = weight.detach().clone()
    step(encoder)
    moved = (weight.detach() != before).any(dim=1)
    assert moved[query].all() and moved[value].all() and not moved[key].any()

    trainable_attention_parameters(encoder, "attention")
    step(encoder)
    assert weight.grad[key].abs().sum() > 0

    trainable_attention_parameters(encoder, "qv")
    duplicate = copy.deepcopy(encoder)  # a copy has no hook until it is asked for one
    trainable_attention_parameters(duplicate, "qv")
    step(duplicate)
    assert duplicate.visual.transformer.resblocks[0].attn.in_proj_weight.grad[key].abs().sum() == 0


def test_refuses() -> None:
    with pytest.raises(ValueError, match="none, attention, qv, all"):
        trainable_attention_parameters(make_encoder(), "kv")
    with pytest.raises(ValueError, match="Linear has no residual attention blocks"):
        trainable_attention_parameters(nn.Linear(2, 2), "qv")
