"""tools/check_dataset.py as a user starts it: a sound dataset, one of each fault, and one that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from escnet.data.errors import DatasetError
from escnet.data.images import write_labels
from escnet.data.inspection import draw_samples, inspect_dataset, spread
from escnet.data.registration import dataset_records

TOOL = Path(__file__).parents[2] / "tools" / "check_dataset.py"


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/check_dataset.py")


@pytest.fixture
def ade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures in the layout of ADE20K-150: ids 0, 1 and 149, and a quarter ignored."""
    images = tmp_path / "ADEChallengeData2016/images/validation"
    labels = tmp_path / "ADEChallengeData2016/annotations_detectron2/validation"
    images.mkdir(parents=True)
    for index, size in enumerate([(8, 12), (8, 12), (10, 6)]):
        Image.new("RGB", size[::-1], (40 * index, 90, 60)).save(images / f"ADE_val_{index}.jpg")
        ids = np.full(size, (0, 1, 149)[index], dtype=np.uint8)
        ids[: size[0] // 2, : size[1] // 2] = 255
        write_labels(labels / f"ADE_val_{index}.png", ids)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return labels


def test_counts_and_verdict_of_a_sound_dataset(ade, tool, capsys):
    assert tool.main(["a150", "--workers", "2"]) == 0
    output = capsys.readouterr().out
    assert "ade20k_150_val: 3 images, 3 of them looked at; 150 classes" in output
    assert "2 different; the most frequent: 12x8 (2), 6x10 (1)" in output and "3 of 8 bits" in output
    # 2 x 96 + 60 pixels, of which a quarter is ignored.
    assert "149  flag" in output and "(not labelled)        63  25.000%" in output and "72  28.571%" in output
    assert "warning: 3 images; the published split has 2000" in output
    assert "147 of 150 classes do not occur" in output
    assert "verdict: ade20k_150_val is as it should be, apart from the warnings" in output
    with Image.open("ade20k_150_val_samples.jpg") as picture:
        assert picture.width == 1000


def test_a_sample_is_spread_over_the_dataset(ade, tool, capsys):
    assert spread(list("abcdefg"), 3) == ["a", "d", "g"] and spread(["a"], 3) == ["a"]
    found = inspect_dataset("ade20k_150_val", limit=2)
    assert found.images == 2 and found.available == 3 and found.pixels[149] == 45
    assert tool.main(["a150", "--limit", "2", "--samples", "0"]) == 0
    assert "3 images, 2 of them looked at" in capsys.readouterr().out
    assert not list(Path().glob("*.jpg"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: write_labels(file, np.full((8, 12), 150)), "unknown ids 150; known are 0..149 and 255"),
        (lambda file: write_labels(file, np.zeros((12, 8), int)), "12x8 pixels (height x width), its image 8x12"),
        (
            lambda file: write_labels(file, np.zeros((8, 12), int), bits=16),
            "{16: 1, 8: 2} (bits: files), but should be",
        ),
        (lambda file: file.write_bytes(file.read_bytes()[:40]), "ADE_val_0.png: is not an image of a known format"),
        (lambda file: Image.new("RGB", (12, 8)).save(file), "has the mode RGB"),
    ],
)
def test_faults_end_with_code_1(ade, tool, capsys, spoil, message):
    spoil(ade / "ADE_val_0.png")
    assert tool.main(["a150"]) == 1
    output = capsys.readouterr().out
    assert message in output and "verdict: ade20k_150_val cannot be used as it is" in output


def test_nothing_labelled_is_a_fault(ade):
    for file in ade.iterdir():
        write_labels(file, np.full(np.array(Image.open(file)).shape, 255))
    found = inspect_dataset("ade20k_150_val")
    assert found.ignored_share == 1 and found.faults == ["not a pixel is labelled: all have the ignored id 255"]


def test_a_dataset_that_is_not_there_ends_with_code_2(ade, tool, capsys):
    assert tool.main(["a847"]) == 2
    assert "prepare_ade20k_847.py" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["a150", "--limit", "0"])


def test_a_folder_of_the_user(tmp_path, tool, capsys):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "images/a.png")
    write_labels(tmp_path / "labels/a.png", np.eye(6, 8, dtype=int))
    (tmp_path / "classes.txt").write_text("cat\ngrass, lawn\n")
    assert tool.main([f"folder:{tmp_path}", "--picture", str(tmp_path / "p.jpg")]) == 0
    output = capsys.readouterr().out
    assert "grass, lawn" in output and "warning" not in output and (tmp_path / "p.jpg").is_file()


def test_samples_show_the_ignored_pixels_too(ade):
    assert draw_samples("ade20k_150_val", 2).height > draw_samples("ade20k_150_val", 1).height > 300


