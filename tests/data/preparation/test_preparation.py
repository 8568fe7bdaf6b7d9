"""What the prepare scripts share: pairing, checks before writing, resumption, worker processes, the summary."""

from __future__ import annotations

import csv
import json
from concurrent.futures import Future
from copy import copy

import numpy as np
import pytest
from PIL import Image

from escnet.data.class_tables import load_class_names
from escnet.data.errors import DatasetError
from escnet.data.images import image_size, read_labels, write_labels
from escnet.data.pairing import Source, files_by_name, pair
from escnet.data.preparation.label_conversion import IdTable, Task
from escnet.data.preparation.making import Count, Recipe, make_all, shrink_image, shrink_labels, shrunk_size
from escnet.data.preparation.script import LabelSet, check, make, run_script
from escnet.data.registration import dataset_records
from escnet.safe_files import replacing
from escnet.worker_pool import worker_pool

# Raw ids of a COCO-Stuff label map and, worked out by hand, its train ids: thing 12 (stop sign) is the twelfth that is
# used, 91 (banner) the first of the stuff, 181 (wood) the last.
RAW = np.array([[0, 1, 181], [255, 12, 91]])
TRAIN_IDS = np.array([[0, 1, 170], [255, 11, 80]])
SIZE = 20


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with COCO-Stuff's val split as published: image i has the map above, moved by i columns."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for index in range(SIZE):
        name = f"{index:012}"
        write_labels(tmp_path / f"coco-stuff/annotations/val2017/{name}.png", np.roll(RAW, index, axis=1))
        with replacing(tmp_path / f"coco-stuff/images/val2017/{name}.jpg") as temporary:
            Image.new("RGB", (3, 2)).save(temporary, format="JPEG")
    return tmp_path


@pytest.fixture
def run(load_script, root, capsys):
    """Runs the script on the split; returns exit code, output and error output."""

    def run(*arguments: str) -> tuple[int, str, str]:
        defaults = [] if "--workers" in arguments else ["--workers", "1"]
        code = load_script("datasets/prepare_coco_stuff.py").main(["--splits", "val2017", *defaults, *arguments])
        return code, *capsys.readouterr()

    return run


def outputs(root):
    return root / "coco-stuff/annotations_detectron2/val2017"


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_every_label_map_and_the_summary(run, root):
    code, out, err = run()
    assert code == 0
    for index in range(SIZE):
        path = outputs(root) / f"{index:012}.png"
        np.testing.assert_array_equal(read_labels(path), np.roll(TRAIN_IDS, index, axis=1))
        assert Image.open(path).mode == "L"
    assert len(dataset_records("coco_stuff_val")) == SIZE
    assert f"coco_stuff_val: {SIZE} images ({SIZE} made, 0 already there); published: 5000, so this is not" in out
    assert "5 of 171 classes occur, 166 do not; 16.67% of the pixels are ignored" in out
    assert f"{SIZE}/{SIZE}" in err  # the progress bar


