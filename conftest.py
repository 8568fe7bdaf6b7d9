"""Settings of the whole test suite: the repository's root on the import path, one thread, and a quicker collection."""

from __future__ import annotations

import gc
import logging
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
        # What has been imported stays: neither the tests nor the end of the process look for garbage in it.
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Generator[None, object, None]:
    """Undo what a test has set up of logging: handlers keep the output of their test, which is closed after it."""
    names = [name for name in (None, *logging.Logger.manager.loggerDict) if name is None or _is_kept(name)]
    before = {name: _state(logging.getLogger(name)) for name in names}
    yield
    for name in [name for name in (None, *logging.Logger.manager.loggerDict) if name is None or _is_kept(name)]:
        logger = logging.getLogger(name)
        handlers, logger.propagate, level = before.get(name, ([], True, logging.NOTSET))
        logger.setLevel(level)
        for handler in logger.handlers[:]:
            if handler not in handlers:
                logger.removeHandler(handler)
    if "detectron2.utils.logger" in sys.modules:
        # It remembers which loggers it has set up.
        sys.modules["detectron2.utils.logger"].setup_logger.cache_clear()


def _is_kept(name: str) -> bool:
    return name.split(".")[0] in ("escnet", "detectron2", "fvcore")


def _state(logger: logging.Logger) -> tuple[list[logging.Handler], bool, int]:
    return logger.handlers[:], logger.propagate, logger.level
