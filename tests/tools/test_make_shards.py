"""The tool that makes shards: stored bytes, keys, masks, what is skipped, continued and refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from escnet.data.run_lengths import encode_mask
from escnet.data.shards import making
from escnet.data.shards.batches import image_batches, mask_batches
from escnet.data.shards.index import INDEX, find_shards
from escnet.data.shards.journal import JOURNAL

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/make_shards.py")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Seven pictures of 20x30 in three folders, in four formats."""
    folder, generator = tmp_path / "photographs", np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.webp", "d.bmp", "in/a.jpg", "in/v1.5/e.jpeg", "in/f.TIF"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return folder


def run(tool: ModuleType, *arguments: object) -> int:
    return tool.main([*map(str, arguments), "--workers", "1"])


def members(folder: Path) -> dict[str, bytes]:
    """The contents of all shards of a folder by name."""
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found.update({member.name: tar.extractfile(member).read() for member in tar})
    return found


def tar_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_pictures_are_stored_as_they_are_or_as_jpeg(tool: ModuleType, photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    assert run(tool, photographs, "--output", output, "--samples-per-shard", 3) == 0
    stored = members(output)
    assert sorted(stored) == ["a.jpg", "b.png", "c.webp", "d.jpg", "in/a.jpg", "in/f.jpg", "in/v1_5/e.jpg"]
    assert stored["in/v1_5/e.jpg"] == (photographs / "in/v1.5/e.jpeg").read_bytes()
    for path in ("a.jpg", "b.png", "c.webp", "in/a.jpg"):
        assert stored[path] == (photographs / path).read_bytes()
    assert Image.open(io.BytesIO(stored["d.jpg"])).format == "JPEG"
    assert [shard.samples for shard in find_shards(output)] == [3, 3, 1]
    batch = next(image_batches(output, batch_size=7, seed=0, sizes=(16,)))
    assert sorted(batch.keys) == ["a", "b", "c", "d", "in/a", "in/f", "in/v1_5/e"]


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_order(
    tool: ModuleType, photographs: Path, tmp_path: Path
) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        run(tool, photographs, "--output", tmp_path / name, "--samples-per-shard", 3, "--seed", seed)
    first, second, third = (tar_bytes(tmp_path / name) for name in ("one", "two", "three"))
    assert first == second != third
    assert members(tmp_path / "one") == members(tmp_path / "three")


@pytest.mark.slow
def test_worker_processes_make_the_same(tool: ModuleType, photographs: Path, tmp_path: Path) -> None:
    run(tool, photographs, "--output", tmp_path / "one")
    assert tool.main([str(photographs), "--output", str(tmp_path / "two"), "--workers", "2"]) == 0
    assert tar_bytes(tmp_path / "one") == tar_bytes(tmp_path / "two")


def test_keys_are_unique_and_safe(tool: ModuleType, photographs: Path, tmp_path: Path) -> None:
    picture = (photographs / "a.jpg").read_bytes()
    for name in ("a.jpeg", "x.y.jpg", "x_y.jpg", "__z__/g.jpg", ".hidden.jpg", "notes.txt"):
        (photographs / name).parent.mkdir(exist_ok=True)
        (photographs / name).write_bytes(picture)
    (photographs / "in" / "again").symlink_to(photographs)
    run(tool, photographs, "--output", tmp_path / "shards")
    keys = next(image_batches(tmp_path / "shards", batch_size=11, seed=0, sizes=(16,))).keys
    expected = ["a", "a_jpg", "b", "c", "d", "in/a", "in/f", "in/v1_5/e", "x_y", "x_y_jpg", "z/g"]
    assert sorted(keys) == expected
    run(tool, photographs, photographs / "in", "--output", tmp_path / "two")
    assert {"photographs/in/a.jpg", "in/a.jpg"} <= members(tmp_path / "two").keys()


def test_pictures_that_cannot_be_read_are_named_and_skipped(
    tool: ModuleType, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photographs / "bad.jpg").write_bytes((photographs / "a.jpg").read_bytes()[:300])
    (photographs / "empty.png").write_bytes(b"")
    command = (photographs, "--output", tmp_path / "shards", "--samples-per-shard", 2)
    for again in ("", " (9 dealt with before)"):
        assert run(tool, *command) == 1
        out = capsys.readouterr().out
        assert f"7 pictures in 5 shards, 0.0 MiB; 2 skipped{again}\n" in out
        assert f"{photographs}/bad.jpg: is truncated" in out and f"{photographs}/empty.png: the file is empty" in out
    assert len(members(tmp_path / "shards")) == 7


def test_size_brings_the_shorter_side_down(tool: ModuleType, photographs: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16, 12)).save(photographs / "small.png")
    run(tool, photographs, "--output", tmp_path / "shards", "--size", 16)
    stored = members(tmp_path / "shards")
    sizes = {name: Image.open(io.BytesIO(data)).size for name, data in stored.items()}
    assert sizes.pop("small.png") == (16, 12) and stored["small.png"] == (photographs / "small.png").read_bytes()
    assert set(sizes.values()) == {(24, 16)} and {name[-4:] for name in sizes} == {".jpg"}


