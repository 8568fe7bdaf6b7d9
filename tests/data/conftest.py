"""Fixtures for the data tests: the folder of real samples, and a small dataset on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import write_labels

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def sample_data() -> Path:
    """The folder of real samples; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("ESCNET_SAMPLE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no sample data in {folder}; set ESCNET_SAMPLE_DATA")
    return folder


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
def run(
    request: pytest.FixtureRequest, load_script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the script that the test file names as SCRIPT; gives its exit code, and its output or else its errors."""

    def run(*arguments: str) -> tuple[int, str]:
        code = load_script(request.module.SCRIPT).main(["--workers", "1", *arguments])
        captured = capsys.readouterr()
        return code, captured.err if code else captured.out

    return run
