"""Pictures on which models that name things or draw masks are examined: by word, and with the masks of objects."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from escnet.data.coco_writing import AnnotatedImage, image_entry, object_entry, write_instances
from escnet.data.examination_folder import CLASSES, OBJECTS, OBJECTS_FILE, WORDS
from escnet.data.image_folders import class_folders, write_classes
from escnet.data.preparation.finished_folders import chunks, is_finished, note_finished, save_picture
from escnet.miniature.replay import SINGLE
from escnet.miniature.world.classes import BASE, NOVEL, words
from escnet.miniature.world.glyphs import Glyph, load_glyphs, restyle
from escnet.miniature.world.scene import SceneStyle, compose
from escnet.worker_pool import worker_pool

FOLDER = "mojiexamination"
# By the look of the objects.
FOLDERS = {"colour": FOLDER, "lines": f"{FOLDER}_lines", "one colour": f"{FOLDER}_grey"}
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
    if is_finished(description, examination):
        # Folders of earlier versions have no such list.
        if not (root / CLASSES).is_file():
            write_classes(root / CLASSES, list(_names().values()))
        return False
    with worker_pool(workers or os.cpu_count() or 1, preload=__name__) as pool:
        run = pool.map if pool else map
        list(run(partial(_draw_words, root / WORDS, examination.look), chunks(examination.words, _CHUNK)))
        draw = partial(_draw_objects, root / OBJECTS, examination.side, examination.look)
        drawn = run(draw, chunks(examination.objects, _CHUNK))
        images = [image for chunk in drawn for image in chunk]
    write_instances(root / OBJECTS_FILE, images, {word + 1: name for word, name in _names().items()})
    write_classes(root / CLASSES, list(_names().values()))
    note_finished(description, examination)
    return True


def _names() -> dict[int, str]:
    """The words of objects, all of which compete."""
    return {word: words()[word].name for word in (*BASE, *NOVEL)}


def _glyphs(look: str) -> list[Glyph]:
    return [restyle(glyph, look) for glyph in load_glyphs("base") + load_glyphs("novel")]


def _draw_words(folder: Path, look: str, numbers: range) -> None:
    glyphs = _glyphs(look)
    names = _names()
    objects, folders = list(names), class_folders(list(names.values()))
    for number in numbers:
        # Each word in its turn, so that all have as many pictures.
        turn = number % len(objects)
        own = [glyph for glyph in glyphs if glyph.word == objects[turn]]
        scene = compose(own, np.random.default_rng([_SEED, 0, number]), SINGLE)
        save_picture(scene.image, folder / folders[turn] / f"{number:06d}.jpg")


def _draw_objects(folder: Path, side: int, look: str, numbers: range) -> list[AnnotatedImage]:
    """Write pictures; the entries of each and of its objects in COCO's format."""
    glyphs = _glyphs(look)
    images = []
    for number in numbers:
        scene = compose(glyphs, np.random.default_rng([_SEED, 1, number]), SceneStyle(size=side))
        name = f"{number:06d}.jpg"
        save_picture(scene.image, folder / name)
        objects = []
        for k in np.unique(scene.instances[scene.instances > 0]):
            mask = scene.instances == k
            objects.append(object_entry(mask, number + 1, int(scene.labels[mask][0]) + 1))
        images.append(AnnotatedImage(image_entry(number + 1, name, (side, side)), objects))
    return images
