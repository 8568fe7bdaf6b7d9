"""The small weight files that come with the package: the CLIP, SAM, SAM-CLIP and two ESC-Nets of MojiScenes."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from escnet.pretrained.files import WeightsError, verify_sha256

FOLDER = Path(__file__).parent / "weights"
PREFIX = "shipped:"


def resolve_shipped(weights: str | Path) -> str:
    """The path of "shipped:NAME"; any other text as it is.

    Raises:
      WeightsError: no weights of this name ship with the package, or their file is not the one that its card describes.
    """
    weights = str(weights)
    return str(shipped_weights(weights.removeprefix(PREFIX))) if weights.startswith(PREFIX) else weights


@lru_cache(maxsize=8)
def shipped_weights(name: str) -> Path:
    """The file of shipped weights, such as "clip" or "esc_net_sam_clip", after a check of its SHA-256 by its card.

    Raises:
      WeightsError: as `resolve_shipped`.
    """
    names = shipped_names()
    if name not in names:
        raise WeightsError(f'no weights "{name}" ship with escnet; there are {", ".join(names) or "none"}')
    path = FOLDER / f"{name}.safetensors"
    verify_sha256(path, shipped_card(name)["sha256"], "install escnet again")
    return path


def shipped_names() -> list[str]:
    """The weights that ship, without their prefix."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def shipped_card(name: str) -> dict[str, Any]:
    """What is known of shipped weights: their hash, recipe, figures and pictures."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def as_shipped(weights: str | Path) -> str:
    """ "shipped:NAME" for the path that `resolve_shipped` made of it; any other text as it is."""
    path = Path(weights)
    return f"{PREFIX}{path.stem}" if path.parent == FOLDER and path.stem in shipped_names() else str(weights)
