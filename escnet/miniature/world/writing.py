"""MojiScenes on disk: photographs, label maps and captions, in the layout of the real benchmarks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from escnet.data.benchmarks import find_benchmark
from escnet.data.errors import DatasetError
from escnet.data.images import write_labels
from escnet.miniature.world.glyphs import ATTRIBUTION, load_glyphs
from escnet.miniature.world.scene import SceneStyle, compose
from escnet.progress import progress_bar
from escnet.safe_files import replacing
from escnet.worker_pool import worker_pool

FOLDER = "mojiscenes"
DESCRIPTION = "mojiscenes.json"
_CHUNK = 25
_JPEG_QUALITY = (60, 96)


class Split(NamedTuple):
    """What is drawn together: the glyphs of its pictures, the splits that get label maps of them, its own style."""

    glyph_sets: tuple[str, ...]
    labels: tuple[str, ...]
    style: Mapping[str, Any] = MappingProxyType({})


# In this order, which is part of the seed of each picture.
SPLITS = {
    "train": Split(("base",), ("train",)),
    "val_base": Split(("base",), ("val_base",)),
    "val_novel": Split(("novel",), ("val_novel",)),
    "val_all": Split(("base", "novel"), ("val_all", "val_847")),
    "val_many": Split(("novel",), ("val_many",), {"objects": (4, 6), "object_size": (0.15, 0.3), "repeats": 1.0}),
}


@dataclass(frozen=True)
class World:
    """All that decides what is on disk.

    Attributes:
        train, val: number of pictures of the training split, and of each of the others.
        seed: of all of them.
        style: what pictures are like; `val_many` has more and smaller objects, some of one class.
    """

    train: int = 2000
    val: int = 200
    seed: int = 0
    style: SceneStyle = field(default_factory=SceneStyle)

    def __post_init__(self) -> None:
        if self.train < 1 or self.val < 1:
            raise DatasetError(f"each split needs pictures, but {self.train} and {self.val} were asked for")
        if self.seed < 0:
            raise DatasetError(f"the seed has to be 0 or more, got {self.seed}")

    def count(self, split: str) -> int:
        """How many pictures a split has."""
        return self.train if split == "train" else self.val

    def describe(self, is_complete: bool) -> dict[str, Any]:
        """What a folder says of itself that holds this world, or a part of it."""
        return json.loads(
            json.dumps(
                {"world": asdict(self), "splits": list(SPLITS), "complete": is_complete, "attribution": ATTRIBUTION}
            )
        )


def write_world(root: Path, world: World, workers: int = 0, overwrite: bool = False) -> bool:
    """Draw all splits into a folder. The same world gives the same files, whatever the number of workers.

    What was begun and interrupted is drawn again.

    Args:
        root: ``mojiscenes`` below the data root.
        world: what to draw.
        workers: processes; 0 for one on each core.
        overwrite: take the place of another world that is there.

    Returns:
        False if the folder holds this world already, and nothing was done.

    Raises:
        DatasetError: the folder holds another world, or something else; or OpenMoji's font is missing.
    """
    description, found = root / DESCRIPTION, _read_description(root)
    if found == world.describe(is_complete=True):
        return False
    if found != world.describe(is_complete=False) and root.exists() and any(root.iterdir()):
        if not overwrite:
            raise DatasetError(
                f"{root}: holds other files than this world's; choose another --root, or replace it with --overwrite"
            )
        _remove(root)
    load_glyphs("base", 1)  # refuses before anything is written
    _write_lines(description, [json.dumps(world.describe(is_complete=False), indent=1)])
    chunks = [
        (split, start, min(start + _CHUNK, world.count(split)))
        for split in SPLITS
        for start in range(0, world.count(split), _CHUNK)
    ]
    captions: dict[str, list[str]] = {split: [] for split in SPLITS}
    with (
        worker_pool(workers or os.cpu_count() or 1, preload=__name__) as pool,
        progress_bar(total=sum(map(world.count, SPLITS)), unit="picture", desc=FOLDER) as progress,
    ):
        run, draw = pool.map if pool else map, partial(_draw_chunk, root, world)
        for (split, *_), lines in zip(chunks, run(draw, chunks), strict=True):
            captions[split] += lines
            progress.update(len(lines))
    for split, lines in captions.items():
        _write_lines(root / "captions" / f"{split}.jsonl", lines)
    _write_lines(description, [json.dumps(world.describe(is_complete=True), indent=1)])
    return True


def _draw_chunk(root: Path, world: World, chunk: tuple[str, int, int]) -> list[str]:
    """Write some pictures of a split and their label maps; the captions as lines of JSON."""
    split, start, stop = chunk
    drawn = SPLITS[split]
    glyphs = [glyph for name in drawn.glyph_sets for glyph in load_glyphs(name)]
    lines = []
    for number in range(start, stop):
        rng = np.random.default_rng([world.seed, list(SPLITS).index(split), number])
        scene = compose(glyphs, rng, replace(world.style, **drawn.style))
        name = f"{number:06d}"
        with replacing(root / "images" / split / f"{name}.jpg") as temporary:
            quality = int(rng.integers(*_JPEG_QUALITY))
            Image.fromarray(scene.image).save(temporary, format="JPEG", quality=quality)
        for target in drawn.labels:
            benchmark = find_benchmark(f"mojiscenes_{target}")
            ids = scene.labels - benchmark.rows[0]
            write_labels(root / "annotations" / target / f"{name}.png", ids, benchmark.bits)
        lines.append(json.dumps({"image": f"{split}/{name}.jpg", "caption": scene.caption}))
    return lines


def _read_description(root: Path) -> dict[str, Any] | None:
    try:
        return json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{root / DESCRIPTION}: cannot be read ({error}); remove {root} and draw it again"
        ) from error


def _remove(root: Path) -> None:
    """Remove a world, the description first, so that what is left of it is never taken for all of it."""
    (root / DESCRIPTION).unlink(missing_ok=True)
    for folder in ("captions", "annotations", "images"):
        shutil.rmtree(root / folder, ignore_errors=True)
    if any(root.iterdir()):
        raise DatasetError(f"{root}: holds files that are not MojiScenes': {next(root.iterdir()).name}; move them away")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
