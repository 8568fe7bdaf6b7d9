"""A tiny world on disk, and a configuration that trains on it in a second."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from escnet.miniature.world.scene import SceneStyle
from escnet.miniature.world.writing import World, write_world
from escnet.pretrained.clip import build_clip


@pytest.fixture(scope="session")
def tiny_world() -> World:
    """Four training pictures and two of each other split."""
    return World(train=4, val=2, style=SceneStyle(size=64))


@pytest.fixture(scope="session")
def tiny_data(tiny_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds the tiny world."""
    root = tmp_path_factory.mktemp("data")
    write_world(root / "mojiscenes", tiny_world, workers=1)
    return root


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration of the smallest ESC-Net for the tiny world; its CLIP comes from a file of random weights."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_data))
    clip = tmp_path / "clip.safetensors"
    torch.manual_seed(0)
    save_file(build_clip("escnet-mini")[0].state_dict(), clip)
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
_BASE_: "{Path(__file__).parents[2] / "configs/mojiscenes/escnet.yaml"}"
MODEL:
  DEVICE: "cpu"
  CLIP:
    NAME: "escnet-mini"
    WEIGHTS: "{clip}"
    IMAGE_SIZE: (64, 64)
  SAM:
    NAME: "mini"
    WEIGHTS: ""
    INIT: "random"
  ESC:
    NUM_BLOCKS: 1
    DIM: 16
    TRAIN_CLASSES: 8
INPUT:
  MIN_SIZE_TRAIN: (64,)
  CROP:
    SIZE: (64, 64)
DATALOADER:
  NUM_WORKERS: 0
SOLVER:
  IMS_PER_BATCH: 2
  MAX_ITER: 3
  WARMUP_ITERS: 0
VERSION: 2
"""
    )
    return str(path)
