"""The miniature world: its words, glyphs, pictures, and what is written to disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from escnet.data.benchmarks import find_benchmark
from escnet.data.errors import DatasetError
from escnet.data.images import read_image, read_labels
from escnet.data.label_spaces import label_spaces, read_training_labels
from escnet.data.registration import dataset_metadata, dataset_records
from escnet.miniature.world import glyphs as glyph_module
from escnet.miniature.world import writing
from escnet.miniature.world.classes import BASE, GLYPH_SETS, NOVEL, STUFF, UNNAMED, words
from escnet.miniature.world.glyphs import draw_glyphs, load_glyphs
from escnet.miniature.world.scene import Scene, SceneStyle, compose, with_article
from escnet.miniature.world.stuff import TEXTURES
from escnet.miniature.world.writing import World, write_world

SMALL = World(train=6, val=3, style=SceneStyle(size=64))


def draw(seed: int, style: SceneStyle | None = None, glyph_set: str = "base") -> Scene:
    return compose(load_glyphs(glyph_set), np.random.default_rng(seed), style)


def test_words_are_847_and_their_sets_disjoint() -> None:
    table = words()
    assert len(table) == 847
    assert len({row.name for row in table}) == 847
    members = Counter(index for part in (BASE, STUFF, NOVEL, UNNAMED) for index in part)
    assert set(members.values()) == {1}
    assert (len(BASE), len(STUFF), len(NOVEL), len(UNNAMED)) == (80, 12, 40, 150)


def test_every_kind_of_ground_has_a_texture() -> None:
    assert {words()[index].name for index in STUFF} == set(TEXTURES)


@pytest.mark.parametrize("name", TEXTURES)
@pytest.mark.parametrize("side", (48, 200))
def test_textures_fill_any_size_and_differ_from_seed_to_seed(name: str, side: int) -> None:
    first, second = (TEXTURES[name](np.random.default_rng(seed), side, side / 128) for seed in (0, 1))
    assert first.shape == (side, side, 3)
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


def test_the_sets_are_drawn_in_full_and_no_two_glyphs_are_alike() -> None:
    drawn = [glyph for name in GLYPH_SETS for glyph in load_glyphs(name)]
    assert [glyph.word for glyph in drawn] == [*BASE, *NOVEL, *UNNAMED]
    assert len({glyph.picture.tobytes() for glyph in drawn}) == len(drawn)
    # Drawn in colour: without COLR support all of it would be black.
    saturated = sum(np.ptp(np.asarray(glyph.picture)[..., :3], axis=-1).max() > 100 for glyph in drawn)
    assert saturated > 200


def test_silhouettes_have_no_holes() -> None:
    for glyph in load_glyphs("base"):
        filled = np.asarray(glyph.silhouette) > 0
        outside = np.pad(~filled, 1, constant_values=True)
        assert label(outside)[1] == 1, words()[glyph.word].name
        assert (np.asarray(glyph.picture)[..., 3] > 127)[~filled].sum() == 0
    doughnut = next(glyph for glyph in load_glyphs("base") if words()[glyph.word].name == "doughnut")
    middle = tuple(side // 2 for side in doughnut.silhouette.size)
    assert doughnut.silhouette.getpixel(middle) == 255


def test_asking_for_more_glyphs_than_there_are() -> None:
    assert len(load_glyphs("novel", 3)) == 3
    with pytest.raises(DatasetError, match="41 novel glyphs were asked for, but the set has 40"):
        load_glyphs("novel", 41)


def test_a_font_that_lacks_glyphs_says_which() -> None:
    dejavu = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    with pytest.raises(DatasetError, match=r"80 glyphs were asked for, but .*DejaVuSans.ttf has only \d+ .*tiger"):
        draw_glyphs(dejavu, BASE)
    with pytest.raises(DatasetError, match="cannot be read as a font"):
        draw_glyphs(Path(__file__), BASE)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(glyph_module, "find_spec", lambda name: None)
    glyph_module._draw.cache_clear()
    with pytest.raises(DatasetError, match=r"pip install 'escnet\[mojiscenes\]'"):
        write_world(tmp_path / "mojiscenes", SMALL)
    assert not (tmp_path / "mojiscenes").exists()


@pytest.mark.parametrize("size", (64, 128, 512))
def test_a_scene_agrees_with_itself(size: int) -> None:
    for seed in range(12 if size < 512 else 3):
        scene = draw(seed, SceneStyle(size=size))
        assert scene.image.shape == (size, size, 3)
        assert scene.labels.shape == scene.instances.shape == (size, size)
        on_ground = scene.instances == 0
        assert set(np.unique(scene.labels[on_ground])) <= set(STUFF)
        assert set(np.unique(scene.labels[~on_ground])) <= set(BASE)
        named = {words()[index].name for index in np.unique(scene.labels)}
        for name in named:
            assert name in scene.caption
        assert 1 <= scene.instances.max() <= 8
        for k in range(1, scene.instances.max() + 1):
            assert len(np.unique(scene.labels[scene.instances == k])) == 1


def test_captions_name_nothing_that_is_not_there() -> None:
    for seed in range(30):
        scene = draw(seed, SceneStyle(size=64))
        things, ground = scene.caption.rsplit(" on ", 1)
        names = {words()[index].name for index in np.unique(scene.labels)}
        for thing in things.split(", "):
            assert any(thing.endswith(name) for name in names), scene.caption
        assert set(ground.split(" and ")) <= names


def test_masks_lie_on_what_is_drawn() -> None:
    """Glyphs have black outlines, so the darkest pixels of a picture with one object lie inside its mask."""
    style = SceneStyle(objects=(1, 1), repeats=0.0)
    shares = []
    for seed in range(20):
        scene = draw(seed, style)
        dark = scene.image.max(axis=-1) < 25
        if dark.any():
            shares.append((dark & (scene.instances > 0)).sum() / dark.sum())
    assert np.median(shares) > 0.95


def test_repeats_put_several_objects_of_a_class_into_a_picture() -> None:
    several = [draw(seed, SceneStyle(objects=(2, 5), repeats=1.0)) for seed in range(20)]
    counts = [
        max(Counter(s.labels[s.instances == k][0] for k in range(1, s.instances.max() + 1)).values()) for s in several
    ]
    assert np.mean(np.array(counts) >= 2) > 0.8
    single = [draw(seed, SceneStyle(objects=(2, 5), repeats=0.0)) for seed in range(20)]
    for scene in single:
        ids = [scene.labels[scene.instances == k][0] for k in range(1, scene.instances.max() + 1)]
        assert len(ids) == len(set(ids))


def test_a_scene_is_decided_by_its_seed() -> None:
    for part, other in zip(draw(3), draw(3), strict=True):
        assert np.array_equal(part, other)
    assert not np.array_equal(draw(3).image, draw(4).image)


@pytest.mark.parametrize(
    ("name", "with_its_article"),
    (("apple", "an apple"), ("pear", "a pear"), ("grapes", "grapes"), ("octopus", "an octopus"), ("bus", "a bus")),
)
def test_articles(name: str, with_its_article: str) -> None:
    assert with_article(name) == with_its_article


@pytest.mark.parametrize(
    "wrong", ({"size": 16}, {"objects": (-1, 3)}, {"objects": (3, 2)}, {"object_size": (0.5, 0.2)})
)
def test_impossible_styles_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SceneStyle(**wrong)


@pytest.fixture(scope="module")
def world_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds the small world."""
    root = tmp_path_factory.mktemp("data")
    assert write_world(root / "mojiscenes", SMALL, workers=1)
    return root


