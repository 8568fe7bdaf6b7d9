"""Pictures with which the small SAM-CLIP is taught: those that its teachers were trained on, in shards.

CLIP's are cut-outs of base and novel glyphs, without captions; SAM's are whole pictures of glyphs that have no names,
with a mask of everything in them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from escnet.data.images import write_labels
from escnet.data.shards.making import Making, make_shards
from escnet.data.shards.pictures import find_pictures
from escnet.data.shards.storing import Storing
from escnet.miniature.sam_recipe import number_regions
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import SceneStyle, compose
from escnet.progress import progress_bar
from escnet.safe_files import replacing
from escnet.worker_pool import worker_pool

FOLDER = "mojireplay"
DESCRIPTION = "mojireplay.json"
_CHUNK = 50
_QUALITY = 92
_LEAST_AREA = 32
# Twice as large as those that the small CLIP was trained on, so that they serve at several sizes.
_CUT_OUT = {"size": 96, "repeats": 0.0, "horizon": 0.5, "unit": 2.0}
SINGLE = SceneStyle(objects=(1, 1), object_size=(0.5, 0.95), **_CUT_OUT)
SEVERAL = SceneStyle(objects=(2, 3), object_size=(0.35, 0.65), **_CUT_OUT)
_SINGLE_SHARE = 2 / 3


@dataclass(frozen=True)
class Replay:
    """All that decides what is drawn.

    Attributes:
        clip, sam: number of pictures for each teacher.
        shards: of each of them.
        seed: of all of it.
    """

    clip: int = 30_000
    sam: int = 6_000
    shards: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.clip, self.sam, self.shards) < 1 or self.seed < 0:
            raise ValueError("pictures and shards have to be 1 or more, and the seed not negative")


def write_replay(root: Path, replay: Replay, workers: int = 0) -> bool:
    """Draw the pictures and put them into shards, root/clip and root/sam. The same replay gives the same files.

    Args:
        root: of the shards; pictures are drawn to a folder in it, which is removed at the end.
        replay: what to draw.
        workers: processes; 0 for one on each core.

    Returns:
        False if they are there already, and nothing was done.

    Raises:
        ValueError: the folder holds another replay.
        DatasetError: OpenMoji's font is missing.
    """
    description = root / DESCRIPTION
    if description.is_file():
        if json.loads(description.read_text(encoding="utf-8")) != asdict(replay):
            raise ValueError(f"{root}: holds other pictures than these; choose another --root, or remove it")
        return False
    pictures = root / "pictures"
    with worker_pool(workers or os.cpu_count() or 1, preload=__name__) as pool:
        for teacher, count, draw in (("clip", replay.clip, _draw_cut_outs), ("sam", replay.sam, _draw_scenes)):
            _draw_all(partial(draw, pictures / teacher, replay.seed), count, teacher, pool.map if pool else map)
            found = find_pictures([pictures / teacher / "images"], replay.seed)
            regions = str(pictures / teacher / "regions") if teacher == "sam" else ""
            per_shard = -(-count // replay.shards)
            make_shards(Making(found, root / teacher, per_shard, Storing(regions), replay.seed), pool)
    shutil.rmtree(pictures)
    with replacing(description) as temporary:
        temporary.write_text(json.dumps(asdict(replay)), encoding="utf-8")
    return True


def _draw_all(draw: Callable[[range], int], count: int, teacher: str, run: Callable) -> None:
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with progress_bar(total=count, unit="picture", desc=f"{FOLDER}/{teacher}") as progress:
        for drawn in run(draw, chunks):
            progress.update(drawn)


def _draw_cut_outs(folder: Path, seed: int, numbers: range) -> int:
    glyphs = load_glyphs("base") + load_glyphs("novel")
    for number in numbers:
        rng = np.random.default_rng([seed, 0, number])
        style = SINGLE if rng.random() < _SINGLE_SHARE else SEVERAL
        _save(compose(glyphs, rng, style).image, folder, number)
    return len(numbers)


def _draw_scenes(folder: Path, seed: int, numbers: range) -> int:
    glyphs = load_glyphs("unnamed")
    for number in numbers:
        scene = compose(glyphs, np.random.default_rng([seed, 1, number]))
        _save(scene.image, folder, number)
        write_labels(folder / "regions" / f"{number:06d}.png", number_regions(scene, _LEAST_AREA), 8)
    return len(numbers)


def _save(image: np.ndarray, folder: Path, number: int) -> None:
    with replacing(folder / "images" / f"{number:06d}.jpg") as temporary:
        Image.fromarray(image).save(temporary, format="JPEG", quality=_QUALITY)
