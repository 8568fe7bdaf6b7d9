"""Fixtures of all tests: scripts, which are in no package, as modules, and the folder of real samples."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import write_labels

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
def camvid_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with 5 training and 3 validation images of 12x16 in CamVid's layout, whose red is 20 x the label."""
    generator = np.random.default_rng(0)
    for split, size in (("train", 5), ("val", 3)):
        images, labels = tmp_path / "camvid/images" / split, tmp_path / "camvid/annotations" / split
        images.mkdir(parents=True)
        for index in range(size):
            ids = generator.integers(0, 12, (12, 16)).astype(np.uint8)
            Image.fromarray(np.stack([ids * 20, ids, ids], axis=-1)).save(images / f"{index}.png")
            write_labels(labels / f"{index}.png", ids)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def sample_data() -> Path:
    """The folder of real samples; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("ESCNET_SAMPLE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no sample data in {folder}; set ESCNET_SAMPLE_DATA")
    return folder