def test_the_world_is_read_as_any_benchmark(world_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world_root))
    sizes = {
        "train": (6, 92), "val_base": (3, 92), "val_novel": (3, 52), "val_many": (3, 52),
        "val_all": (3, 132), "val_847": (3, 847),
    }  # fmt: skip
    for split, (images, classes) in sizes.items():
        name = f"mojiscenes_{split}"
        records, space = dataset_records(name), label_spaces([name])[name]
        assert (len(records), space.vocabulary.num_classes) == (images, classes)
        for record in records:
            ids = read_training_labels(record["sem_seg_file_name"], space)
            assert ids.shape == read_image(record["file_name"]).shape[:2] == (64, 64)
            assert ids.min() >= 0
    novel = dataset_records("mojiscenes_val_novel")[0]
    caption = next(json.loads(line) for line in (world_root / "mojiscenes/captions/val_novel.jsonl").open())["caption"]
    names = dataset_metadata("mojiscenes_val_novel").stuff_classes
    for index in np.unique(read_labels(novel["sem_seg_file_name"])):
        assert names[index] in caption


def test_the_pictures_of_847_words_are_those_of_all(world_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world_root))
    for few, many in zip(dataset_records("mojiscenes_val_all"), dataset_records("mojiscenes_val_847"), strict=True):
        assert few["file_name"] == many["file_name"]
        wide = read_labels(many["sem_seg_file_name"])
        assert np.array_equal(read_labels(few["sem_seg_file_name"]), wide)
        assert Image.open(many["sem_seg_file_name"]).mode.startswith("I;16")
    assert find_benchmark("moji_847").class_names[: len(words())] == [row.name for row in words()]


