"""Label maps of users' folders are looked at before a training: ids without a name, and how many are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from escnet.config import load_config
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError, write_labels
from escnet.data.label_scan import scan_labels
from escnet.data.label_spaces import label_spaces
from escnet.data.registration import dataset_records
from escnet.training.tasks.segmentation import check_config


def write_folder(root: Path, count: int = 5, odd: int | None = None, value: int = 2) -> str:
    """Pictures of 10x10 with the ids 0, 1 and 255; that of the number `odd` has one pixel of another value."""
    (root / "images").mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (10, 10)).save(root / f"images/{number}.png")
        labels = np.zeros((10, 10), int)
        labels[:5], labels[9] = 1, 255
        labels[7, 7] = value if number == odd else 0
        write_labels(root / f"labels/{number}.png", labels, 8)
    (root / "classes.txt").write_text("cat\ngrass\n")
    return f"folder:{root}"


def scan(name: str, pixels: int = 1000) -> int:
    return scan_labels(dataset_records(name), label_spaces([name]), pixels)


def test_named_and_ignored_ids_pass(tmp_path: Path) -> None:
    assert scan(write_folder(tmp_path / "mine")) == 5


@pytest.mark.parametrize("value", [2, 254])
def test_an_id_without_a_name_is_refused(tmp_path: Path, value: int) -> None:
    name = write_folder(tmp_path / "mine", odd=3, value=value)
    with pytest.raises(
        DatasetError, match=rf"3\.png: has the ids {value}, and classes\.txt names 0\.\.1 \(255 = ignored\)"
    ):
        scan(name)


def test_large_datasets_are_looked_at_in_part(tmp_path: Path) -> None:
    name = write_folder(tmp_path / "mine", count=9, odd=1)
    # 300 pixels: the first, the middle and the last.
    assert scan(name, 300) == 3
    with pytest.raises(DatasetError):
        scan(name, 900)


def test_another_depth_is_refused(tmp_path: Path) -> None:
    name = write_folder(tmp_path / "mine")
    write_labels(tmp_path / "mine/labels/4.png", np.zeros((10, 10), int), 16)
    with pytest.raises(ImageError, match="has 16 bits a pixel"):
        scan(name)


def test_a_training_is_refused_before_its_model_is_built(tmp_path: Path) -> None:
    name = write_folder(tmp_path / "mine", odd=3)
    cfg = load_config("configs/mojiscenes/escnet.yaml", ["DATASETS.TRAIN", (f"{name}[2:]",), "DATASETS.TEST", ()])
    with pytest.raises(DatasetError, match="has the ids 2"):
        check_config(cfg, training=True)
