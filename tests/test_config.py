"""Every shipped configuration is complete and valid, and every key has its line of explanation."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from escnet.config import ConfigError, add_escnet_config, load_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configurations_load(path):
    cfg = load_config(path)
    assert cfg.MODEL.META_ARCHITECTURE in ("ESCNet", "DenseClip", "ClipThenSam")
    assert cfg.INPUT.FORMAT == "RGB"


def test_the_paper_is_the_default():
    cfg = load_config(ROOT / "configs" / "escnet" / "vitl14.yaml")
    esc, solver = cfg.MODEL.ESC, cfg.SOLVER
    assert (esc.NUM_BLOCKS, esc.NUM_PROMPTS, esc.PROMPTS, cfg.MODEL.SAM.INIT) == (4, 5, "point+mask", "pretrained")
    assert (solver.BASE_LR, solver.CLIP_MULTIPLIER, solver.IMS_PER_BATCH, solver.MAX_ITER) == (2e-4, 0.01, 4, 80000)
    assert cfg.MODEL.CLIP.IMAGE_SIZE == (336, 336)


def test_every_key_is_explained():
    source = (ROOT / "escnet" / "config.py").read_text()
    lines = [line.strip() for line in source.splitlines()]
    unexplained = []
    for before, line in itertools.pairwise(lines):
        key = re.match(r"cfg\.((?:MODEL|TEST)\.(?:CLIP|SAM|ESC|SLIDING)\.\w+) = ", line)
        # A comment may explain the keys that follow it without a gap.
        if key and not before.startswith(("#", "cfg.")):
            unexplained.append(key.group(1))
    assert unexplained == []


def test_options_override_the_file():
    assert load_config(CONFIGS[0], ["MODEL.ESC.NUM_PROMPTS", "3"]).MODEL.ESC.NUM_PROMPTS == 3


@pytest.mark.parametrize(
    ("opts", "message"), [(["MODEL.ESC.NUM_PROMPT", "3"], "NUM_PROMPT"), (["MODEL.ESC.DIM", "wide"], "wide")]
)
def test_a_wrong_key_or_value_is_named(opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS[0], opts)


def test_a_config_is_copied():
    cfg = get_cfg()
    add_escnet_config(cfg)
    load_config(cfg, ["MODEL.ESC.ALPHA", "0.25"])
    assert cfg.MODEL.ESC.ALPHA == 0.5
