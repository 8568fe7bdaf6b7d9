"""Sizes of images that the patches do not divide are refused with the key that sets them, by every system."""

from __future__ import annotations

import re

import pytest
from detectron2.modeling import build_model

from escnet.config import load_config
from escnet.meta_arch.image_size import fitting_size
from escnet.meta_arch.parents import build_parent

MOJI, ON_SAM_CLIP = (f"configs/mojiscenes/{name}.yaml" for name in ("escnet", "escnet_sam_clip"))
CLIP_SIZE, SAM_CLIP_SIZE = "MODEL.CLIP.IMAGE_SIZE", "MODEL.SAM_CLIP.IMAGE_SIZE"


@pytest.mark.parametrize(
    ("config", "architecture", "key"),
    [
        (MOJI, "ESCNet", CLIP_SIZE),
        (MOJI, "DenseClip", CLIP_SIZE),
        (MOJI, "ClipThenSam", CLIP_SIZE),
        (MOJI, "SamClip", SAM_CLIP_SIZE),
        (ON_SAM_CLIP, "ESCNet", CLIP_SIZE),
    ],
)
def test_every_system_names_the_key(config: str, architecture: str, key: str) -> None:
    options = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.DEVICE", "cpu", key]
    with pytest.raises(ValueError, match=rf"{re.escape(key)} is \(96, 100\); .* 8 pixels, such as \(96, 96\)"):
        build_model(load_config(config, [*options, "(96, 100)"]))
    assert build_model(load_config(config, [*options, "(96, 104)"])).inference.image_size == (96, 104)


def test_a_clip_alone_names_the_key() -> None:
    cfg = load_config(MOJI, ["MODEL.DEVICE", "cpu", CLIP_SIZE, "(4, 48)"])
    with pytest.raises(ValueError, match=rf"{CLIP_SIZE} is \(4, 48\); .* such as \(8, 48\)"):
        build_parent("clip", cfg)


def test_windows_are_divided_too() -> None:
    options = ["TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "(200, 200)", "TEST.SLIDING.WINDOW", "(100, 100)"]
    cfg = load_config(MOJI, ["MODEL.META_ARCHITECTURE", "DenseClip", "MODEL.DEVICE", "cpu", *options])
    with pytest.raises(ValueError, match=r"TEST\.SLIDING\.WINDOW is \(100, 100\)"):
        build_model(cfg)


def test_a_size_that_fits() -> None:
    assert fitting_size("--size", [336, 448], 14) == (336, 448)
