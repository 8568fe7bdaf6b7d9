"""The model that a command names: its configuration and one file of weights, whole or restored of a delta."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from escnet import Segmenter
from escnet.config import ConfigError
from escnet.evaluation.systems.configurations import random_configuration, trained_configuration
from escnet.evaluation.systems.plan import PlanError, System
from escnet.pretrained.deltas import tensors_sha256
from escnet.pretrained.files import WeightsError
from escnet.pretrained.reading import read_weights
from escnet.publishing.chosen_models import RESTORED, chosen_config, chosen_config_alone, weights_file

CONFIG = "configs/mojiscenes/escnet.yaml"


@pytest.fixture
def pushed(hub: Any, tuned: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub with the tuned model as "lab/street"; what is restored of deltas is kept in a folder of its own."""
    monkeypatch.setenv("ESCNET_WEIGHTS", str(tmp_path / "kept"))
    tuned.push_to_hub("lab/street", token="hf_writer")
    return hub


def _digest(weights: str) -> str:
    return tensors_sha256(read_weights(weights))


def test_a_whole_model_is_its_file(pushed: Any, tuned: Segmenter) -> None:
    cfg = chosen_config("hub:lab/street", opts=["MODEL.ESC.KEEP", "20"])
    assert (cfg.MODEL.ESC.NUM_BLOCKS, cfg.MODEL.ESC.KEEP) == (1, 20)
    assert _digest(cfg.MODEL.WEIGHTS) == tensors_sha256(tuned.model.state_dict())
    assert cfg.MODEL.WEIGHTS.endswith("model.safetensors")


def test_a_delta_is_restored_once_and_kept(pushed: Any, tuned: Segmenter, tmp_path: Path) -> None:
    tuned.push_to_hub("lab/street", token="hf_writer", revision="small", delta=True)
    expected = tensors_sha256(tuned.model.state_dict())
    path = Path(chosen_config("hub:lab/street@small").MODEL.WEIGHTS)
    assert path.parent == tmp_path / "kept" / RESTORED and _digest(str(path)) == expected
    written = path.stat().st_mtime_ns
    assert weights_file("hub:lab/street@small") == str(path) and path.stat().st_mtime_ns == written
    # What was damaged since is restored again.
    path.write_bytes(path.read_bytes()[:1000])
    assert _digest(chosen_config("hub:lab/street@small").MODEL.WEIGHTS) == expected


def test_weights_of_a_published_model_for_a_configuration_of_ones_own(
    pushed: Any, tuned: Segmenter, tmp_path: Path
) -> None:
    tuned.save_pretrained(tmp_path / "model")
    opts = ["MODEL.ESC.NUM_BLOCKS", "1", "MODEL.ESC.DIM", "16"]
    for weights, more in (("hub:lab/street", []), (None, ["MODEL.WEIGHTS", str(tmp_path / "model")])):
        segmenter = Segmenter.from_config(CONFIG, weights, [*opts, *more], device="cpu")
        assert tensors_sha256(segmenter.model.state_dict()) == tensors_sha256(tuned.model.state_dict())


def test_what_needs_no_weights_fetches_none(pushed: Any) -> None:
    assert chosen_config_alone("hub:lab/street").MODEL.ESC.DIM == 16
    assert random_configuration(System("street", model="hub:lab/street")).MODEL.ESC.DIM == 16
    assert not [line for line in pushed.log if line.startswith("GET") and "safetensors" in line]


def test_shipped_models_and_checkpoints() -> None:
    assert chosen_config("shipped:esc_net").MODEL.WEIGHTS.endswith("esc_net.safetensors")
    assert chosen_config(None, CONFIG, weights="shipped:esc_net").MODEL.WEIGHTS.endswith("esc_net.safetensors")
    assert chosen_config(None, CONFIG, weights="1e5").MODEL.WEIGHTS == "1e5"
    assert chosen_config(None, CONFIG).MODEL.WEIGHTS == ""
    assert chosen_config_alone("shipped:esc_net", opts=["MODEL.ESC.KEEP", 20]).MODEL.ESC.KEEP == 20


@pytest.mark.parametrize("choose", [chosen_config, chosen_config_alone, Segmenter.from_pretrained])
def test_a_published_model_brings_its_weights(choose: Any) -> None:
    with pytest.raises(ConfigError, match=r"a published model brings its weights; leave MODEL\.WEIGHTS out"):
        choose("shipped:esc_net", opts=["MODEL.WEIGHTS", "x.pth"])


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no escnet\.json, so it is no model that save_pretrained wrote"):
        weights_file(tmp_path)
    with pytest.raises(WeightsError, match="is no model of the hub; write hub:owner/name"):
        weights_file("hub:street")
    for name in ("hub:lab/street", str(tmp_path)):
        with pytest.raises(WeightsError, match="is no file of weights; a published model is named by --model"):
            read_weights(name)


def test_a_compared_system(pushed: Any, tuned: Segmenter) -> None:
    cfg = trained_configuration(System("street", model="hub:lab/street", options={"MODEL.ESC.KEEP": 20}))
    assert cfg.MODEL.ESC.KEEP == 20 and _digest(cfg.MODEL.WEIGHTS) == tensors_sha256(tuned.model.state_dict())
    with pytest.raises(PlanError, match="street: hub:lab/other: there is no such repository"):
        trained_configuration(System("street", model="hub:lab/other"))
