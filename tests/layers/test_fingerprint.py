"""Tests of the fingerprint of a module's weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from escnet.layers.fingerprint import weights_fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_single_number_counts(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.ParameterList([nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in [(7, 9), (3,), (), (40,)]])
    seen = {weights_fingerprint(module)}
    assert weights_fingerprint(module) in seen
    for parameter in module:
        flat = parameter.data.view(-1)
        for index in range(len(flat)):
            flat[index] *= 1.01
            fingerprint = weights_fingerprint(module)
            assert fingerprint not in seen
            seen.add(fingerprint)


def test_a_parameter_inside_another_storage() -> None:
    storage = torch.arange(10, dtype=torch.float32)
    module = nn.ParameterList([nn.Parameter(storage[1:8])])
    before = weights_fingerprint(module)
    storage[0] = -1
    assert weights_fingerprint(module)[1] == before[1]
    storage[7] = -1
    assert weights_fingerprint(module)[1] != before[1]


def test_same_content_in_another_parameter_and_inference_tensors() -> None:
    module = nn.Linear(3, 3)
    before = weights_fingerprint(module)
    module.weight = nn.Parameter(module.weight.detach().clone())
    assert weights_fingerprint(module) != before
    with torch.inference_mode():
        frozen = nn.Linear(3, 3)
        fingerprint = weights_fingerprint(frozen)
        frozen.weight.data[1, 1] += 1
        assert weights_fingerprint(frozen) != fingerprint
