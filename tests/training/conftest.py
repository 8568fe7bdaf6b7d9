"""Fixtures of the training tests: a model of a few hundred parameters, pictures to train on, and a config of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import nn
from torch.nn import functional as F

from escnet.config import add_escnet_config
from escnet.meta_arch.interfaces import LearningPart

CLASSES = 11


def learning_parts(cfg: CfgNode) -> list[LearningPart]:
    """As ESC-Net states them."""
    clip, sam = cfg.SOLVER.CLIP_MULTIPLIER, cfg.SOLVER.SAM_MULTIPLIER
    return [
        LearningPart("CLIP image", r"clip_image\.", clip),
        LearningPart("CLIP text", r"clip_text\.", clip),
        LearningPart("SAM blocks", r"blocks\.\d+\.sam_block\.", sam if cfg.MODEL.SAM.INIT == "pretrained" else 1.0),
    ]


class Block(nn.Module):
    """A layer that learns slowly among others, on 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.sam_block = nn.Linear(4, 4)
        self.position_bias = nn.Parameter(torch.zeros(2, 4))
        self.norm = nn.LayerNorm(4)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.sam_block(self.norm(x)))
        return x + self.position_bias[torch.zeros_like(x[..., 0], dtype=torch.long)]


class TinySegmenter(nn.Module):
    """A convolution, a block with dropout and a classifier, called as Detectron2's models are."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.clip_image = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(1, 4))
        self.blocks = nn.ModuleList([Block()])
        self.head = nn.Conv2d(4, CLASSES, 1)
        self.frozen = nn.Linear(5, 3).requires_grad_(False)
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[cfg.MODEL.PRECISION]

    def learning_parts(self, cfg: CfgNode) -> list[LearningPart]:
        return learning_parts(cfg)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        x = self.clip_image(images.float() / 255).permute(0, 2, 3, 1)
        return self.head(self.blocks[0](x).permute(0, 3, 1, 2))

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            if not self.training:
                return [{"labels": self.logits(sample["image"][None])[0].argmax(dim=0)} for sample in batch]
            logits = self.logits(torch.stack([sample["image"] for sample in batch]))
            return {"loss": F.cross_entropy(logits, torch.stack([x["sem_seg"] for x in batch]), ignore_index=-1)}


if "TinySegmenter" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(TinySegmenter)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with 4 training and 2 validation pictures of 12x16 in CamVid's layout."""
    generator = np.random.default_rng(0)
    for split, size in (("train", 4), ("val", 2)):
        for kind, shape, top in (("images", (12, 16, 3), 256), ("annotations", (12, 16), CLASSES)):
            folder = tmp_path / "data/camvid" / kind / split
            folder.mkdir(parents=True)
            for index in range(size):
                Image.fromarray(generator.integers(0, top, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def cfg(tmp_path: Path, pictures: Path) -> CfgNode:
    """8 iterations of the tiny model on the pictures, a checkpoint every 2."""
    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "TinySegmenter"
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("camvid_train",), ("camvid_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.SIZE = (12,), (8, 8)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 2, 8, 2
    cfg.SOLVER.BASE_LR = 0.01
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    return cfg
