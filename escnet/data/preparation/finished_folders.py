"""Folders of pictures that know what they hold, so that they are made once and never mixed."""

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


def is_finished(description: Path, settings: DataclassInstance) -> bool:
    """Whether a folder holds the pictures that these settings decide, by the file that says so.

    Raises:
        ValueError: it holds others.
    """
    if not description.is_file():
        return False
    if json.loads(description.read_text(encoding="utf-8")) != json.loads(_text(settings)):
        raise ValueError(f"{description.parent}: holds other pictures than these; choose another folder, or remove it")
    return True


def note_finished(description: Path, settings: DataclassInstance) -> None:
    """Say that all pictures are there."""
    with replacing(description) as temporary:
        temporary.write_text(_text(settings), encoding="utf-8")


def chunks(count: int, size: int) -> list[range]:
    """The numbers of `count` pictures, a few at a time."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def save_picture(image: np.ndarray, path: Path) -> None:
    """Write an (H, W, 3) picture as a JPEG."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="JPEG", quality=_QUALITY)


def _text(settings: DataclassInstance) -> str:
    return json.dumps(asdict(settings))
