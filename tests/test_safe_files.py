"""A full disk: recognised whoever wrote, told in one line, and nothing lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import safetensors
import torch

from escnet.safe_files import DiskFullError, check_writable, is_disk_full, replacing, write_safetensors


def zip_writer_error(code: int) -> BaseException:
    """What torch.save raises when the file cannot take its bytes."""

    class Full:
        def write(self, content: bytes) -> int:
            raise OSError(code, os.strerror(code))

        def flush(self) -> None:
            pass

    with pytest.raises((OSError, RuntimeError)) as caught:
        torch.save({"a": torch.zeros(1000)}, Full())
    return caught.value


def test_what_tells_of_a_full_disk() -> None:
    assert is_disk_full(OSError(errno.ENOSPC, "x")) and is_disk_full(OSError(errno.EDQUOT, "x"))
    assert is_disk_full(zip_writer_error(errno.ENOSPC))
    assert is_disk_full(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"))
    assert is_disk_full(OSError("100000 requested and 512 written"))
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(zip_writer_error(errno.EIO))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(ValueError("2 were requested and none was found"))


@pytest.mark.parametrize("is_there", [True, False])
def test_replacing_says_what_was_not_written(tmp_path: Path, is_there: bool) -> None:
    path = tmp_path / "labels.png"
    if is_there:
        path.write_text("old")
    stands = "what was there before stands" if is_there else "there is no such file now"
    with (
        pytest.raises(DiskFullError, match=rf"labels\.png: not written, .*{stands}.*same command") as error,
        replacing(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(error.value, OSError) and "\n" not in str(error.value)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"] * is_there


def test_a_full_disk_is_told_once(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFullError, match=r"inner: not written") as error,
        replacing(tmp_path / "outer"),
        replacing(tmp_path / "inner"),
    ):
        raise OSError(errno.ENOSPC, "x")
    assert "outer:" not in str(error.value)


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "x")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(DiskFullError), replacing(tmp_path / "new" / "file"):
        pass


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), replacing(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "x")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_tensors_have_the_permissions_of_other_files(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):
            write_safetensors(tmp_path / "new/a.safetensors", {"a": torch.ones(2)}, {"of": "b"})
    finally:
        os.umask(before)
    assert (tmp_path / "new/a.safetensors").stat().st_mode & 0o777 == mode
    with safetensors.safe_open(tmp_path / "new/a.safetensors", "pt") as file:
        assert file.metadata()["of"] == "b" and file.get_tensor("a").tolist() == [1, 1]
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_whether_a_file_can_be_written_is_known_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new/a.json")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "file/a.json", "cannot be written"),
        (Path("/proc/a.json"), "cannot be written"),
    ):
        with pytest.raises(OSError, match=reason) as error:
            check_writable(path)
        assert str(path) in str(error.value)
