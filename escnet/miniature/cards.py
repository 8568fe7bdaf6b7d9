"""Weight files with a card: how they were made, what they can do, and the digest by which they are known."""

from __future__ import annotations

import json
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from escnet import __version__
from escnet.miniature.world.glyphs import ATTRIBUTION
from escnet.pretrained.files import file_sha256
from escnet.safe_files import replacing, write_safetensors


def save_with_card(
    path: Path, state: Mapping[str, Tensor], recipe: Mapping[str, Any], figures: Mapping[str, Any], seconds: float
) -> None:
    """Write weights in half precision, and beside them a card of the same name in JSON. Neither is ever half-written.

    Args:
        path: a .safetensors file.
        state: the weights; floating-point tensors are rounded to 16 bits.
        recipe: the numbers of the training.
        figures: what was measured.
        seconds: that it took.
    """
    halves = {name: value.detach().half() if value.is_floating_point() else value for name, value in state.items()}
    write_safetensors(path, {name: value.contiguous() for name, value in halves.items()})
    card = {
        "file": path.name,
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "command": _command(path),
        "recipe": dict(recipe),
        "seconds": round(seconds),
        "figures": dict(figures),
        "versions": {"escnet": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "trained on": f"pictures drawn with OpenMoji glyphs. {ATTRIBUTION}",
    }
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def training_seconds(folder: Path, iterations: int) -> float:
    """What a training took in all its calls, by the metrics in its folder; 0 of one too short to have them."""
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    times = [row["time"] for row in map(json.loads, lines) if "time" in row]
    return statistics.fmean(times) * iterations if times else 0.0


def _command(path: Path) -> str:
    """The command line, without the folders of this machine."""
    arguments = (path.name if argument == str(path) else argument for argument in sys.argv[1:])
    return shlex.join([Path(sys.argv[0]).name, *arguments])
