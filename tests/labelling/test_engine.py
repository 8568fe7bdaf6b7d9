"""What labelling writes, goes on with and leaves alone, with a stand-in for the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from escnet import Vocabulary
from escnet.labelling.engine import LabellingTask, Outcome, label_pictures
from escnet.labelling.pictures import LabellingError, find_pictures, output_names
from escnet.safe_files import DiskFullError
from escnet.segmentation_result import SegmentationResult

WORDS = Vocabulary(["cat", "dog"])
OTHER = Vocabulary(["sea", "sky", "sun"])


def segment(path: Path, vocabulary: Vocabulary, **_: Any) -> SegmentationResult:
    n = len(vocabulary.class_names)
    labels = np.zeros((4, 5), np.int32)
    scores = np.full((n, 4, 5), 1 / n, np.float32)
    return SegmentationResult(
        labels, scores[0], np.asarray(Image.open(path).convert("RGB")), vocabulary, class_scores=scores
    )


def label(folder: Path, output: Path | None = None, vocabulary: Vocabulary = WORDS, **options: Any) -> Outcome:
    pictures = find_pictures([str(folder)])
    origin = {"config": "c.yaml", "weights": None, "options": [], "value_range": None}
    task = LabellingTask(pictures, output_names(pictures.files), output or folder, vocabulary, origin, **options)
    return label_pictures(segment, task, lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (5, 4)).save(tmp_path / name)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_results_lie_beside_the_pictures_and_are_done(folder: Path) -> None:
    assert len(label(folder).seconds) == 2
    written = contents(folder)
    assert sorted(written) == sorted(f"{n}{s}" for n in "ab" for s in (".png", "_overlay.png", "_labels.png", ".json"))
    outcome = label(folder)
    assert (outcome.seconds, outcome.done_before) == ([], 2) and contents(folder) == written


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_what_ends_it_while_files_are_written_leaves_none_of_that_picture(
    folder: Path, end: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)

    def stop(*_: object) -> None:
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationResult, "save_labels", stop)
        try:
            assert len(label(folder).failures) == 2
        except end:
            assert end is not RuntimeError
    assert contents(folder) == before
    assert len(label(folder).seconds) == 2


def test_a_process_that_is_killed_while_files_are_written_leaves_no_inputs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationResult, "save_labels", kill)
        # Nothing is tidied up by a process that is killed.
        patch.setattr("tempfile.TemporaryDirectory.cleanup", lambda _: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            label(folder)
    assert len(label(folder).seconds) == 2


def test_a_full_disk_ends_it_and_the_older_result_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label(folder)
    before = contents(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", full)
        with pytest.raises(DiskFullError, match=r"a\.png: its results are not written"):
            label(folder, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr("escnet.segmentation_result.write_labels", full)
        with pytest.raises(DiskFullError, match=r"a\.png: its results are not written"):
            label(folder, vocabulary=OTHER, overwrite=True)
    assert contents(folder) == before


@pytest.mark.parametrize("text", ["[1, 2]", '{"shapes": []}', "{", "\udcff"])
def test_a_json_file_of_another_program_is_not_replaced(folder: Path, text: str) -> None:
    annotation = folder / "b.json"
    annotation.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = contents(folder)
    with pytest.raises(LabellingError, match=r"b\.json: is there, but is no report.*--overwrite"):
        label(folder)
    assert contents(folder) == before
    label(folder, overwrite=True)
    assert json.loads(annotation.read_text())["class_names"] == ["cat", "dog"]


def test_a_label_map_without_report_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    Image.new("L", (5, 4), 7).save(output / "a_labels.png")
    before = contents(output)
    with pytest.raises(LabellingError, match=r"a_labels\.png: is there, but no a\.json"):
        label(folder, output)
    assert contents(output) == before


def test_results_of_other_words_are_not_replaced_because_more_is_wanted(folder: Path) -> None:
    label(folder)
    before = contents(folder)
    with pytest.raises(LabellingError, match="made with other class_names"):
        label(folder, vocabulary=OTHER, save_scores=True)
    assert contents(folder) == before
    assert len(label(folder, save_scores=True).seconds) == 2
    with np.load(folder / "a_scores.npz") as saved:
        assert saved["scores"].shape == (2, 4, 5)


def test_no_scores_of_other_words_are_left_beside_a_new_result(folder: Path) -> None:
    label(folder, save_scores=True)
    label(folder, vocabulary=OTHER, overwrite=True)
    assert not list(folder.glob("*_scores.npz"))


def test_one_picture_named_in_two_ways_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label(folder)
    monkeypatch.chdir(folder.parent)
    assert label(Path(folder.name), folder).done_before == 2
