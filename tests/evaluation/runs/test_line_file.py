"""Lines of results: whole or not at all, after kills and full disks."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from escnet.evaluation.runs.line_file import LineFile


def lines(path: Path) -> list[str]:
    return [line for line, _ in LineFile(path)]


def test_lines_come_back_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    assert lines(path) == []
    file = LineFile(path)
    assert file.is_empty()
    file.add({"a": [1, "é"]}, "first")
    file.close()
    file.add([2], "second")
    file.close()
    assert not file.is_empty()
    assert list(LineFile(path)) == [('{"a":[1,"é"]}\n', f"{path}, line 1"), ("[2]\n", f"{path}, line 2")]


def test_half_a_line_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    LineFile(path).repair()
    assert not path.exists()
    path.write_text("[1]\n[2")
    LineFile(path).repair()
    assert lines(path) == ["[1]\n"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    class Full:
        """Writes a part, then has no space."""

        def __init__(self, stream) -> None:
            self._stream, self.name = stream, stream.name

        def write(self, contents: bytes) -> int:
            if len(contents) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._stream.write(contents[:10])

        def __getattr__(self, name: str):
            return getattr(self._stream, name)

    path = tmp_path / "results.jsonl"
    file = LineFile(path)
    file.add([1], "first")
    file._stream = Full(file._stream)
    with pytest.raises(OSError, match=r"the result of the image 'second' was not written \(No space left"):
        file.add(["x" * 40], "second")
    file.close()
    assert lines(path) == ["[1]\n"]
