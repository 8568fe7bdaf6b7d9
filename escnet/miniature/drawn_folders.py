"""Folders of drawn pictures that know what they hold, so that they are drawn once and never mixed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from escnet.safe_files import replacing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_QUALITY = 92


def is_drawn(description: Path, numbers: DataclassInstance) -> bool:
    """Whether a folder holds the pictures that these numbers decide, by the file that says so.

    Raises:
        ValueError: it holds others.
    """
    if not description.is_file():
        return False
    if json.loads(description.read_text(encoding="utf-8")) != asdict(numbers):
        raise ValueError(f"{description.parent}: holds other pictures than these; choose another --root, or remove it")
    return True


def note_drawn(description: Path, numbers: DataclassInstance) -> None:
    """Say that all pictures are there."""
    with replacing(description) as temporary:
        temporary.write_text(json.dumps(asdict(numbers)), encoding="utf-8")


def chunks(count: int, size: int) -> list[range]:
    """The numbers of `count` pictures, a few at a time."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def save_picture(image: np.ndarray, path: Path) -> None:
    """Write an (H, W, 3) picture as a JPEG."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="JPEG", quality=_QUALITY)
