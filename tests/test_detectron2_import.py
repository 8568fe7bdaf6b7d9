"""Importing Detectron2 through escnet says nothing, and hides nothing that the user's own code does."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORTS = "import escnet.predictor, escnet.training.trainer, escnet.evaluation.zero_shot"
# Garbage is not looked for, which takes a fifth of the time and says nothing.
PROGRAM = f"""
import gc, sys, warnings
gc.disable()
{IMPORTS}
gc.freeze()
print("imported", file=sys.stderr)
def warn():
    warnings.warn("`torch.jit.script` is deprecated", FutureWarning)
warn()
"""


def run(*flags: str) -> tuple[int, str, str]:
    """The exit code of the program, what it says while it imports, and what after that."""
    done = subprocess.run([sys.executable, *flags, "-c", PROGRAM], capture_output=True, text=True, check=False)
    imported, _, after = done.stderr.partition("imported\n")
    return done.returncode, imported, after


@pytest.fixture(scope="module")
def plain() -> tuple[int, str, str]:
    return run()


def test_start_is_silent(plain: tuple[int, str, str]) -> None:
    # Without the modules wrapped, the first of them ends this program while it imports; here the user's warning does.
    code, imported, after = run("-W", "error::FutureWarning")
    assert (code, imported) == (1, "") and after.endswith("FutureWarning: `torch.jit.script` is deprecated\n")
    assert plain[1] == ""


def test_the_user_hears_of_what_the_user_scripts(plain: tuple[int, str, str]) -> None:
    code, _, after = plain
    (line,) = after.splitlines()
    assert code == 0 and line.endswith("FutureWarning: `torch.jit.script` is deprecated")
