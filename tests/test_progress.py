"""Progress: a bar on a terminal, and few whole lines in a log."""

from __future__ import annotations

import sys

import pytest
from tqdm import tqdm

from escnet import progress
from escnet.progress import ProgressLines, progress_bar


class Clock:
    """Time that passes by a second whenever it is asked for."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    return clock


def test_a_log_has_a_line_every_half_minute_and_one_at_the_end(clock: Clock, capsys: pytest.CaptureFixture) -> None:
    assert list(progress_bar(range(200), total=200, desc="voc", unit="image")) == list(range(200))
    lines = capsys.readouterr().err.splitlines()
    # 200 items at one question a second, and a question more for each line.
    assert 6 <= len(lines) <= 8
    assert all(line.startswith("voc") and "\r" not in line for line in lines)
    assert lines[-1].startswith("voc: 100% 200/200 [") and "s/image" in lines[-1]


def test_work_that_tells_by_itself(clock: Clock, capsys: pytest.CaptureFixture) -> None:
    with progress_bar(total=100, unit="step") as bar:
        for _ in range(20):
            bar.set_postfix(loss="0.5", refresh=False)
            bar.update(5)
    (line,) = capsys.readouterr().err.splitlines()
    assert "100% 100/100" in line and "loss=0.5" in line


def test_work_that_fails_tells_how_far_it_came(clock: Clock, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(OSError, match="full"), progress_bar(total=10, desc="a") as bar:
        bar.update(3)
        raise OSError("full")
    assert "30% 3/10" in capsys.readouterr().err


def test_a_terminal_has_a_bar_and_silence_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(progress_bar(total=3), tqdm)
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert isinstance(progress_bar(total=3), ProgressLines)
    assert list(progress_bar(range(3), total=3, disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
