"""datasets/prepare_camvid.py: links and copies, both layouts, and the refusal of faulty sources."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import read_labels, write_labels
from escnet.data.registration import dataset_records


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("copy", [False, True])
def test_links_or_copies_and_again(camvid_root, tmp_path, monkeypatch, capsys, load_script, copy):
    main = load_script("datasets/prepare_camvid.py").main
    source, output = camvid_root / "camvid", tmp_path / "root/camvid"
    arguments = ["--source", str(source), "--output", str(output), *(["--copy"] if copy else [])]
    for _ in range(2):
        assert main(arguments) == 0
        assert tree(output) == tree(source)
    assert (output / "images/train/0.png").is_symlink() != copy
    assert "5 train, 3 val images" in capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    assert len(dataset_records("camvid_train")) == 5


def test_the_layout_of_segnet(camvid_root, tmp_path, load_script):
    segnet = tmp_path / "segnet"
    segnet.mkdir()
    for split in ("train", "val"):
        (camvid_root / "camvid/images" / split).rename(segnet / split)
        (camvid_root / "camvid/annotations" / split).rename(segnet / f"{split}annot")
    assert (
        load_script("datasets/prepare_camvid.py").main(["--source", str(segnet), "--output", str(tmp_path / "out")])
        == 0
    )
    np.testing.assert_array_equal(
        read_labels(tmp_path / "out/annotations/val/1.png"), read_labels(segnet / "valannot/1.png")
    )


def test_summary_counts_pixels(camvid_root, tmp_path, capsys, load_script):
    for path in (camvid_root / "camvid/annotations").rglob("*.png"):
        labels = np.zeros((12, 16), int)
        labels[:3] = 11
        write_labels(path, labels)
    load_script("datasets/prepare_camvid.py").main(
        ["--source", str(camvid_root / "camvid"), "--output", str(tmp_path / "out")]
    )
    assert "ignored 25.0%; sky 75.0%, building 0.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no folder", "images/train and annotations/train or train and trainannot"),
        ("no files", "no PNG images found"),
        ("no partner", "1 files without a partner, such as 2.png"),
        ("other size", "2.png: 3x4 pixels, its image 12x16"),
        ("unknown id", "2.png: id 12"),
        ("broken", "2.png: is truncated"),
    ],
)
def test_faulty_sources_are_refused_and_nothing_is_written(camvid_root, tmp_path, capsys, load_script, fault, message):
    source, output = camvid_root / "camvid", tmp_path / "out"
    image, labels = source / "images/train/2.png", source / "annotations/train/2.png"
    if fault == "no folder":
        source = tmp_path / "nowhere"
    elif fault == "no files":
        for path in image.parent.iterdir():
            path.unlink()
    elif fault == "no partner":
        labels.unlink()
    elif fault == "other size":
        write_labels(labels, np.zeros((3, 4), int))
    elif fault == "unknown id":
        write_labels(labels, np.full((12, 16), 12))
    elif fault == "broken":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)).save(image)
        image.write_bytes(image.read_bytes()[:200])
    assert load_script("datasets/prepare_camvid.py").main(["--source", str(source), "--output", str(output)]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()
