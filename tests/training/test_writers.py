"""The metrics file: whole after a kill; written often enough when iterations are slow."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventWriter

from escnet.training.writers import TimedWriter, repair_metrics

LINES = [json.dumps({"iteration": i, "loss": 1.5}) + "\n" for i in (1, 3, 5)]


@pytest.mark.parametrize("torn", ['{"iteration": 7, "lo', "\0\0\0", '{"iteration', "7"])
def test_torn_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("".join(LINES) + torn)
    repair_metrics(path)
    assert path.read_text() == "".join(LINES)


def test_lines_that_will_be_written_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("".join(LINES).rstrip())
    repair_metrics(path, start_iteration=5)
    assert path.read_text() == "".join(LINES[:2])
    repair_metrics(tmp_path / "missing.json")


class Recorder(EventWriter):
    def __init__(self) -> None:
        self.writes = 0

    def write(self) -> None:
        self.writes += 1


@pytest.mark.parametrize(("seconds", "expected"), [(1000.0, 3), (0.0, 50)])
def test_written_by_period_and_by_time(seconds: float, expected: int) -> None:
    recorder = Recorder()
    hook = TimedWriter([recorder], period=20, seconds=seconds)
    hook.trainer = SimpleNamespace(iter=0, max_iter=50)
    for hook.trainer.iter in range(50):
        hook.after_step()
    assert recorder.writes == expected  # after 20, 40 and the last


def test_written_after_each_validation() -> None:
    recorder = Recorder()
    hook = TimedWriter([recorder], period=20, seconds=1000.0, validation_period=15)
    hook.trainer = SimpleNamespace(iter=0, max_iter=50)
    for hook.trainer.iter in range(50):
        hook.after_step()
    assert recorder.writes == 6  # after 15, 20, 30, 40, 45 and the last