def test_a_folder_of_mixed_depths(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, bits in (("a", 8), ("b", 16)):
        Image.new("RGB", (8, 6)).save(tmp_path / f"images/{name}.png")
        write_labels(tmp_path / f"labels/{name}.png", np.zeros((6, 8), int), bits=bits)
    (tmp_path / "classes.txt").write_text("cat\n")
    assert inspect_dataset(f"folder:{tmp_path}").faults == [
        "the label maps are {8: 1, 16: 1} (bits: files), but should be of one kind"
    ]


def photograph_folder(root: Path, labels: np.ndarray, classes: str = "cat\ngrass\n", **saving) -> str:
    """A folder with one photograph of (6,8) stored pixels and its label map."""
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    Image.new("RGB", (8, 6)).save(root / "images/a.jpg", **saving)
    write_labels(root / "labels/a.png", labels)
    (root / "classes.txt").write_text(classes)
    return f"folder:{root}"


def exif_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("Road\nroad\n", 'classes.txt: class 1, "road", is the same as class 0'),
        ("car,,auto\nroad\n", 'classes.txt: class 0, "car,,auto", has an empty synonym'),
        ("car, Car\nroad\n", 'classes.txt: class 0, "car, Car", has the synonym "Car" twice'),
    ],
)
def test_words_that_make_no_vocabulary_end_with_code_2(tmp_path, tool, capsys, classes, message):
    name = photograph_folder(tmp_path, np.eye(6, 8, dtype=int), classes)
    assert tool.main([name]) == 2
    assert message in capsys.readouterr().err


def test_words_that_are_too_long_for_the_text_encoder(tmp_path, tool, capsys):
    name = photograph_folder(tmp_path, np.eye(6, 8, dtype=int), f"cat\n{'grass ' * 80}\n")
    assert tool.main([name]) == 1
    output = capsys.readouterr().out
    assert "is too long" in output and "needs 86 tokens, and the text encoder takes 77" in output
    assert output.count("is too long") == 1  # the two lists of names are one


def test_classes_of_a_registered_dataset(ade):
    records = [{**record, "dataset": "of_a_user"} for record in dataset_records("ade20k_150_val")]
    DatasetCatalog.register("of_a_user", lambda: records)
    try:
        MetadataCatalog.get("of_a_user").set(stuff_classes=["Road", *map(str, range(148)), "road"], ignore_label=255)
        with pytest.raises(DatasetError, match=r'of_a_user: class 149, "road", is the same as class 0.*stuff_classes'):
            inspect_dataset("of_a_user")
        MetadataCatalog.remove("of_a_user")
        MetadataCatalog.get("of_a_user").set(stuff_classes=list(map(str, range(150))), ignore_label=255)
        assert not inspect_dataset("of_a_user").faults
        # A record of no known dataset, which training refuses.
        del records[1]["dataset"]
        (fault,) = inspect_dataset("of_a_user").faults
        assert "ADE_val_1.jpg: the record is of the dataset None" in fault
    finally:
        DatasetCatalog.remove("of_a_user")
        MetadataCatalog.remove("of_a_user")


def test_binary_masks(tmp_path, tool, capsys):
    masks = np.zeros((6, 8), int)
    masks[2:] = 255
    name = photograph_folder(tmp_path, masks)
    assert tool.main([name]) == 1
    assert "FAULT: the label maps hold only 0 (cat) and 255 (ignored): are these binary masks?" in (
        capsys.readouterr().out
    )
    # A part of a dataset may hold no more.
    found = inspect_dataset(f"{name}[:1]")
    assert not found.faults and "binary masks?" in found.warnings[0]


def test_one_class_may_look_like_binary_masks(tmp_path):
    masks = np.zeros((6, 8), int)
    masks[2:] = 255
    found = inspect_dataset(photograph_folder(tmp_path, masks, "cat\n"))
    assert not found.faults and "binary masks?" in found.warnings[0]


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_photographs_that_exif_data_turn(tmp_path, tool, capsys, orientation):
    name = photograph_folder(tmp_path, np.eye(6, 8, dtype=int), exif=exif_orientation(orientation))
    assert tool.main([name, "--samples", "0"]) == 0
    output = capsys.readouterr().out
    assert "warning: 1 photographs have an EXIF orientation, and their label maps none" in output
    assert "a.jpg" in output and "labels have to fit the upright photograph" in output
    assert "apart from the warnings" in output


def test_sizes_tell_whether_the_labels_are_upright(tmp_path):
    name = photograph_folder(tmp_path, np.eye(8, 6, dtype=int), exif=exif_orientation(6))
    found = inspect_dataset(name)
    assert not found.faults and not found.turned
    write_labels(tmp_path / "labels/a.png", np.eye(6, 8, dtype=int))
    (fault,) = inspect_dataset(name).faults
    assert "upright by its EXIF orientation: the labels have to be turned likewise" in fault


def test_labels_with_the_orientation_of_their_photograph(tmp_path):
    name = photograph_folder(tmp_path, np.eye(6, 8, dtype=int), exif=exif_orientation(3))
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(tmp_path / "labels/a.png", exif=exif_orientation(3))
    assert not inspect_dataset(name).turned
