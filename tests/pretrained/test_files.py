"""Tests of the readers of weight files: what they read, what they refuse, and that they run nothing."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from escnet.pretrained.files import WeightsError, verify_sha256
from escnet.pretrained.reading import load_checkpoint, read_weights
from escnet.pretrained.torchscript import is_torchscript

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7, dtype=torch.int64)}


class Touch:
    """Makes a file when it is unpickled by a reader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def assert_is_state(tensors: dict[str, torch.Tensor]) -> None:
    assert tensors.keys() == STATE.keys()
    for name, value in STATE.items():
        assert tensors[name].dtype == value.dtype
        torch.testing.assert_close(tensors[name], value)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "iteration": 5, "optimizer": {"lr": 0.1}},
        {f"module.{name}": value for name, value in STATE.items()},
    ],
    ids=["plain", "state_dict", "model", "module"],
)
@pytest.mark.parametrize("modern", [True, False])
def test_torch_files(tmp_path: Path, content: dict, modern: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=modern)
    assert_is_state(read_weights(path))
    assert_is_state(load_checkpoint(str(path)))


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(STATE, path)
    assert_is_state(read_weights(path))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3).half())
        self.shared = nn.Parameter(self.weight.detach()[1:])  # a view into the same storage
        self.register_buffer("count", torch.tensor(5))
        self.sizes = [1, 2, 3]
        self.label = "x"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + len(self.sizes)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives_equal_what_torch_reads(tmp_path: Path) -> None:
    path = tmp_path / "archive.pt"
    module = torch.jit.script(nn.Sequential(Inner(), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))))
    module.save(str(path))
    assert is_torchscript(path)
    expected = torch.jit.load(str(path)).state_dict()
    read = read_weights(path)
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        assert read[name].dtype == value.dtype
        torch.testing.assert_close(read[name], value)


def test_only_archives_of_torchscript_are_taken_for_such(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(STATE, path)
    assert not is_torchscript(path)
    path.write_bytes(b"garbage")
    assert not is_torchscript(path)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    archive = tmp_path / "archive.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/constants.pkl", b"")
        file.writestr("x/data.pkl", pickle.dumps(Touch(made), protocol=2))
    plain = tmp_path / "plain.pth"
    torch.save({"model": STATE, "extra": Touch(made)}, plain)
    for path in (archive, plain):
        with pytest.raises(WeightsError, match=rf"{path.name}: cannot be read as weights.*Fetch it again"):
            read_weights(path, "Fetch it again.")
    assert not made.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_damaged_files(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save(STATE, path)
    else:
        safetensors.torch.save_file(STATE, path)
    data = path.read_bytes()
    size = int(keep * len(data)) if keep < 1 else int(keep)
    path.write_bytes(data[:size])
    with pytest.raises(WeightsError, match=rf"{name}: cannot be read as weights, {size} bytes") as error:
        read_weights(path, "Fetch it again.")
    assert "\n" not in str(error.value)


def test_files_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(2)], path)
    with pytest.raises(WeightsError, match=r"list\.pth: holds a list without tensors"):
        read_weights(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(WeightsError, match="holds a dict without tensors"):
        read_weights(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(WeightsError, match="cannot be read as weights, 22 bytes"):
        load_checkpoint(path)
    with pytest.raises(WeightsError, match=r"missing\.pth: there is no such file\. Look elsewhere\."):
        read_weights(tmp_path / "missing.pth", "Look elsewhere.")


def test_verify_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    verify_sha256(path, hashlib.sha256(b"x" * 3_000_000).hexdigest())
    with pytest.raises(WeightsError, match="SHA-256"):
        verify_sha256(path, hashlib.sha256(b"y").hexdigest())
