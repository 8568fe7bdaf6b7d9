"""Small shards: each picture is of one colour, which tells which it is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from escnet.data.shards.indexing import index_folder
from escnet.data.shards.run_lengths import encode_mask

Members = dict[str, bytes]


def picture(number: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A PNG of (height, width) whose red is the number."""
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), (number, 7, 9), dtype=np.uint8)).save(file, format="PNG")
    return file.getvalue()


def annotations(masks: Sequence[np.ndarray]) -> bytes:
    """SA-1B's JSON of (H,W) masks."""
    return json.dumps({"image": {}, "annotations": [{"segmentation": encode_mask(mask)} for mask in masks]}).encode()


def write_shard(path: Path, samples: Mapping[str, Members]) -> None:
    """Write a shard of members by suffix, by key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for key, members in samples.items():
            tar.write({"__key__": key, **members})


@pytest.fixture
def write_pictures(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of shards with an index, which have so many pictures each, numbered through."""

    def write(counts: Sequence[int] = (3, 4, 2, 5, 3, 4), change: Mapping[int, Members] | None = None) -> Path:
        number = 0
        for shard, count in enumerate(counts):
            samples = {}
            for _ in range(count):
                samples[f"p{number:03d}"] = (change or {}).get(number, {"png": picture(number)})
                number += 1
            write_shard(tmp_path / "shards" / f"{shard:03d}.tar", samples)
        index_folder(tmp_path / "shards")
        return tmp_path / "shards"

    return write
