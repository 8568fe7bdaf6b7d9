"""Fixtures of all tests: scripts as modules, the folder of real samples, and a tiny miniature world to train on."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from escnet.app.models import LoadedModels
from escnet.data.images import write_labels
from escnet.miniature.world.scene import SceneStyle
from escnet.miniature.world.writing import World, write_world
from escnet.pretrained.clip import build_clip
from tests.warm_process import WarmProcesses

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


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmProcesses]:
    """Starts processes that have imported what train_net.py, eval_zero_shot.py and benchmark.py import."""
    modules = ("escnet.predictor", "escnet.training.tasks.build", "escnet.evaluation.zero_shot", "escnet.profiling")
    processes = WarmProcesses(modules)
    yield processes
    processes.close()


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
_BASE_: "{REPOSITORY / "configs/mojiscenes/escnet.yaml"}"
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


@pytest.fixture
def encodings(models: LoadedModels, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the `models` of a test of the page, those that have encoded a picture, one entry for each time."""
    done: list[str] = []
    for name in models.names:
        segmenter = models.segmenter(name)
        whole = segmenter.encode
        monkeypatch.setattr(
            segmenter, "encode", lambda *args, name=name, whole=whole: done.append(name) or whole(*args)
        )
    return done
