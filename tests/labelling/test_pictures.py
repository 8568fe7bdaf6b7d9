"""Which pictures inputs stand for, and the names of their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from escnet.labelling.pictures import LabellingError, find_pictures, output_names


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


def test_what_a_labelling_wrote_is_no_input_in_any_way_in(tmp_path: Path) -> None:
    written = ["a_overlay.png", "a_labels.png", "a_prompts.png", "a_scores.npz", "a.json"]
    for name in ("a.jpg", *written, "b_overlay.png", "notes.json"):
        (tmp_path / name).touch()
    expanded = [str(path) for path in tmp_path.iterdir() if path.name != "notes.json"]
    for inputs in ([str(tmp_path)], [str(tmp_path / "[ab]*")], expanded):
        found = find_pictures(inputs)
        assert sorted(path.name for path in found.files) == ["a.jpg", "b_overlay.png"]
        assert found.outputs == len(written) and not found.missing
    assert find_pictures([str(tmp_path)]).skipped == {".json": 1}
    with pytest.raises(LabellingError, match="an earlier labelling wrote: 1"):
        find_pictures([str(tmp_path / "a_overlay.png")])


def test_a_folder_that_links_to_the_one_above_is_looked_into_once(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "photo.png").touch()
    (tmp_path / "deep" / "deeper" / "up").symlink_to(tmp_path)
    found = find_pictures([str(tmp_path)], recursive=True)
    assert found.files == [tmp_path / "deep" / "photo.png"]


def test_a_name_with_a_tilde_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~no such user.png").touch()
    assert find_pictures(["~no such user.png"]).files == [Path("~no such user.png")]
