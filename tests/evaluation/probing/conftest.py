"""What the tests of probing share: a frozen encoder, a dataset whose classes are colours, and pictures by class."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from escnet.config import load_config
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.meta_arch.representation import RepresentingModel

COLOURS = np.array([[220, 30, 30], [30, 200, 40], [40, 60, 230]], dtype=np.uint8)
CONFIG = Path(__file__).parents[3] / "configs/camvid/escnet.yaml"


class ColourEncoder(RepresentingModel):
    """Each cell of 4×4 pixels as its mean colour, times a weight; counts its calls."""

    representations: ClassVar[tuple[str, ...]] = ("backbone", "squares")

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor), requires_grad=False)
        self.images = 0

    @property
    def patch_size(self) -> int:
        return 4

    def representation(self, images: Tensor, name: str = "backbone") -> Tensor:
        self.check_representation(name)
        self.images += len(images)
        cells = nn.functional.avg_pool2d(images / 255, 4) * self.factor
        return cells.square() if name == "squares" else cells


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def colour_data(tmp_path: Path) -> tuple[EvaluationData, EvaluationData]:
    """Six training and two test pictures of 20×28, in blocks of three colours; a corner is ignored."""
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / "colours" / folder).mkdir(parents=True)
    for number in range(8):
        labels = np.kron(random.integers(0, 3, (5, 7)), np.ones((4, 4), int)).astype(np.uint8)
        Image.fromarray(COLOURS[labels]).save(tmp_path / f"colours/images/{number}.png")
        labels[:2, :2] = 255
        Image.fromarray(labels).save(tmp_path / f"colours/labels/{number}.png")
    (tmp_path / "colours/classes.txt").write_text("red\ngreen\nblue\n")
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    name = f"folder:{tmp_path}/colours"
    return EvaluationData.load(f"{name}[:6]", cfg), EvaluationData.load(f"{name}[6:]", cfg)


@pytest.fixture
def class_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures of 8×8 with noise in a folder for each colour: ten each for training, four for test."""
    random = np.random.default_rng(1)
    roots = tmp_path / "train", tmp_path / "test"
    for root, count in zip(roots, (10, 4), strict=True):
        for colour, name in zip(COLOURS, ("blush", "leaf", "sky"), strict=True):
            (root / name).mkdir(parents=True)
            for number in range(count):
                noise = random.integers(-25, 26, (8, 8, 3))
                Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(root / name / f"{number}.JPEG")
    return roots
