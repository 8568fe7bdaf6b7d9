"""Fixtures of all tests: scripts, which are in no package, as modules, and the folder of real samples."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """Imports a script by its path in the repository: ``load_script("tools/predict.py")``."""

    def load(path: str) -> ModuleType:
        # A name of its own: there are other packages called tools and datasets.
        name = f"script_{Path(path).stem}"
        spec = importlib.util.spec_from_file_location(name, REPOSITORY / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look there for their module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def sample_data() -> Path:
    """The folder of real samples; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("ESCNET_SAMPLE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no sample data in {folder}; set ESCNET_SAMPLE_DATA")
    return folder
