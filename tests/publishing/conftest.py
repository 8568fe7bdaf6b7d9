"""Fixtures of published models: a tiny ESC-Net upon the CLIP and SAM that ship, and a hub for each test."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from huggingface_hub import constants

from escnet import Segmenter
from escnet.config import load_config

# The smallest ESC-Net upon them.
TINY = (
    "MODEL.ESC.NUM_BLOCKS", "1", "MODEL.ESC.DIM", "16", "MODEL.DEVICE", "cpu", "TEST.TEMPLATES", "a picture of a {}",
)  # fmt: skip


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tuned() -> Segmenter:
    """An ESC-Net whose attention in CLIP and SAM has been changed a little, as by training."""
    torch.manual_seed(1)
    segmenter = Segmenter.from_config(load_config("configs/mojiscenes/escnet.yaml", TINY), device="cpu")
    with torch.no_grad():
        for name, parameter in segmenter.model.named_parameters():
            if parameter.requires_grad and ("attn" in name or "sam_block" in name):
                parameter.add_(torch.randn_like(parameter), alpha=1e-5)
    return segmenter


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A hub of its own, which the hub's client talks to, with an empty cache and no stored token."""
    with _load("hub_server").running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
