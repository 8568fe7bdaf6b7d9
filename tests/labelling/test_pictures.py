"""Which pictures inputs stand for, and the names of their outputs."""

from __future__ import annotations

from pathlib import Path

from escnet.labelling.pictures import find_pictures, output_names


def test_globs_files_and_folders_stand_for_each_image_once(tmp_path: Path) -> None:
    photos = tmp_path
    for name in ("rgb.jpg", "rgba.png", "deep.png", "grey.png", "one.png", "wide.png"):
        (photos / name).touch()
    found = find_pictures([str(photos / "r*"), str(photos / "rgb.jpg"), str(photos), "absent*.png"])
    assert [p.name for p in found.files] == ["rgb.jpg", "rgba.png", "deep.png", "grey.png", "one.png", "wide.png"]
    assert found.missing == ["absent*.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_found(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    assert find_pictures([str(tmp_path / "a[1].png")]).files == [tmp_path / "a[1].png"]


def test_images_of_one_stem_do_not_overwrite_each_other() -> None:
    images = [Path(p) for p in ("a/x.jpg", "b/x.jpg", "b/X.png", "c/x_2.jpg", "y.png")]
    names = output_names(images)
    assert names == ["x", "x_3", "X_4", "x_2", "y"]
    assert len({name.casefold() for name in names}) == len(images)
