"""Checkpoints: whole or not there, harmless to read, and exact."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from escnet.pretrained.files import WeightsError
from escnet.safe_files import DiskFullError
from escnet.training.checkpoint import SafeCheckpointer


class Counter:
    """A checkpointable."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def checkpointer(folder: Path, seed: int = 0, **checkpointables: Any) -> SafeCheckpointer:
    torch.manual_seed(seed)
    return SafeCheckpointer(nn.Linear(3, 2), str(folder), **checkpointables)


def test_saved_and_resumed(tmp_path: Path) -> None:
    saved = checkpointer(tmp_path, counter=Counter(7))
    saved.save("model_0000004", iteration=4)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000004.pth"]
    counter = Counter()
    loaded = checkpointer(tmp_path, seed=1, counter=counter)
    assert loaded.resume_or_load("", resume=True) == {"iteration": 4}
    assert counter.count == 7
    assert torch.equal(loaded.model.weight, saved.model.weight)


def test_only_weights_are_loaded_without_resume(tmp_path: Path) -> None:
    checkpointer(tmp_path, counter=Counter(7)).save("model_0000004")
    counter = Counter()
    checkpointer(tmp_path, counter=counter).resume_or_load(str(tmp_path / "model_0000004.pth"), resume=False)
    assert counter.count == 0


def test_weights_alone_are_not_what_training_goes_on_from(tmp_path: Path) -> None:
    saved = checkpointer(tmp_path, counter=Counter(7))
    saved.save("model_0000004")
    saved.save_weights("model_best", saved.model.state_dict(), iteration=2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert torch.load(tmp_path / "model_best.pth", weights_only=True).keys() == {"model", "iteration"}
    assert [Path(path).name for path in saved.periodic_checkpoints()] == ["model_0000004.pth"]
    loaded = checkpointer(tmp_path, seed=1)
    loaded.load(str(tmp_path / "model_best.pth"))
    assert torch.equal(loaded.model.weight, saved.model.weight)


@pytest.mark.parametrize("written", [0, 10])
def test_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    saved = checkpointer(tmp_path)
    saved.save("model_0000001")
    saved.save("model_0000003")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def fail(content: Any, file: Any) -> None:
        file.write(b"x" * written)
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    for name in ("model_0000003", "model_0000005"):
        with pytest.raises(OSError, match="No space"):
            saved.save(name)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_the_name_appears_only_with_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, save = checkpointer(tmp_path), torch.save
    seen: list[list[str]] = []

    def look(content: Any, file: Any) -> None:
        save(content, file)
        seen.append(sorted(path.suffix for path in tmp_path.iterdir()))

    monkeypatch.setattr(torch, "save", look)
    saved.save("model_0000001")
    assert seen == [[".tmp"]]


def test_leftovers_of_a_kill_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = checkpointer(tmp_path)
    # A kill gives no time to clean up.
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        patch.setattr(torch, "save", lambda content, file: file.write(b"half") and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            saved.save("model_0000001")
    (tmp_path / "notes.tmp").touch()
    (leftover,) = tmp_path.glob(".*")
    assert saved.remove_leftovers() == [leftover.name]
    assert os.listdir(tmp_path) == ["notes.tmp"]


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"model": Malicious(trace)}, file)
    with pytest.raises(WeightsError, match=r"evil\.pth: cannot be read.*more than tensors"):
        checkpointer(tmp_path).load(str(file))
    assert not trace.exists()
    torch.load(file, weights_only=False)  # it would have
    assert trace.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pyth", ""])
def test_other_formats_are_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    torch.save({"model": nn.Linear(3, 2).state_dict()}, file)
    with pytest.raises(WeightsError, match=r"only \.pth and \.safetensors"):
        checkpointer(tmp_path).load(str(file))


def test_safetensors_and_bare_state_dicts(tmp_path: Path) -> None:
    weights = nn.Linear(3, 2).state_dict()
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        loaded = checkpointer(tmp_path)
        loaded.load(str(tmp_path / name))
        assert torch.equal(loaded.model.weight, weights["weight"])


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_damaged_file_names_itself_and_the_remedy(tmp_path: Path, content: bytes | None) -> None:
    saved = checkpointer(tmp_path)
    for iteration in (1, 3, 5):
        saved.save(f"model_{iteration:07d}")
    file = tmp_path / "model_0000005.pth"
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    weight = saved.model.weight.clone()
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"model_0000005\.pth.*echo model_0000003\.pth > .*last_checkpoint"):
            saved.resume_or_load("", resume=True)
        file.unlink(missing_ok=True)  # the first half of the remedy changes nothing about the second
    assert torch.equal(saved.model.weight, weight)


def test_misfits_are_named(tmp_path: Path) -> None:
    weights = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
    torch.save({"model": weights}, tmp_path / "other.pth")
    with pytest.raises(WeightsError) as error:
        checkpointer(tmp_path).load(str(tmp_path / "other.pth"))
    for part in ("other.pth", "missing keys: bias", "unexpected keys: scale", "weight (2, 4) for (2, 3)"):
        assert part in str(error.value)


def test_weights_alone_are_not_resumed_from(tmp_path: Path) -> None:
    checkpointer(tmp_path).save("model_0000001")
    with pytest.raises(WeightsError, match="holds no 'counter'"):
        checkpointer(tmp_path, counter=Counter()).resume_or_load("", resume=True)


def test_what_is_kept_does_not_depend_on_the_file(tmp_path: Path) -> None:
    checkpointer(tmp_path).save("model_0000001", moments=torch.arange(1000.0))
    file = tmp_path / "model_0000001.pth"
    extra = checkpointer(tmp_path).load(str(file))
    with open(file, "r+b") as stream:
        stream.write(b"\0" * file.stat().st_size)
    assert torch.equal(extra["moments"], torch.arange(1000.0))


def test_only_the_process_that_may_writes(tmp_path: Path) -> None:
    SafeCheckpointer(nn.Linear(3, 2), str(tmp_path), save_to_disk=False).save("model_0000001")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("before", [("model_0000001", "model_0000003"), ()])
def test_a_full_disk_is_told_with_what_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: tuple[str, ...]
) -> None:
    saved = checkpointer(tmp_path)
    for name in before:
        saved.save(name)
    files = sorted(os.listdir(tmp_path))

    class FullFile(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, FullFile()))
    expected = "The last checkpoint, model_0000003.pth, stands.*--resume" if before else "no earlier checkpoint"
    with pytest.raises(DiskFullError, match=rf"model_0000005\.pth: not written.*{expected}") as error:
        saved.save("model_0000005")
    assert "unexpected pos" not in str(error.value) and "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == files
