"""What a configured system can be asked for, before it is built."""

from __future__ import annotations

import pytest
from detectron2.config import CfgNode

from escnet.meta_arch import ClipGuidedSam
from escnet.meta_arch.configured import configured_system, require_key


def config(name: str) -> CfgNode:
    return CfgNode({"MODEL": {"META_ARCHITECTURE": name}})


def test_a_system_is_found_by_its_name() -> None:
    assert configured_system(config("ClipGuidedSam")) is ClipGuidedSam
    for name in ("NoSuchNet", "GeneralizedRCNN"):
        with pytest.raises(ValueError, match=f"META_ARCHITECTURE is {name}; there are .*ClipGuidedSam, "):
            configured_system(config(name))


def test_an_option_is_for_systems_that_have_its_key() -> None:
    require_key(config("ClipGuidedSam"), "MODEL.GUIDED.POINT_DRAWS", "--point-draws")
    message = "--point-draws sets MODEL.GUIDED.POINT_DRAWS, which DenseClip does not have.* of ClipGuidedSam"
    with pytest.raises(ValueError, match=message):
        require_key(config("DenseClip"), "MODEL.GUIDED.POINT_DRAWS", "--point-draws")
