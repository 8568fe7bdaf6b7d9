"""The version of a module's weights sees each ordinary change, and nothing else."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from escnet.layers.weights_version import WeightsVersion


def step(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(module.parameters()).step()


def load(module: nn.Module) -> None:
    file = io.BytesIO()
    torch.save({name: value + 1 for name, value in module.state_dict().items()}, file)
    file.seek(0)
    module.load_state_dict(torch.load(file, weights_only=True))


def replace(module: nn.Module) -> None:
    module.weight = nn.Parameter(module.weight.detach().clone())


def edit(module: nn.Module) -> None:
    with torch.no_grad():
        module.bias[1] += 1e-3


@pytest.mark.parametrize(
    "change",
    [step, load, replace, edit, lambda m: m.half()],
    ids=["AdamW", "load_state_dict", "another parameter", "in place", "half"],
)
def test_a_change_gives_another_number(change) -> None:
    module, version = nn.Linear(3, 3), WeightsVersion()
    before = version.of(module)
    assert version.of(module) == before
    module(torch.ones(2, 3)).sum().backward()
    assert version.of(module) == before
    change(module)
    assert version.of(module) != before


def test_replaced_again_and_again_no_number_comes_twice() -> None:
    module, version, seen = nn.Linear(3, 3), WeightsVersion(), set()
    for _ in range(50):
        replace(module)
        number = version.of(module)
        assert number not in seen
        seen.add(number)


def test_a_copy_is_counted_by_itself() -> None:
    module, version = nn.Linear(3, 3), WeightsVersion()
    number = version.of(module)
    other = copy.deepcopy(version)
    other.of(copy.deepcopy(module))
    assert version.of(module) == number


def test_inference_tensors_have_a_version_too() -> None:
    with torch.inference_mode():
        module = nn.Linear(3, 3)
    version = WeightsVersion()
    assert version.of(module) == version.of(module)
