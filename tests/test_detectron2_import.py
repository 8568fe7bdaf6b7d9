"""Importing Detectron2 through escnet says nothing, and hides nothing that the user's own code does."""

from __future__ import annotations

import subprocess
import sys


def run(program: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, check=False)


def test_start_is_silent() -> None:
    # Without the modules wrapped, the first of them ends this program.
    program = "import escnet.predictor, escnet.training.trainer, escnet.evaluation.zero_shot"
    done = run(program, "-W", "error::FutureWarning")
    assert (done.returncode, done.stderr) == (0, "")
    assert run(program).stderr == ""


def test_the_user_hears_of_what_the_user_scripts() -> None:
    program = """
import warnings
import escnet.predictor, torch
def warn():
    warnings.warn("`torch.jit.script` is deprecated", FutureWarning)
warn()
"""
    done = run(program)
    assert done.returncode == 0 and "FutureWarning: `torch.jit.script` is deprecated" in done.stderr
