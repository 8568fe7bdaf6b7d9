"""Pictures for the small SAM-CLIP: what is in the shards, what it is examined on, and that nothing is mixed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from escnet.data.coco_instances import read_instances
from escnet.data.examination_folder import CLASSES, OBJECTS, OBJECTS_FILE, WORDS
from escnet.data.image_folders import name_classes, read_image_folder
from escnet.data.shards.batches import image_batches, mask_batches
from escnet.miniature.examination import Examination, write_examination
from escnet.miniature.replay import Replay, write_replay
from escnet.miniature.world.classes import BASE, NOVEL, words
from escnet.miniature.world.glyphs import LOOKS, load_glyphs, restyle

REPLAY = Replay(clip=6, sam=4, shards=2)
EXAMINATION = Examination(words=5, objects=3, side=64)


def digest(root: Path) -> str:
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix in (".tar", ".jpg"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("replay")
    assert write_replay(root / "replay", REPLAY, workers=1)
    assert write_examination(root / "examination", EXAMINATION, workers=1)
    return root


def test_the_shards_serve_both_teachers(root: Path) -> None:
    images = next(image_batches(root / "replay/clip", batch_size=6, seed=0, sizes=(96,)))
    assert images.images.shape == (6, 3, 96, 96) and len(set(images.keys)) == 6 and not images.broken
    masks = next(mask_batches(root / "replay/sam", batch_size=4, seed=0, size=128, masks=3, mask_size=64))
    assert masks.masks.shape == (4, 3, 64, 64) and masks.masks.flatten(2).any(dim=2).all() and not masks.broken
    assert not (root / "replay/pictures").exists()


def test_the_same_numbers_give_the_same_files_and_others_are_refused(root: Path, tmp_path: Path) -> None:
    assert not write_replay(root / "replay", REPLAY, workers=1)
    write_replay(tmp_path / "again", REPLAY, workers=1)
    assert digest(tmp_path / "again") == digest(root / "replay")
    with pytest.raises(ValueError, match="other pictures"):
        write_replay(root / "replay", Replay(clip=7, sam=4, shards=2), workers=1)
    with pytest.raises(ValueError, match="other pictures"):
        write_examination(root / "examination", Examination(words=6, objects=3, side=64), workers=1)


def test_the_examination_has_a_folder_for_each_word_and_the_masks_of_all_objects(root: Path) -> None:
    folder = read_image_folder(root / "examination" / WORDS)
    assert len(folder.images) == 5 and len(folder.folders) == 5
    data = read_instances(root / "examination" / OBJECTS_FILE)
    assert len(data.images) == 3 and data.annotations
    assert all((root / "examination" / OBJECTS / image["file"]).is_file() for image in data.images)
    known = {word + 1 for word in (*BASE, *NOVEL)}
    assert {annotation["category_id"] for annotation in data.annotations} <= known


def test_all_words_compete_in_a_folder_of_before_there_was_a_list_too(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "old"
    shutil.copytree(root / "examination", copy)
    before = (copy / CLASSES).read_bytes()
    (copy / CLASSES).unlink()
    assert not write_examination(copy, EXAMINATION, workers=1)
    assert (copy / CLASSES).read_bytes() == before
    classes = name_classes(read_image_folder(copy / WORDS), copy / CLASSES)
    assert classes.words == tuple(words()[word].name for word in (*BASE, *NOVEL))
    assert sorted(classes.of_folder) == [0, 1, 2, 3, 4]


def test_numbers_that_make_no_replay_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Replay(clip=0)


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_colours_alone(look: str) -> None:
    (glyph,) = load_glyphs("base", 1)
    styled = restyle(glyph, look)
    pixels, before = np.array(styled.picture), np.array(glyph.picture)
    assert np.array_equal(pixels[..., 3], before[..., 3]) and styled.silhouette is glyph.silhouette
    colours = {tuple(colour) for colour in pixels[..., :3].reshape(-1, 3)}
    assert len(colours) == {"lines": 2, "one colour": 2}.get(look, len(colours))
    if look != "colour":
        assert (0, 0, 0) in colours
    with pytest.raises(ValueError, match="oil"):
        restyle(glyph, "oil")
