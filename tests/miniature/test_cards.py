"""Weight files with cards, and those that ship with the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from escnet.config import load_config
from escnet.miniature.cards import save_with_card, training_seconds
from escnet.pretrained import shipped as shipped_module
from escnet.pretrained.files import WeightsError
from escnet.pretrained.reading import read_weights
from escnet.pretrained.shipped import resolve_shipped, shipped_weights


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped weights that has one, "tiny"."""
    monkeypatch.setattr(shipped_module, "FOLDER", tmp_path)
    shipped_weights.cache_clear()
    state = {"weight": torch.tensor([[1.0, 1 / 3]]), "count": torch.tensor(7)}
    save_with_card(tmp_path / "tiny.safetensors", state, {"steps": 5}, {"miou": 0.5}, 12.3)
    return tmp_path


def test_a_training_in_two_calls_took_as_long_as_both(tmp_path: Path) -> None:
    rows = [{"iteration": 19, "time": 0.5}, {"iteration": 24}, {"iteration": 39, "time": 0.7}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert training_seconds(tmp_path, 40) == pytest.approx(24)


def test_weights_are_halves_and_the_card_knows_their_digest(shipped: Path) -> None:
    state = read_weights(shipped / "tiny.safetensors")
    assert state["weight"].dtype == torch.float16
    assert state["count"].item() == 7
    torch.testing.assert_close(state["weight"].float(), torch.tensor([[1.0, 1 / 3]]), atol=2e-4, rtol=0)
    card = json.loads((shipped / "tiny.json").read_text())
    content = (shipped / "tiny.safetensors").read_bytes()
    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["bytes"] == len(content)
    assert (card["recipe"], card["figures"], card["seconds"]) == ({"steps": 5}, {"miou": 0.5}, 12)
    assert "CC BY-SA 4.0" in card["trained on"]


def test_the_config_finds_shipped_weights(shipped: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text('VERSION: 2\nMODEL:\n  CLIP:\n    WEIGHTS: "shipped:tiny"\n')
    cfg = load_config(config, ["MODEL.WEIGHTS", "shipped:tiny"])
    assert cfg.MODEL.CLIP.WEIGHTS == cfg.MODEL.WEIGHTS == str(shipped / "tiny.safetensors")
    assert cfg.MODEL.SAM.WEIGHTS == "official"


def test_other_weights_are_left_as_they_are() -> None:
    for weights in ("", "openai", "some/file.pth"):
        assert resolve_shipped(weights) == weights


def test_unknown_and_changed_weights_are_refused(shipped: Path) -> None:
    with pytest.raises(WeightsError, match='no weights "huge" ship with escnet; there are tiny'):
        resolve_shipped("shipped:huge")
    path = shipped / "tiny.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shipped_weights.cache_clear()
    with pytest.raises(WeightsError, match=r"tiny\.safetensors: the SHA-256 is .*; install escnet again"):
        resolve_shipped("shipped:tiny")
