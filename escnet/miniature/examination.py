"""Pictures on which models that name things or draw masks are examined: by word, and with the masks of objects."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from escnet.miniature.drawn_folders import chunks, is_drawn, note_drawn, save_picture
from escnet.miniature.replay import SINGLE
from escnet.miniature.world.classes import BASE, NOVEL, words
from escnet.miniature.world.glyphs import Glyph, load_glyphs, restyle
from escnet.miniature.world.scene import Scene, SceneStyle, compose
from escnet.safe_files import replacing
from escnet.worker_pool import worker_pool

FOLDER = "mojiexamination"
# By the look of the objects.
FOLDERS = {"colour": FOLDER, "lines": f"{FOLDER}_lines", "one colour": f"{FOLDER}_grey"}
WORDS, OBJECTS, OBJECTS_FILE = "words", "objects", "objects.json"
DESCRIPTION = "mojiexamination.json"
_CHUNK = 25
# No other pictures are drawn with this seed.
_SEED = 999


@dataclass(frozen=True)
class Examination:
    """All that decides what is drawn.

    Attributes:
        words: pictures of one object, in a folder for each word.
        objects: pictures of several objects, with their masks in COCO's format.
        side: of the latter, in pixels.
        look: of the objects, one of `glyphs.LOOKS`.
    """

    words: int = 960
    objects: int = 200
    side: int = 128
    look: str = "colour"


def write_examination(root: Path, examination: Examination, workers: int = 0) -> bool:
    """Draw the pictures of base and novel glyphs. The same examination gives the same files.

    Args:
        root: folder for them.
        examination: what to draw.
        workers: processes; 0 for one on each core.

    Returns:
        False if they are there already, and nothing was done.

    Raises:
        ValueError: the folder holds another examination.
        DatasetError: OpenMoji's font is missing.
    """
    description = root / DESCRIPTION
    if is_drawn(description, examination):
        return False
    with worker_pool(workers or os.cpu_count() or 1, preload=__name__) as pool:
        run = pool.map if pool else map
        list(run(partial(_draw_words, root / WORDS, examination.look), chunks(examination.words, _CHUNK)))
        draw = partial(_draw_objects, root / OBJECTS, examination.side, examination.look)
        drawn = run(draw, chunks(examination.objects, _CHUNK))
        parts = [part for chunk in drawn for part in chunk]
    with replacing(root / OBJECTS_FILE) as temporary:
        temporary.write_text(json.dumps(_coco(parts)), encoding="utf-8")
    note_drawn(description, examination)
    return True


def folder_of(name: str) -> str:
    """The folder of a word's pictures."""
    return name.split(",")[0].replace(" ", "_")


def _glyphs(look: str) -> list[Glyph]:
    return [restyle(glyph, look) for glyph in load_glyphs("base") + load_glyphs("novel")]


def _draw_words(folder: Path, look: str, numbers: range) -> None:
    glyphs = _glyphs(look)
    table = words()
    objects = [*BASE, *NOVEL]
    for number in numbers:
        # Each word in its turn, so that all have as many pictures.
        word = objects[number % len(objects)]
        own = [glyph for glyph in glyphs if glyph.word == word]
        scene = compose(own, np.random.default_rng([_SEED, 0, number]), SINGLE)
        save_picture(scene.image, folder / folder_of(table[word].name) / f"{number:06d}.jpg")


def _draw_objects(
    folder: Path, side: int, look: str, numbers: range
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Write pictures; the entry of each in COCO's format, with those of its objects."""
    glyphs = _glyphs(look)
    entries = []
    for number in numbers:
        scene = compose(glyphs, np.random.default_rng([_SEED, 1, number]), SceneStyle(size=side))
        name = f"{number:06d}.jpg"
        save_picture(scene.image, folder / name)
        image = {"id": number + 1, "file_name": name, "height": side, "width": side}
        entries.append(
            (image, [_object(scene, k, number + 1) for k in np.unique(scene.instances[scene.instances > 0])])
        )
    return entries


def _object(scene: Scene, number: int, image: int) -> dict[str, Any]:
    mask = scene.instances == number
    runs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "image_id": image,
        "category_id": int(scene.labels[mask][0]) + 1,
        "segmentation": {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")},
        "bbox": coco_masks.toBbox(runs).tolist(),
        "area": int(mask.sum()),
        "iscrowd": 0,
    }


def _coco(parts: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> dict[str, Any]:
    annotations = [entry for _, entries in parts for entry in entries]
    return {
        "images": [image for image, _ in parts],
        "categories": [{"id": word + 1, "name": words()[word].name} for word in (*BASE, *NOVEL)],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
    }
