"""datasets/prepare_mojireplay.py: its defaults are those of the pictures, and it ends in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from escnet.miniature import replay

SCRIPT = "datasets/prepare_mojireplay.py"


def test_the_defaults_are_those_of_the_pictures(load_script: Callable[[str], ModuleType]) -> None:
    script = load_script(SCRIPT)
    options = script.parse([])
    assert replay.Replay(options.clip, options.sam, options.shards, options.seed) == replay.Replay()
    assert script.FOLDER == replay.FOLDER


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PermissionError(13, "Permission denied", "mojireplay"), 1, "mojireplay: [Errno 13] Permission denied"),
        (KeyboardInterrupt(), 130, "mojireplay: stopped; what is finished is kept, run again to continue"),
    ],
)
def test_what_ends_it_is_told_in_a_line(
    run: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(replay, "write_replay", fails)
    found, text = run("--root", str(tmp_path))
    assert found == code and text.strip().startswith(line) and len(text.strip().splitlines()) == 1


def test_a_number_of_processes_is_not_negative(
    run: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--workers", "-1")
    assert "argument --workers: '-1' is no whole number of 0 or more" in capsys.readouterr().err