def write_regions(folder: Path, photographs: Path, regions: np.ndarray, skip: str = "") -> Path:
    for path in photographs.rglob("*.*"):
        name = path.relative_to(photographs).with_suffix(".png")
        if path.is_file() and str(name) != skip:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(regions).save(folder / name)
    return folder


def regions_of(output: Path, name: str) -> list[np.ndarray]:
    content = json.loads(members(output)[name])
    rows = content["annotations"]
    masks = [coco_masks.decode(row["segmentation"]) for row in rows]
    for row, mask in zip(rows, masks, strict=True):
        ys, xs = np.nonzero(mask)
        assert row["area"] == mask.sum()
        assert row["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert (content["image"]["height"], content["image"]["width"]) == mask.shape
    return masks


@pytest.mark.parametrize(
    ("dtype", "void", "options", "expected"),
    [
        (np.uint8, 255, (), [7, 9]),
        (np.uint16, 65535, (), [7, 9]),
        (np.uint16, 255, (), [7, 9, 255]),
        (np.uint8, 255, ("--ignore", 9), [0, 7, 255]),
        (np.uint8, 255, ("--ignore",), [0, 7, 9, 255]),
    ],
)
def test_each_value_of_a_region_map_is_a_mask(
    tool: ModuleType, photographs: Path, tmp_path: Path, dtype: type, void: int, options: tuple, expected: list[int]
) -> None:
    regions = np.zeros((20, 30), dtype=dtype)
    regions[:10, :5], regions[:10, 5:], regions[15:] = 7, 9, void
    folder = write_regions(tmp_path / "regions", photographs, regions)
    assert run(tool, photographs, "--output", tmp_path / "shards", "--masks", f"regions:{folder}", *options) == 0
    found = regions_of(tmp_path / "shards", "in/v1_5/e.json")
    assert len(found) == len(expected)
    assert all((mask == (regions == value)).all() for mask, value in zip(found, expected, strict=True))
    batch = next(mask_batches(tmp_path / "shards", batch_size=2, seed=0, size=16, masks=4))
    assert batch.masks.shape == (2, 4, 16, 16)


def test_panoptic_colours_and_smaller_masks(tool: ModuleType, photographs: Path, tmp_path: Path) -> None:
    regions = np.zeros((20, 30, 3), dtype=np.uint8)
    regions[:10], regions[10:, 15:], regions[2, 2] = (255, 0, 0), (0, 1, 2), (9, 9, 9)
    folder = write_regions(tmp_path / "regions", photographs, regions)
    output = tmp_path / "shards"
    assert run(tool, photographs, "--output", output, "--masks", f"regions:{folder}", "--size", 16) == 0
    top, right = regions_of(output, "a.json")  # the single pixel has vanished
    rows, columns = np.mgrid[:16, :24]
    assert (top == (rows < 8)).all() and (right == ((rows >= 8) & (columns >= 12))).all()


def test_pictures_without_fitting_regions_are_skipped(
    tool: ModuleType, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_regions(tmp_path / "regions", photographs, np.full((20, 30), 5, dtype=np.uint8), skip="a.png")
    Image.fromarray(np.ones((30, 20), dtype=np.uint8)).save(folder / "b.png")
    Image.fromarray(np.full((20, 30), 255, dtype=np.uint8)).save(folder / "c.png")
    (folder / "d.png").write_bytes(b"no picture")
    assert run(tool, photographs, "--output", tmp_path / "shards", "--masks", f"regions:{folder}") == 1
    out = capsys.readouterr().out
    for told in (
        "a.jpg: has no masks: there is no",
        "b.png: has 30x20 pixels, upright, but",
        "c.webp: has no masks",
        "d.bmp:",
    ):
        assert f"{photographs}/{told}" in out
    assert "3 pictures in 1 shards" in out


def test_masks_of_sa1b_are_stored_as_they_are(
    tool: ModuleType, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[5:15, 10:20] = 1
    row = {"segmentation": encode_mask(mask), "stability_score": 0.97}
    good = json.dumps({"image": {"image_id": 1}, "annotations": [row]})
    for name in ("a", "b", "in/a"):
        (photographs / f"{name}.json").write_text(good)
    (photographs / "c.json").write_text(good.replace("[20, 30]", "[30, 20]"))
    assert run(tool, photographs, "--output", tmp_path / "shards", "--masks", "sa1b") == 1
    out = capsys.readouterr().out
    assert f"{photographs}/c.webp: a mask is of the size [30, 20]" in out
    assert f"{photographs}/d.bmp: has no masks: there is no d.json beside it" in out
    stored = members(tmp_path / "shards")
    assert stored["in/a.json"] == good.encode() and len(stored) == 6
    run(tool, photographs, "--output", tmp_path / "small", "--masks", "sa1b", "--size", 16)
    (small,) = regions_of(tmp_path / "small", "a.json")
    rows, columns = np.mgrid[:16, :24]
    assert (small == ((rows >= 4) & (rows < 12) & (columns >= 8) & (columns < 16))).all()


def test_a_run_that_was_stopped_goes_on(
    tool: ModuleType,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("--samples-per-shard", 2)
    run(tool, photographs, "--output", tmp_path / "whole", *command)
    output = tmp_path / "shards"
    original = making._make_shard

    def stop_at_the_third(folder: Path, name: str, contents: object) -> object:
        if name == "000002.tar":
            raise KeyboardInterrupt
        return original(folder, name, contents)

    monkeypatch.setattr(making, "_make_shard", stop_at_the_third)
    assert run(tool, photographs, "--output", output, *command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(tar_bytes(output)) == 2 and not (output / INDEX).exists()
    assert tool.main(["--index", str(output)]) == 2
    # As a process that is killed may leave it: half a line in the journal, and a shard that is not complete.
    (output / "000001.tar").write_bytes(b"")
    with (output / JOURNAL).open("a") as file:
        file.write('{"name": "0000')
    made = []
    monkeypatch.setattr(making, "_make_shard", lambda folder, name, c: made.append(name) or original(folder, name, c))
    assert run(tool, photographs, "--output", output, *command) == 0
    assert made == ["000001.tar", "000002.tar", "000003.tar"]
    assert tar_bytes(output) == tar_bytes(tmp_path / "whole")
    assert [s[1:] for s in find_shards(output)] == [s[1:] for s in find_shards(tmp_path / "whole")]
    assert run(tool, photographs, "--output", output, *command) == 0 and len(made) == 3


def test_a_folder_of_other_shards_is_refused(
    tool: ModuleType, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    run(tool, photographs, "--output", output)
    before = tar_bytes(output)
    assert run(tool, photographs, "--output", output, "--seed", 5, "--size", 16) == 2
    assert "made with other settings (size 0, not 16, seed 0, not 5)" in capsys.readouterr().err
    (output / JOURNAL).unlink()
    assert run(tool, photographs, "--output", output) == 2
    assert "has shards that were not made here, such as 000000.tar" in capsys.readouterr().err
    assert tar_bytes(output) == before


def test_a_run_without_a_shard_is_not_gone_on_with(
    tool: ModuleType, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    command = (photographs, "--output", output, "--samples-per-shard", 2, "--masks", "sa1b")
    assert run(tool, *command) == 2
    assert "none of 7 pictures can serve" in capsys.readouterr().err and not list(output.iterdir())
    # As a run leaves it that was killed after a shard without samples.
    making.Journal(output, {"seed": 3}).add(making.Finished("000000.tar", 0, 10240, [("a.jpg", "has no masks")]))
    row = {"segmentation": encode_mask(np.ones((20, 30), dtype=np.uint8))}
    for path in photographs.rglob("*.*"):
        if path.is_file():
            path.with_suffix(".json").write_text(json.dumps({"annotations": [row]}))
    assert run(tool, *command) == 0
    assert len(members(output)) == 14


def test_the_index_of_foreign_shards_is_written(
    tool: ModuleType, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    run(tool, photographs, "--output", output, "--samples-per-shard", 4)
    index = json.loads((output / INDEX).read_text())
    (output / INDEX).unlink()
    (output / JOURNAL).unlink()
    assert tool.main(["--index", str(output)]) == 0
    assert json.loads((output / INDEX).read_text()) == index
    assert "7 samples of images in 2 shards" in capsys.readouterr().out
    data = (output / "000001.tar").read_bytes()
    (output / "000001.tar").write_bytes(data[: len(data) // 2])
    assert tool.main(["--index", str(output)]) == 1
    assert "000001.tar: breaks off" in capsys.readouterr().out
    assert sum(shard.samples for shard in find_shards(output)) < 7
    assert len(list(islice(image_batches(output, batch_size=2, seed=0, sizes=(16,)), 3))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent", "--output", "out"), "absent: there is no such folder"),
        ((".", "--output", "out", "--masks", "regions:absent"), "there is no folder absent"),
        (("absent", "--output", "out", "--masks", "regions:gone"), "there is no folder gone"),
        (("--index", "absent"), "absent: no shards there"),
        (("empty", "--output", "out"), "no pictures in empty"),
        (("bad", "--output", "out"), "none of 1 pictures can serve; the first: bad/a.png: "),
    ],
)
def test_what_cannot_be_done_is_refused(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    assert run(tool, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / INDEX).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "are needed, or --index"),
        (("x",), "are needed, or --index"),
        (("x", "--index", "y"), "--index takes no other folders"),
        (("x", "--output", "y", "--masks", "coco"), "--masks is coco"),
        (("x", "--output", "y", "--masks", "regions:"), "--masks is regions:"),
        (("x", "--output", "y", "--ignore", "3"), "--ignore goes with"),
        (("x", "--output", "y", "--samples-per-shard", "0"), "--samples-per-shard"),
        (("x", "--output", "y", "--size", "8"), "--size is 8"),
        (("x", "--output", "y", "--quality", "0"), "--quality is 0"),
        (("x", "y", "--output", "./y"), "--output is y, which is read"),
        (("x", "--output", "y", "--masks", "regions:y"), "--output is y, which is read"),
    ],
)
def test_wrong_options_are_told(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(tool, *arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err
