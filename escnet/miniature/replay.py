"""Pictures with which the small SAM-CLIP is taught: those that its teachers were trained on, in shards.

CLIP's are cut-outs of base and novel glyphs, without captions; SAM's are whole pictures of glyphs that have no names,
with a mask of everything in them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from escnet.data.images import write_labels
from escnet.data.preparation.finished_folders import chunks, is_finished, note_finished, save_picture
from escnet.data.shards.making import Making, make_shards
from escnet.data.shards.pictures import find_pictures
from escnet.data.shards.storing import Storing
from escnet.miniature import clip_recipe
from escnet.miniature.sam_recipe import SamRecipe, number_regions
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import compose
from escnet.progress import progress_bar
from escnet.worker_pool import worker_pool

FOLDER = "mojireplay"
# Folders of the first pictures of it alone, by the share that they are.
SMALLER = {"10 %": f"{FOLDER}_tenth", "1 %": f"{FOLDER}_hundredth"}
DESCRIPTION = "mojireplay.json"
_CHUNK = 50
# Twice as large as those that the small CLIP was trained on, so that they serve at several sizes.
SINGLE, SEVERAL = (replace(style, size=96, unit=2.0) for style in (clip_recipe.SINGLE, clip_recipe.SEVERAL))


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

    def share(self, percent: str) -> Replay:
        """The first pictures of it, a share such as "10 %", of each teacher at least one for each shard."""
        factor = int(percent.removesuffix("%")) / 100
        clip, sam = (max(round(factor * count), self.shards) for count in (self.clip, self.sam))
        return replace(self, clip=clip, sam=sam)

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
    if is_finished(description, replay):
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
    note_finished(description, replay)
    return True


def _draw_all(draw: Callable[[range], int], count: int, teacher: str, run: Callable) -> None:
    with progress_bar(total=count, unit="picture", desc=f"{FOLDER}/{teacher}") as progress:
        for drawn in run(draw, chunks(count, _CHUNK)):
            progress.update(drawn)


def _draw_cut_outs(folder: Path, seed: int, numbers: range) -> int:
    glyphs = load_glyphs("base") + load_glyphs("novel")
    for number in numbers:
        rng = np.random.default_rng([seed, 0, number])
        style = SINGLE if rng.random() < clip_recipe.ClipRecipe.single_share else SEVERAL
        save_picture(compose(glyphs, rng, style).image, _picture(folder, number))
    return len(numbers)


def _draw_scenes(folder: Path, seed: int, numbers: range) -> int:
    glyphs = load_glyphs("unnamed")
    for number in numbers:
        scene = compose(glyphs, np.random.default_rng([seed, 1, number]))
        save_picture(scene.image, _picture(folder, number))
        write_labels(folder / "regions" / f"{number:06d}.png", number_regions(scene, SamRecipe.least_area), 8)
    return len(numbers)


def _picture(folder: Path, number: int) -> Path:
    return folder / "images" / f"{number:06d}.jpg"
