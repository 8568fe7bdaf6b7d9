"""Weight files of our own are read again as they were, by everything here; and never half-written."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest
import safetensors
import torch
from torch import nn

from escnet.pretrained.files import WeightsError
from escnet.pretrained.reading import read_weights
from escnet.pretrained.writing import check_suffix, write_weights
from escnet.training.checkpoint import SafeCheckpointer


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_read_again(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    path = tmp_path / f"new/weights{suffix}"
    # A part of a tensor, and one that shares memory with it.
    weights = {"weight": model.weight.T.contiguous().T, "bias": model.bias}
    write_weights(path, weights, {"alpha": "0.5"})
    assert all(torch.equal(value, weights[name]) for name, value in read_weights(path).items())
    SafeCheckpointer(other).load(str(path))
    assert torch.equal(other.weight, model.weight)
    shared = torch.ones(4)
    write_weights(path, {"a": shared[:2], "b": shared})
    assert read_weights(path)["b"].shape == (4,)
    if suffix == ".safetensors":
        write_weights(path, weights, {"alpha": "0.5"})
        with safetensors.safe_open(path, "pt") as file:
            assert file.metadata() == {"alpha": "0.5"}


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    write_weights(path, {"a": torch.ones(2)})

    def fails(_: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("cut off")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="cut off"):
        write_weights(path, {"a": torch.zeros(2)})
    assert read_weights(path)["a"].tolist() == [1, 1] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["weights.bin", "weights"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=r"written as \.safetensors or \.pth"):
        check_suffix(tmp_path / name)