def test_no_split_shows_an_object_that_it_should_not(world_root: Path) -> None:
    both = (*BASE, *NOVEL)
    sets = {"train": BASE, "val_base": BASE, "val_novel": NOVEL, "val_many": NOVEL, "val_all": both}
    for split, allowed in sets.items():
        first = find_benchmark(f"mojiscenes_{split}").rows[0]
        seen = set()
        for path in (world_root / f"mojiscenes/annotations/{split}").iterdir():
            seen |= {int(index) + first for index in np.unique(read_labels(path))}
        assert seen <= {*allowed, *STUFF}
        assert seen & set(allowed)


def test_crowds_show_more_objects_than_the_other_splits(world_root: Path) -> None:
    def parts(split: str) -> float:
        first, counts = find_benchmark(f"mojiscenes_{split}").rows[0], []
        for path in (world_root / f"mojiscenes/annotations/{split}").iterdir():
            ids = read_labels(path) + first
            counts.append(sum(label(ids == index)[1] for index in set(np.unique(ids)) & set(NOVEL)))
        return np.mean(counts)

    assert parts("val_many") > parts("val_novel") + 1


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_world_is_the_same_files_for_any_number_of_workers(world_root: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "mojiscenes", SMALL, workers=2)
    assert files(tmp_path / "mojiscenes") == files(world_root / "mojiscenes")


def test_another_world_is_not_overwritten_unasked(tmp_path: Path) -> None:
    root = tmp_path / "mojiscenes"
    tiny = World(train=1, val=1, style=SceneStyle(size=64))
    assert write_world(root, tiny, workers=1)
    before = files(root)
    assert not write_world(root, tiny, workers=1)
    other = World(train=1, val=1, seed=1, style=SceneStyle(size=64))
    with pytest.raises(DatasetError, match=r"choose another --root, or replace it with --overwrite"):
        write_world(root, other, workers=1)
    assert files(root) == before
    assert write_world(root, other, workers=1, overwrite=True)
    assert files(root).keys() == before.keys()
    assert files(root) != before


def test_foreign_files_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match=r"thesis\.txt"):
        write_world(tmp_path, SMALL, workers=1, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_interrupted_world_is_drawn_again(world_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "mojiscenes"

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writing, "compose", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_world(root, SMALL, workers=1)
    assert write_world(root, SMALL, workers=1)
    assert files(root) == files(world_root / "mojiscenes")


def test_the_script(
    load_script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load_script("datasets/prepare_mojiscenes.py").main
    arguments = ["--root", str(tmp_path / "m"), "--train", "2", "--val", "1", "--size", "64", "--workers", "1"]
    assert main(arguments) == 0
    assert "train 2, val_base 1, val_novel 1, val_all 1, val_many 1 pictures of 64x64" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "complete already" in capsys.readouterr().out
    assert main([*arguments, "--seed", "3"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--size", "8"]) == 1
    assert "size has to be 32..1024 pixels, got 8" in capsys.readouterr().err
