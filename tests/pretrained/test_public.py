"""Tests of where public weights are looked for, and of what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path

import pytest
from huggingface_hub import constants as hub_constants

from escnet.pretrained import public as public_weights
from escnet.pretrained.files import WeightsError
from escnet.pretrained.public import PUBLIC_WEIGHTS, PublicWeights, fetch, fetch_clip


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for weights, empty caches, no internet."""

    def no_internet(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_internet)
    monkeypatch.setattr("torch.hub.urlopen", no_internet)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / "weights"
    monkeypatch.setenv("ESCNET_WEIGHTS", str(directory))
    return directory


def test_the_table() -> None:
    vit_b = PUBLIC_WEIGHTS["ViT-B-16-quickgelu"]
    assert vit_b.file_name == "ViT-B-16.pt"
    assert vit_b.sha256 in vit_b.url
    assert PUBLIC_WEIGHTS["vit_b"].url == "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
    assert all(len(public.sha256) == 64 for public in PUBLIC_WEIGHTS.values())


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ESCNET_WEIGHTS")
    assert public_weights.weights_directory() == tmp_path / ".cache/escnet"


def test_local_files_are_used(offline: Path) -> None:
    offline.mkdir()
    sam, clip = offline / "sam_vit_b_01ec64.pth", offline / "ViT-B-16.pt"
    sam.touch()
    clip.touch()
    assert fetch(PUBLIC_WEIGHTS["vit_b"]) == sam
    assert fetch_clip("ViT-B-16-quickgelu", "openai") == clip


def test_the_cache_of_the_hub_is_used(tmp_path: Path) -> None:
    repository = tmp_path / "hub/models--laion--CLIP-ViT-B-16-laion2B-s34B-b88K"
    snapshot = repository / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    cached = snapshot / "open_clip_model.safetensors"
    cached.touch()
    assert fetch_clip("ViT-B-16", "laion2b_s34b_b88k") == cached


def test_offline_sam(offline: Path) -> None:
    with pytest.raises(WeightsError) as error:
        fetch(PUBLIC_WEIGHTS["vit_l"])
    message = str(error.value)
    assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth" in message
    assert str(offline / "sam_vit_l_0b3195.pth") in message and "Name or service not known" in message
    assert "\n" not in message and error.value.__suppress_context__
    assert not list(offline.iterdir())


def test_offline_clip_with_an_address(offline: Path) -> None:
    with pytest.raises(WeightsError) as error:
        fetch_clip("ViT-L-14-336-quickgelu", "openai")
    message = str(error.value)
    assert "02/ViT-L-14-336px.pt" in message and "huggingface.co/timm" in message
    assert f"put it into {offline} as ViT-L-14-336px.pt" in message


def test_offline_clip_on_the_hub() -> None:
    with pytest.raises(WeightsError) as error:
        fetch_clip("ViT-B-16", "laion2b_s34b_b88k")
    message = str(error.value)
    assert "open_clip_model.safetensors" in message
    assert "https://huggingface.co/laion/CLIP-ViT-B-16-laion2B-s34B-b88K" in message


def test_downloads_are_checked(offline: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "published.pth"
    source.write_bytes(b"weights")
    monkeypatch.undo()
    monkeypatch.setenv("ESCNET_WEIGHTS", str(offline))
    with pytest.raises(WeightsError, match="invalid hash"):
        fetch(PublicWeights(source.as_uri(), "0" * 64))
    assert not list(offline.iterdir())
    path = fetch(PublicWeights(source.as_uri(), hashlib.sha256(b"weights").hexdigest()))
    assert path.read_bytes() == b"weights" and path.parent == offline
