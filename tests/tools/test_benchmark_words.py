"""What tools/benchmark_words.py measures and refuses."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def tool(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("tools/benchmark_words.py")
    monkeypatch.setattr(script, "in_own_process", lambda function, *arguments: function(*arguments))
    return script


SMALL = ("--config-file", "configs/mojiscenes/clip_guided_sam.yaml", "--threads", "1")


def test_the_table_has_a_row_for_each_number_of_blocks_and_words(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--words", "1", "3", "--blocks", "0", "1", *SMALL, "MODEL.DEVICE", "cpu"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0][:6] == ["words enter", "words", "SAM alone s", "image s", "words s", "s per word"]
    assert [row[:2] for row in rows[2:]] == [["all", "1"], ["all", "3"], ["last 1", "1"], ["last 1", "3"]]
    assert all(float(cell) >= 0 for row in rows[2:] for cell in row[2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--blocks", "5"], "--blocks has 5; SAM's image encoder has 4"),
        (["MODEL.GUIDED.NO_SUCH_KEY", "1"], "NO_SUCH_KEY"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    options = [*arguments, *SMALL] if arguments[0].startswith("--") else [*SMALL, *arguments]
    assert tool.main(options) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("benchmark_words.py: ") and message in error
