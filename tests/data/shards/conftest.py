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

from escnet.data.run_lengths import encode_mask
from escnet.data.shards.indexing import index_folder

Members = dict[str, bytes]


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """``picture(number, size)``: a PNG of (height, width) whose red is the number."""

    def draw(number: int, size: tuple[int, int] = (16, 16)) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.full((*size, 3), (number, 7, 9), dtype=np.uint8)).save(file, format="PNG")
        return file.getvalue()

    return draw


@pytest.fixture
def annotations() -> Callable[[Sequence[np.ndarray]], bytes]:
    """SA-1B's JSON of (H,W) masks."""

    def write(masks: Sequence[np.ndarray]) -> bytes:
        rows = [{"segmentation": encode_mask(mask)} for mask in masks]
        return json.dumps({"image": {}, "annotations": rows}).encode()

    return write


@pytest.fixture
def write_shard() -> Callable[[Path, Mapping[str, Members]], None]:
    """Writes a shard of members by suffix, by key."""

    def write(path: Path, samples: Mapping[str, Members]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
            for key, members in samples.items():
                tar.write({"__key__": key, **members})

    return write


@pytest.fixture
def write_pictures(
    tmp_path: Path, picture: Callable[..., bytes], write_shard: Callable[..., None]
) -> Callable[..., Path]:
    """Writes a folder of shards with an index, which have so many pictures each, numbered through.

    ``change`` gives other members than a picture to some numbers.
    """

    def write(counts: Sequence[int] = (3, 4, 2, 5, 3, 4), change: Mapping[int, Members] | None = None) -> Path:
        numbers = iter(range(sum(counts)))
        for shard, count in enumerate(counts):
            chosen = [next(numbers) for _ in range(count)]
            samples = {f"p{n:03d}": (change or {}).get(n) or {"png": picture(n)} for n in chosen}
            write_shard(tmp_path / "shards" / f"{shard:03d}.tar", samples)
        index_folder(tmp_path / "shards")
        return tmp_path / "shards"

    return write
