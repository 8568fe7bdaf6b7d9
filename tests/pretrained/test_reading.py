"""What else than plain tensors a weight file may hold, and under which names: read, or told in one line."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from escnet.pretrained.files import WeightsError
from escnet.pretrained.loading import load_exactly
from escnet.pretrained.reading import read_checkpoint, read_weights, wrapper_prefix
from escnet.training.checkpoint import SafeCheckpointer

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([7.0, 8.0])}
NUMPY = {
    "best": np.float64(0.5),
    "epoch": np.int64(3),
    "done": np.bool_(True),
    "history": np.arange(4, dtype=np.float32),
    "type": np.dtype("int16"),
}


def assert_is_state(tensors: dict[str, Tensor]) -> None:
    assert tensors.keys() == STATE.keys()
    assert all(torch.equal(tensors[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("modern", [True, False])
def test_numbers_of_numpy_beside_the_weights(tmp_path: Path, modern: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": STATE, **NUMPY}, path, _use_new_zipfile_serialization=modern)
    weights, rest = read_checkpoint(path)
    assert_is_state(weights)
    assert {name: rest[name] for name in ("best", "epoch", "done", "type")} == {
        "best": 0.5, "epoch": 3, "done": True, "type": np.dtype("int16")
    }  # fmt: skip
    assert np.array_equal(rest["history"], NUMPY["history"])


def test_numbers_that_numpy_1_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": STATE, "best": np.float64(0.5)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_checkpoint(path).rest == {"best": 0.5}


def test_numbers_of_numpy_are_read_only_here(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": STATE, **NUMPY}, path)
    read_weights(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (Path("run"), r"pathlib.*Path"),
        (np.datetime64("2020-01-01"), "numpy.*DateTime64"),
        (np.array([argparse.Namespace()], dtype=object), "Object|argparse.Namespace"),
    ],
)
def test_an_object_that_is_not_read_is_named(tmp_path: Path, value: object, name: str) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": STATE, "extra": value}, path)
    with pytest.raises(WeightsError, match=rf"model\.pth: cannot be read.*more than tensors.*({name})") as error:
        read_weights(path)
    assert "cut off" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.model.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, prefix: str) -> None:
    torch.save({"state_dict": {prefix + name: value for name, value in STATE.items()}}, tmp_path / "model.pth")
    assert_is_state(read_weights(tmp_path / "model.pth"))


def test_a_prefix_that_not_all_names_have_stays(tmp_path: Path) -> None:
    state = {"module.model.weight": STATE["weight"], "module.bias": STATE["bias"]}
    assert wrapper_prefix(state) == "module."
    torch.save(state, tmp_path / "model.pth")
    assert read_weights(tmp_path / "model.pth").keys() == {"model.weight", "bias"}
    assert wrapper_prefix(["model.weight", "bias"]) == wrapper_prefix(["models.weight"]) == wrapper_prefix([]) == ""


def test_a_module_whose_own_names_have_such_a_prefix(tmp_path: Path) -> None:
    module = nn.Module()
    module.model = nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "model.pth")
    other = nn.Module()
    other.model = nn.Linear(3, 2)
    load_exactly(other, read_weights(tmp_path / "model.pth"), "model.pth")
    assert torch.equal(other.model.weight, module.model.weight)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "wrapped"])
def test_training_begins_with_all_that_the_other_tools_read(tmp_path: Path, suffix: str, form: str) -> None:
    wrapped = {f"module._orig_mod.{name}": value for name, value in STATE.items()}
    content = {
        "plain": STATE,
        "state_dict": {"state_dict": STATE, "epoch": 3},
        "model": {"model": STATE, "iteration": 3},
        "wrapped": {"model": wrapped},
    }[form]
    path = tmp_path / f"weights{suffix}"
    torch.save(content, path)
    checkpointer = SafeCheckpointer(nn.Linear(3, 2), str(tmp_path / "run"))
    rest = checkpointer.load(str(path), checkpointables=[])
    assert_is_state(checkpointer.model.state_dict())
    assert rest == {"state_dict": {"epoch": 3}, "model": {"iteration": 3}}.get(form, {})
