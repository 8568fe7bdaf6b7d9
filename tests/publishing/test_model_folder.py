"""Models as folders: complete or not there, checked when they are read, whole or as a difference to public models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from escnet import Segmenter
from escnet.config import load_config
from escnet.pretrained.deltas import tensors_sha256
from escnet.pretrained.files import WeightsError
from escnet.pretrained.reading import read_weights
from escnet.pretrained.shipped import shipped_weights
from escnet.pretrained.writing import write_weights
from escnet.publishing import model_folder

CARD = {
    "license": "apache-2.0",
    "datasets": "mojiscenes",
    "tags": ["glyphs"],
    "figures": {"miou": {"val": 61.25}},
    "training": "Nothing: it is random.",
}


@pytest.fixture(scope="module")
def whole(tuned: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "street"
    tuned.save_pretrained(folder, card=CARD)
    return folder


@pytest.fixture(scope="module")
def delta(tuned: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deltas") / "street"
    tuned.save_pretrained(folder, delta=True)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "street"))


def _digest(segmenter: Segmenter) -> str:
    return tensors_sha256(segmenter.model.state_dict())


def test_a_model_segments_as_before(whole: Path, tuned: Segmenter) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    again = Segmenter.from_pretrained(whole, device="cpu")
    assert _digest(again) == _digest(tuned)
    ours, theirs = (one(picture, ["duck", "grass"]) for one in (tuned, again))
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_what_is_in_the_folder(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {"config.yaml", "model.safetensors", "escnet.json", "README.md"}
    assert load_config(whole / "config.yaml").MODEL.ESC.DIM == 16
    text = "".join((whole / name).read_text() for name in ("config.yaml", "escnet.json", "README.md"))
    assert str(whole.parent) not in text
    assert not [path for path in whole.parent.iterdir() if path != whole]
    # Of the permissions that other new files have, for others to read.
    assert {path.stat().st_mode & 0o444 for path in whole.iterdir()} == {0o444}


def test_the_card_says_what_is_known(whole: Path) -> None:
    _, front, text = (whole / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "library_name": "escnet",
        "pipeline_tag": "image-segmentation",
        "tags": ["open-vocabulary-segmentation", "semantic-segmentation", "escnet", "glyphs"],
        "datasets": ["mojiscenes"],
    }
    assert "| miou, val | 61.25 |" in text and "Nothing: it is random." in text
    assert json.loads((whole / "escnet.json").read_text())["files"]["model.safetensors"] in text
    assert "Licence" not in text and "Limitations" not in text


def test_options_go_over_the_configuration(whole: Path) -> None:
    segmenter = Segmenter.from_pretrained(whole, opts=["TEST.TEMPLATES", "a {}"], device="cpu")
    assert segmenter.templates == "a {}"


def test_a_shipped_model_brings_its_figures(tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained("shipped:esc_net", device="cpu")
    segmenter.save_pretrained(tmp_path / "copy")
    text = (tmp_path / "copy" / "README.md").read_text()
    assert "| miou, mojiscenes_val_novel | 0.7031 |" in text and "The publisher has stated none." in text
    with pytest.raises(WeightsError, match='no model "shipped:clip" ships with escnet; there are shipped:clip_guided'):
        Segmenter.from_pretrained("shipped:clip")


def test_other_folders_stand(tuned: Segmenter, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already"):
        tuned.save_pretrained(copy)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(FileExistsError, match="photos"):
        tuned.save_pretrained(tmp_path / "photos", overwrite=True)
    (copy / "notes.txt").touch()
    with pytest.raises(FileExistsError):
        tuned.save_pretrained(copy, overwrite=True)
    (copy / "notes.txt").unlink()
    tuned.save_pretrained(copy, overwrite=True, card={"title": "Second"})
    assert "# Second" in (copy / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "street"]


def test_nothing_is_left_where_it_fails(tuned: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise OSError("the disk is gone")

    monkeypatch.setattr(model_folder, "model_card", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        tuned.save_pretrained(tmp_path / "street")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_saved(tuned: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not built from a configuration"):
        Segmenter(tuned.model).save_pretrained(tmp_path / "street")
    with pytest.raises(ValueError, match='the card has no "licence"; it takes title'):
        tuned.save_pretrained(tmp_path / "street", card={"licence": "MIT"})
    with pytest.raises(ValueError, match='"figures" of the card is 61'):
        tuned.save_pretrained(tmp_path / "street", card={"figures": 61})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
def test_a_changed_file_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(WeightsError, match=rf"{name}: the SHA-256 is"):
        Segmenter.from_pretrained(copy)
    (copy / name).unlink()
    with pytest.raises(WeightsError, match=rf"{name}: there is no such file"):
        Segmenter.from_pretrained(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"config.yaml": "", "../../secret": ""}},
        {"files": {"config.yaml": ""}},
        {"files": {"config.yaml": 1, "model.safetensors": 2}},
        {"format": "1"},
        {"bases": [{"section": "MODEL.CLIP"}]},
        {"model_sha256": None},
        {"model_sha256": "../../secret"},
    ],
)
def test_a_hostile_manifest_is_refused(copy: Path, change: dict[str, object]) -> None:
    manifest = json.loads((copy / "escnet.json").read_text())
    (copy / "escnet.json").write_text(json.dumps(manifest | change))
    with pytest.raises(WeightsError, match="is not as save_pretrained writes it"):
        Segmenter.from_pretrained(copy)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no escnet\.json, so it is no model that save_pretrained wrote"):
        Segmenter.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"there is no such folder; .* hub:owner/name, or one of shipped:"):
        Segmenter.from_pretrained(tmp_path / "nothing")


def test_a_delta_is_the_model_to_the_last_bit(delta: Path, whole: Path, tuned: Segmenter) -> None:
    assert _digest(Segmenter.from_pretrained(delta, device="cpu")) == _digest(tuned)
    sizes = [
        (folder / name).stat().st_size for folder, name in ((delta, "delta.safetensors"), (whole, "model.safetensors"))
    ]
    assert sizes[0] < 0.3 * sizes[1]
    names = set(read_weights(delta / "delta.safetensors"))
    # What CLIP's blocks have beside attention is frozen, and is left to CLIP.
    assert not [name for name in names if "clip_image" in name and "mlp" in name]
    assert [name for name in names if name.startswith("difference:clip_image") and "attn" in name]
    assert [name for name in names if name.startswith("whole:decoder")]
    bases = json.loads((delta / "escnet.json").read_text())["bases"]
    assert [(base["section"], base["weights"]) for base in bases] == [
        ("MODEL.CLIP", "shipped:clip"),
        ("MODEL.SAM", "shipped:sam"),
    ]
    assert "Made upon" in (delta / "README.md").read_text()


def test_the_same_base_in_another_file_serves(delta: Path, tuned: Segmenter, tmp_path: Path) -> None:
    write_weights(tmp_path / "clip.pth", read_weights(shipped_weights("clip")))
    other = Segmenter.from_pretrained(delta, opts=["MODEL.CLIP.WEIGHTS", str(tmp_path / "clip.pth")], device="cpu")
    assert _digest(other) == _digest(tuned)


def test_another_base_is_refused(delta: Path, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in read_weights(shipped_weights("clip")).items()}
    weights["visual.class_embedding"][0] += 1e-3
    write_weights(tmp_path / "clip.safetensors", weights)
    expected = r"is a delta upon CLIP escnet-moji with weights shipped:clip \(clip\.safetensors, SHA-256 \w{64}\), but"
    with pytest.raises(WeightsError, match=expected):
        Segmenter.from_pretrained(delta, opts=["MODEL.CLIP.WEIGHTS", str(tmp_path / "clip.safetensors")])


def test_no_delta_without_a_public_base(tuned: Segmenter, tmp_path: Path) -> None:
    torch.manual_seed(0)
    merged = Segmenter.from_pretrained("shipped:esc_net_sam_clip", device="cpu")
    with pytest.raises(WeightsError, match="this configuration starts from others; save the model whole"):
        merged.save_pretrained(tmp_path / "merged", delta=True)
    assert not list(tmp_path.iterdir())