def test_reports_count_pixels(run, root):
    write_labels(root / "coco-stuff/annotations/val2017/000000000000.png", np.full((2, 3), 181))
    _, out, _ = run()
    report = json.loads((outputs(root) / "preparation.json").read_text())
    pixels = {"wood": SIZE + 5, "person": SIZE - 1, "bicycle": SIZE - 1, "stop sign": SIZE - 1, "banner": SIZE - 1}
    assert list(report["pixels_per_class"]) == list(load_class_names("coco_stuff_171.tsv"))
    assert {name: count for name, count in report["pixels_per_class"].items() if count} == pixels
    assert (report["images"], report["pixels"], report["ignored_pixels"]) == (SIZE, 6 * SIZE, SIZE - 1)
    assert (report["complete"], report["classes_that_do_not_occur"]) == (True, 166)
    with (outputs(root) / "preparation.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["train_id", "name", "pixels", "share"] and len(rows) == 1 + 171 + 1
    assert rows[171] == ["170", "wood", "25", "0.208333"] and rows[-1] == ["255", "(ignored)", "19", "0.158333"]
    shown = [line.split()[0] for line in out.splitlines() if line.endswith("%")]
    assert shown[0] == "wood" and len(shown) == 5  # the largest first


def test_the_second_run_changes_nothing(run, root):
    run()
    before, stamps = tree(outputs(root)), times(outputs(root))
    code, out, _ = run()
    assert code == 0 and f"(0 made, {SIZE} already there)" in out
    assert tree(outputs(root)) == before
    stamps.pop("preparation.csv")
    assert stamps.items() <= times(outputs(root)).items()


def test_what_is_missing_or_damaged_is_made_again(run, root):
    run()
    before, stamps = tree(outputs(root)), times(outputs(root))
    names = sorted(name for name in before if name.endswith(".png"))
    (outputs(root) / names[1]).unlink()
    (outputs(root) / names[2]).write_bytes(before[names[2]][:40])
    (outputs(root) / names[3]).write_bytes(b"")
    write_labels(outputs(root) / names[4], np.zeros((2, 4), int))  # of another size
    write_labels(outputs(root) / names[5], TRAIN_IDS, bits=16)
    write_labels(outputs(root) / names[6], np.full((2, 3), 171))  # no such class
    (outputs(root) / "preparation.json").unlink()  # as if the first run had been cut off
    code, out, _ = run()
    assert code == 0 and f"(6 made, {SIZE - 6} already there)" in out
    assert tree(outputs(root)) == before
    unchanged = [names[0], *names[7:]]
    assert all(times(outputs(root))[name] == stamps[name] for name in unchanged)


def test_several_processes_make_the_same(run, root):
    _, out, _ = run()
    before = tree(outputs(root))
    code, again, _ = run("--workers", "2", "--overwrite")
    assert code == 0 and again == out and tree(outputs(root)) == before
    (outputs(root) / "000000000007.png").unlink()
    assert "(1 made, 19 already there)" in run("--workers", "2")[1]
    assert tree(outputs(root)) == before


def test_a_failure_in_a_worker_process_names_the_file(run, root):
    # Of 20 files, 16 are tried before anything is written: 9 is not among them.
    write_labels(root / "coco-stuff/annotations/val2017/000000000009.png", np.full((2, 3), 12345), bits=16)
    code, _, err = run("--workers", "2")
    assert code == 1 and "coco-stuff/annotations/val2017/000000000009.png: has 16 bits" in err
    assert "Traceback" not in err
    assert (outputs(root) / "000000000000.png").is_file()  # so it was not found by a trial


def test_a_worker_that_dies_is_reported(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\n\n\ndef read(task):\n    os._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    read = __import__("deadly").read
    tasks = [Task(f"{name}.jpg", f"{name}.png", str(tmp_path / "out.png")) for name in "ab"]
    with (
        worker_pool(2, preload=__name__) as pool,
        pytest.raises(DatasetError, match=r"died at one of these 2 files: a.png, b.png; .*--w"),
    ):
        list(make_all(Recipe(read, 3, 255, 8), tasks, pool, ahead=4))


def test_unexpected_errors_name_the_file(tmp_path):
    with pytest.raises(DatasetError, match=r"a.png: cannot be converted \(ZeroDivisionError"):
        list(make_all(Recipe(lambda task: 1 // 0, 3, 255, 8), [Task("a.jpg", "a.png", "out.png")], None, 1))


def test_interrupting_keeps_what_is_finished(run, root, monkeypatch):
    apply, calls = IdTable.apply, []

    def interrupted(table, raw, path):
        calls.append(path)
        if len(calls) > 16 + 9:  # the files tried before, and then one more than a chunk
            raise KeyboardInterrupt
        return apply(table, raw, path)

    monkeypatch.setattr(IdTable, "apply", interrupted)
    code, _, err = run()
    assert code == 130 and "run again to continue" in err and "Traceback" not in err
    assert len(list(outputs(root).glob("*.png"))) == 9 and not list(outputs(root).glob(".*"))
    assert not json.loads((outputs(root) / "preparation.json").read_text())["complete"]
    monkeypatch.undo()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert f"({SIZE - 9} made, 9 already there)" in run()[1]


def test_overwriting_makes_all_anew(run, root):
    run()
    before, stamps = tree(outputs(root)), times(outputs(root))
    assert f"({SIZE} made, 0 already there)" in run("--overwrite")[1]
    assert tree(outputs(root)) == before
    assert all(times(outputs(root))[name] != stamps[name] for name in before)


def test_files_of_other_images_are_not_left_among_the_outputs(run, root):
    run()
    write_labels(outputs(root) / "stranger.png", TRAIN_IDS)
    for arguments in ([], ["--overwrite"]):
        code, _, err = run(*arguments)
        assert code == 1 and "1 files are not of this split: stranger; move them away" in err


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_report_is_an_error(run, root, text):
    run()
    (outputs(root) / "preparation.json").write_text(text)
    code, _, err = run()
    assert code == 1 and "preparation.json: is damaged" in err and "--overwrite" in err
    assert run("--overwrite")[0] == 0


def test_other_settings_are_refused(root, tmp_path):
    sources = {"a": Source(*(str(root / f"coco-stuff/{kind}/val2017/{0:012}.{suffix}")
                             for kind, suffix in (("images", "jpg"), ("annotations", "png"))))}  # fmt: skip

    def label_set(**settings) -> LabelSet:
        read = lambda task: read_labels(task.source) * 0  # noqa: E731
        return LabelSet("coco_stuff_val", tmp_path / "out", "coco-stuff", read, sources, settings=settings)

    make(label_set(way="one"), None, 1)
    check(label_set(way="one"))
    with pytest.raises(
        DatasetError, match=r'preparation.json: .*{"way": "one"}, not with {"way": "two"}; .*--overwrite'
    ):
        check(label_set(way="two"))
    check(label_set(way="two"), overwrite=True)


def test_missing_files_of_all_splits_are_told_before_anything_is_written(run, root, load_script, capsys):
    (root / "coco-stuff/annotations/val2017/000000000003.png").unlink()
    (root / "coco-stuff/images/val2017/000000000005.jpg").unlink()
    assert load_script("datasets/prepare_coco_stuff.py").main(["--workers", "1"]) == 1
    err = capsys.readouterr().err
    assert "train2017: no images found" in err and "--splits can leave out" in err
    assert "val2017: of 20 images, 1 without a photograph: 000000000005 and 1 without labels: 000000000003" in err
    assert not outputs(root).exists()


def test_no_folder_and_wrong_options(run, tmp_path, capsys):
    code, _, err = run("--root", str(tmp_path / "nowhere"))
    assert code == 1 and f"no folder {tmp_path / 'nowhere'}" in err
    for arguments in (["--workers", "0"], ["--splits", "val"]):
        with pytest.raises(SystemExit):
            run(*arguments)


def test_nothing_but_ignored_pixels_is_another_dataset(run, root):
    for path in (root / "coco-stuff/annotations/val2017").iterdir():
        write_labels(path, np.full((2, 3), 255))
    code, _, err = run()
    assert code == 1 and "000000000000.png and 15 others looked at: not one pixel of the 171 classes" in err
    assert not outputs(root).exists()


def test_the_root_is_an_option(run, root, tmp_path):
    (root / "coco-stuff").rename(root / "elsewhere")
    assert run("--root", str(root / "elsewhere"))[0] == 0
    assert (root / "elsewhere/annotations_detectron2/val2017/000000000000.png").is_file()


def test_files_by_name(tmp_path):
    for name in ("b.png", "a.png", "._a.png", "a.jpg"):
        (tmp_path / name).touch()
    assert list(files_by_name(tmp_path, ".png").items()) == [
        ("a", str(tmp_path / "a.png")),
        ("b", str(tmp_path / "b.png")),
    ]
    assert files_by_name(tmp_path / "nowhere", ".png") == {}


def test_pairing_by_a_list_leaves_the_others_out():
    images, labels = {name: f"{name}.jpg" for name in "abc"}, {name: f"{name}.png" for name in "bcd"}
    assert pair(images, labels, "x", ["c", "b"]) == {"b": Source("b.jpg", "b.png"), "c": Source("c.jpg", "c.png")}
    with pytest.raises(DatasetError, match=r"of 4 images, 1 without a photograph: d and 1 without labels: a; .* are x"):
        pair(images, labels, "x")
    with pytest.raises(DatasetError, match="no label files found; expected are x"):
        pair(images, {}, "x")


def test_id_table():
    table = IdTable.of({3: 0, 7: 1}, [0], 255, "three or seven")
    raw = np.array([[0, 3], [7, 7]], dtype=np.uint8)
    np.testing.assert_array_equal(table.apply(raw, "a.png"), [[255, 0], [1, 1]])
    for bad in (-1, 1, 8, 70000):
        with pytest.raises(ValueError, match=rf"a.png: unknown ids {bad}; expected three or seven"):
            table.apply(np.array([[3, bad]]), "a.png")
    others = IdTable.of({3: 0}, [], 255, "", others=255)
    np.testing.assert_array_equal(others.apply(np.array([[3, 4, 1000]]), "a.png"), [[0, 255, 255]])


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((512, 2000), 512, (512, 2000)),
        ((513, 513), 512, (512, 512)),
        ((1650, 2200), 512, (512, 683)),  # 682.67
        ((2200, 1650), 512, (683, 512)),
        ((1024, 1025), 512, (512, 512)),  # 512.5 rounds to the even number, as Python does
        ((600, 900), 0, (600, 900)),
    ],
)
def test_shrunk_size(size, short_side, expected):
    assert shrunk_size(size, short_side) == expected


def test_labels_are_shrunk_by_the_pixel_at_the_upper_left():
    labels = np.arange(7 * 10).reshape(7, 10)
    expected = [[labels[int(i * 7 / 3), int(j * 10 / 4)] for j in range(4)] for i in range(3)]
    np.testing.assert_array_equal(shrink_labels(labels, (3, 4)), expected)


def test_images_are_shrunk_bilinearly_without_smoothing():
    image = np.random.default_rng(0).integers(0, 256, (11, 17, 3)).astype(np.uint8)
    expected = np.zeros((5, 6, 3))
    for i in range(5):
        for j in range(6):
            y, x = (i + 0.5) * 11 / 5 - 0.5, (j + 0.5) * 17 / 6 - 0.5
            top, left = int(y), int(x)
            wy, wx = y - top, x - left
            patch = image[top : top + 2, left : left + 2].astype(float)
            expected[i, j] = np.einsum("y,x,yxc->c", [1 - wy, wy], [1 - wx, wx], patch)
    shrunk = shrink_image(image, (5, 6))
    assert shrunk.dtype == np.uint8
    assert np.abs(shrunk - expected).max() < 0.51


def test_image_size_is_upright_unless_told_otherwise(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(str(tmp_path / "a.jpg")) == (5, 3) and image_size(str(tmp_path / "a.jpg"), upright=False) == (
        3,
        5,
    )
    Image.new("RGB", (5, 3)).save(tmp_path / "b.jpg")
    assert image_size(str(tmp_path / "b.jpg")) == (3, 5)


def test_a_pool_is_handed_a_few_chunks_at_a_time(tmp_path):
    listed, done = [], Future()
    done.set_result(Count(np.array([5, 0, 0, 1]), made=8))

    class Pool:
        def submit(self, function, recipe, chunk):
            return copy(done)

    def tasks():
        for index in range(99):
            listed.append(index)
            yield Task("a.jpg", f"{index}.png", "out.png")

    counts = make_all(Recipe(len, 3, 255, 8), tasks(), Pool(), ahead=2)
    next(counts)
    assert len(listed) == 16
    assert sum((count.made for count in counts), 8) == 13 * 8


def test_run_script_lists_its_options(capsys):
    with pytest.raises(SystemExit):
        run_script("what it does", "coco-stuff", ("a", "b"), lambda options, split: [], ["--help"])
    out = capsys.readouterr().out
    assert all(option in out for option in ("--root", "--splits", "--workers", "--overwrite", "what it does"))
