"""Runs the scripts of ``datasets`` in this process."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def run(
    request: pytest.FixtureRequest, load_script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the script that the test file names as SCRIPT; gives its exit code, and its output or else its errors."""

    def run(*arguments: str) -> tuple[int, str]:
        code = load_script(request.module.SCRIPT).main(["--workers", "1", *arguments])
        captured = capsys.readouterr()
        return code, captured.err if code else captured.out

    return run
