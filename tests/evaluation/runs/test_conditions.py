"""Conditions of a run: each key of a configuration counts or is known to be neutral; no system is known by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from torch import nn

import escnet.evaluation
from escnet.config import add_escnet_config, load_config
from escnet.evaluation.runs.conditions import differences, flatten, model_identity, model_settings
from escnet.meta_arch import ESCNet
from escnet.meta_arch.parents import build_parent

EVALUATION = Path(escnet.evaluation.__file__).parent
SYSTEMS = re.compile(r"ESC|CLIP|SamBlock|ESCNet|DenseClip|ClipThenSam")
# What changes no prediction, or only by way of the weights, which are compared themselves.
NEUTRAL = {
    "MODEL.CLIP": {"WEIGHTS", "TRAIN"},
    "MODEL.SAM": {"WEIGHTS", "TRAIN", "INIT", "ALIGN_IMAGES"},
    "MODEL.ESC": {"DIM", "MLP_RATIO", "DECODER_DIMS", "SKIP_DIMS"}
    | {"CLASS_CHUNK", "CHECKPOINT", "TRAIN_CLASSES", "TRAIN_LEAST", "TRAIN_FIRST", "LOSS", "AUX_LOSS", "FIRST_LOSS"},
}


class Named(ESCNet):
    """ESC-Net's settings without ESC-Net."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.zeros(1))


class Foreign(nn.Module):
    """A model of whose settings nothing is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_escnet_config(cfg)
    return cfg


def changed(cfg: CfgNode, model: nn.Module, *opts: object) -> list[str]:
    """The conditions that change with KEY VALUE pairs."""
    other = cfg.clone()
    other.merge_from_list(list(opts))
    return [key for key, _, _ in differences(model_identity(cfg, model), model_identity(other, model))]


def test_every_key_counts_or_is_neutral(cfg: CfgNode) -> None:
    for section, neutral in NEUTRAL.items():
        keys = {key.removeprefix(f"{section}.") for key in ESCNet.prediction_keys if key.startswith(f"{section}.")}
        assert keys | neutral == set(cfg.MODEL[section.split(".")[1]].keys()) and not keys & neutral


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ESC.ALPHA", 0.3),
        ("MODEL.ESC.MAX_CLASSES", 7),
        ("MODEL.CLIP.IMAGE_SIZE", (64, 64)),
        ("MODEL.PRECISION", "bf16"),
        ("MODEL.SAM.NAME", "vit_l"),
    ],
)
def test_a_setting_that_changes_predictions_counts_under_its_key(cfg: CfgNode, key: str, value: object) -> None:
    assert changed(cfg, Named(), key, value) == [f"settings.{key}"]


def test_windows_count_where_they_are_used(cfg: CfgNode) -> None:
    assert changed(cfg, Named(), "TEST.SLIDING.OVERLAP", 0.5) == []
    assert "settings.TEST.SLIDING.SIZE" in changed(cfg, Named(), "TEST.SLIDING.ENABLED", True)
    cfg.TEST.SLIDING.ENABLED = True
    assert changed(cfg, Named(), "TEST.SLIDING.OVERLAP", 0.5) == ["settings.TEST.SLIDING.OVERLAP"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ESC.CLASS_CHUNK", 3),
        ("MODEL.ESC.LOSS", "bce"),
        ("MODEL.CLIP.TRAIN", "none"),
        ("MODEL.WEIGHTS", "x.pth"),
        ("MODEL.ESC.DIM", 64),
    ],
)
def test_what_changes_no_prediction_does_not_count(cfg: CfgNode, key: str, value: object) -> None:
    assert changed(cfg, Named(), key, value) == []


def test_of_an_unknown_model_all_settings_count_but_where_its_weights_are(cfg: CfgNode) -> None:
    for key, value in (("MODEL.RESNETS.DEPTH", 101), ("MODEL.ESC.LOSS", "bce"), ("TEST.SLIDING.OVERLAP", 0.5)):
        assert changed(cfg, Foreign(), key, value) == [f"settings.{key}"]
    for key, value in (("MODEL.WEIGHTS", "x"), ("MODEL.CLIP.WEIGHTS", "x"), ("MODEL.DEVICE", "cuda:1")):
        assert changed(cfg, Foreign(), key, value) == []
    json.dumps(model_identity(cfg, Foreign()))


@pytest.mark.parametrize(
    ("parent", "counts"),
    [("clip", {"MODEL.CLIP.NAME", "MODEL.CLIP.IMAGE_SIZE"}), ("sam", {"MODEL.SAM.NAME"})],
)
def test_of_a_parent_only_its_own_settings_count(parent: str, counts: set[str]) -> None:
    moji = load_config("configs/mojiscenes/escnet.yaml", ["MODEL.DEVICE", "cpu"])
    model = build_parent(parent, moji)
    assert model_settings(moji, model).keys() == counts
    assert changed(moji, model, "MODEL.PRECISION", "bf16", "MODEL.ESC.ALPHA", 0.3) == []
    json.dumps(model_identity(moji, model))


def test_another_architecture_or_checkpoint_counts(cfg: CfgNode, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"abc")
    of_named, of_foreign = flatten(model_identity(cfg, Named())), flatten(model_identity(cfg, Foreign(), str(path)))
    assert (of_named["architecture"], of_foreign["architecture"]) == ("Named", "Foreign")
    assert (of_named["checkpoint"], of_foreign["checkpoint"]) == ("", "model.pth")
    assert of_named["all weights sha256"] == of_foreign["all weights sha256"]


def test_no_file_of_runs_and_reports_names_a_system_but_the_published_rows() -> None:
    rooms = [EVALUATION / "zero_shot.py", EVALUATION / "loop.py", *EVALUATION.glob("runs/*.py")]
    rooms += [*EVALUATION.glob("report/*.py"), *EVALUATION.glob("report/templates/*")]
    assert [path.name for path in rooms if SYSTEMS.search(path.read_text(encoding="utf-8"))] == ["published.py"]


def test_runs_know_nothing_of_reports() -> None:
    files = list((EVALUATION / "runs").glob("*.py"))
    assert files and not [path.name for path in files if "evaluation.report" in path.read_text()]
