"""A small dataset on disk for the data tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import write_labels


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
