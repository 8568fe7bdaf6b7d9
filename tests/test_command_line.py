"""How commands refuse."""

from __future__ import annotations

import pytest

from escnet.command_line import one_line, refuse


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("no such 'key'"), "no such 'key'"),
        (ValueError("two\n  lines"), "two lines"),
        (MemoryError(), "MemoryError"),
        (KeyError(), "KeyError"),
        (
            ValueError(
                "Caught ImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "  ...\nescnet.data.images.ImageError: photo.jpg: is damaged: copy it again\n"
            ),
            "photo.jpg: is damaged: copy it again",
        ),
    ],
)
def test_an_error_is_told_in_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(error) == line
    assert refuse("tool.py", error) == 2
    assert refuse("tool.py", line, code=1) == 1
    printed = capsys.readouterr()
    assert printed.err == 2 * f"tool.py: {line}\n" and not printed.out
