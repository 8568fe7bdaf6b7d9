"""Settings of the whole test suite: the repository's root on the import path, one thread, and a quicker collection."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

# The installed package is escnet alone; tests of tools/ and datasets/ import those from here.
sys.path.insert(0, str(Path(__file__).resolve().parent))


# Read when torch is imported, here and in the processes that tests start. The models of the tests are too small for
# more threads, and those of several workers would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without garbage collection, which takes a fifth of the time of importing torch and detectron2."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
