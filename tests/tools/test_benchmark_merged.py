"""What tools/benchmark_merged.py refuses, in one line."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def tool(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("tools/benchmark_merged.py")
    monkeypatch.setattr(script, "in_own_process", lambda function, *arguments: function(*arguments))
    return script


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "100"], "--size is (100, 100); both sides"),
        (["--clip", "nope"], "nope"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    small = ["--config-file", "configs/mojiscenes/sam_clip.yaml", "--precisions", "fp32", "--threads", "1"]
    assert tool.main([*small, *arguments]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("benchmark_merged.py: ") and message in error


@pytest.mark.parametrize("option", ["--words", "--boxes", "--repeats", "--size", "--clip-size", "--threads"])
def test_numbers_are_of_one_or_more(tool: ModuleType, capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        tool.main([option, "0"])
    assert f"argument {option}: '0' is no whole number of 1 or more" in capsys.readouterr().err
