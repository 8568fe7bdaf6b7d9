"""Calls in a process of their own: the answer, the error, and an end by Ctrl-C."""

from __future__ import annotations

import math
import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from escnet.own_process import in_own_process


def test_answers_and_errors_come_back() -> None:
    assert in_own_process(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        in_own_process(math.sqrt, -1.0)


def test_ctrl_c_ends_the_process_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenProcessPool):
        in_own_process(signal.raise_signal, signal.SIGINT)
    assert "Traceback" not in capfd.readouterr().err
