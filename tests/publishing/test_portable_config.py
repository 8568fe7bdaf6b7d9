"""Configurations that travel: nothing of this machine goes out, and nothing but plain values comes in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode

from escnet.config import load_config
from escnet.config_values import ConfigError
from escnet.publishing.portable_config import MACHINE_KEYS, MOST_BYTES, portable_yaml, read_portable_config

ESC_NET = "configs/mojiscenes/escnet.yaml"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file as it is published."""
    path = tmp_path / "config.yaml"
    path.write_text(portable_yaml(load_config(ESC_NET)), encoding="utf-8")
    return path


def _leaves(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in cfg.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {f"{prefix}{name}": value}
    return found


def _as_tuples(value: object) -> str:
    if isinstance(value, tuple):
        return str(tuple(tuple(item) if isinstance(item, list) else item for item in value))
    return str(value)


@pytest.mark.parametrize(
    "config", [ESC_NET, "configs/mojiscenes/clip_guided_sam.yaml", "configs/sam_clip/stage3.yaml", "escnet/best.yaml"]
)
def test_what_is_written_is_read_again_whole(config: str, tmp_path: Path) -> None:
    cfg = load_config(config, ["MODEL.ESC.ALPHA", "0.25", "TEST.TEMPLATES", "('a {}', 'the/ {}')"])
    (tmp_path / "config.yaml").write_text(portable_yaml(cfg), encoding="utf-8")
    for back in (read_portable_config(tmp_path / "config.yaml"), load_config(tmp_path / "config.yaml")):
        ours, theirs = _leaves(cfg), _leaves(back)
        # Of tuples in tuples, which no key of escnet's is, YAML makes lists.
        assert {key for key in ours if str(ours[key]) != _as_tuples(theirs[key])} <= set(MACHINE_KEYS)


def test_nothing_of_this_machine_is_written(tmp_path: Path) -> None:
    private = str(tmp_path / "clip.pt")
    cfg = load_config(ESC_NET, ["MODEL.CLIP.WEIGHTS", private, "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"])
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    text = portable_yaml(cfg)
    contents = yaml.safe_load(text)
    assert str(tmp_path) not in text and "DEVICE" not in contents["MODEL"]
    assert contents["MODEL"]["CLIP"]["WEIGHTS"] == ""
    assert contents["MODEL"]["SAM"]["WEIGHTS"] == "shipped:sam"


def test_a_path_under_another_key_is_told() -> None:
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN is '/data/mine', a path"):
        portable_yaml(load_config(ESC_NET, ["DATASETS.TRAIN", "('/data/mine',)"]))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("_BASE_: /etc/passwd", "has a _BASE_"),
        ("_BASE_: https://example.org/base.yaml", "has a _BASE_"),
        ("OUTPUT_DIR: /root", "sets OUTPUT_DIR"),
        ("MODEL: {WEIGHTS: /root/secret.pth}", r"sets MODEL\.WEIGHTS"),
        ("MODEL: {WEIGHTS: 'hub:evil/model'}", r"sets MODEL\.WEIGHTS"),
        ("MODEL: {DEVICE: cuda}", r"sets MODEL\.DEVICE"),
        ("MODEL: {COMPILE: inductor}", r"sets MODEL\.COMPILE"),
        ("MODEL: {CLIP: {WEIGHTS: /root/secret.pt}}", r"MODEL\.CLIP\.WEIGHTS is '/root/secret\.pt', a path"),
        ("MODEL: {CLIP: {WEIGHTS: ~/secret.pt}}", "a path"),
        ("MODEL: {CLIP: {WEIGHTS: ../secret.pt}}", "a path"),
        ("MODEL: {CLIP: {WEIGHTS: secret.pt}}", r"MODEL\.CLIP\.WEIGHTS is 'secret\.pt'; .* public weights alone"),
        ("MODEL: {CLIP: {WEIGHTS: 'hub:evil/model'}}", "public weights alone"),
        ("MODEL: {SAM: {WEIGHTS: 'http://evil/sam.pth'}}", "an address"),
        ("MODEL: {SAM: {WEIGHTS: openai}}", "public weights alone"),
        ("MODEL: {SAM_CLIP: {WEIGHTS: official}}", "public weights alone"),
        # A string that spells another one, or a list.
        ("""MODEL: {CLIP: {WEIGHTS: "'/root/secret.pt'"}}""", "public weights alone"),
        ("""DATASETS: {TRAIN: "('/root', 'b')"}""", "a path"),
        ("MODEL: {CLIP: {WEIGHTS: 'shipped:../../secret'}}", "a path"),
        ("MODEL: {CLIP: {WEIGHTS: 'shipped:secret'}}", 'no weights "secret" ship'),
        ("MODEL: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("MODEL: {ESC: !!python/name:os.system }", "could not determine a constructor"),
        ("MODEL: {NO_SUCH: 1}", r"there is no key MODEL\.NO_SUCH"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nMODEL: {ESC: {DIM: *b}}", "has aliases"),
        ("MODEL: {ESC: {DIM: " + "[" * 5000 + "]" * 5000 + "}}", "nested more than"),
        ("[1, 2]", "holds no keys"),
        ("MODEL: {ESC: {DIM: 16", "cannot be read as plain YAML"),
        ("# " + "x" * MOST_BYTES, f"more than {MOST_BYTES} bytes"),
    ],
)
def test_a_hostile_configuration_is_refused(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason) as caught:
        read_portable_config(path)
    assert re.match(rf"{re.escape(str(path))}|no weights", str(caught.value))
    assert len(str(caught.value)) < 1000


def test_a_hostile_line_in_a_whole_configuration(plain: Path) -> None:
    assert read_portable_config(plain).MODEL.META_ARCHITECTURE == "ESCNet"
    plain.write_text(plain.read_text().replace("shipped:sam", "/root/sam.pth"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"MODEL\.SAM\.WEIGHTS is '/root/sam\.pth'"):
        read_portable_config(plain)
