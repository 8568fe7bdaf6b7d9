"""What labelling writes, goes on with and leaves alone, with a stand-in for the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from escnet import Vocabulary
from escnet.data.images import read_image
from escnet.labelling.engine import LabellingTask, Outcome, label_pictures
from escnet.labelling.pictures import LabellingError, find_pictures, output_names
from escnet.safe_files import DiskFullError
from escnet.segmentation_result import SegmentationResult
from escnet.word_prompts import PromptError, WordPrompts

WORDS = Vocabulary(["cat", "dog"])
OTHER = Vocabulary(["sea", "sky", "sun"])


def segment(path: Path, vocabulary: Vocabulary, pixels: np.ndarray | None = None, **_: Any) -> SegmentationResult:
    pixels = np.asarray(Image.open(path).convert("RGB")) if pixels is None else pixels
    n = len(vocabulary.class_names)
    labels = np.zeros(pixels.shape[:2], np.int32)
    scores = np.full((n, *labels.shape), 1 / n, np.float32)
    return SegmentationResult(labels, scores[0], pixels, vocabulary, class_scores=scores)


class StandIn:
    """In the place of a `Segmenter`; notes how many pictures shared each pass, of which it has room for `room`."""

    def __init__(self, room: int = 9, error: type[Exception] = RuntimeError) -> None:
        self.room, self.error = room, error
        self.passes: list[int] = []
        self.prompts: dict[str, Any] = {}

    def __call__(self, path: Path, vocabulary: Vocabulary, prompts: Any = None, **_: Any) -> SegmentationResult:
        pixels = self.preprocess(path)
        self.passes.append(1)
        self.prompts[path.name] = prompts
        return segment(path, vocabulary, pixels=pixels)

    def preprocess(self, path: Path, *_: Any) -> np.ndarray:
        return read_image(path)

    def batch(self, pictures: list[np.ndarray], vocabulary: Vocabulary) -> list[SegmentationResult]:
        if len(pictures) > self.room:
            raise self.error("out of memory")
        self.passes.append(len(pictures))
        return [segment(Path(), vocabulary, pixels=pixels) for pixels in pictures]


def label(
    folder: Path,
    output: Path | None = None,
    vocabulary: Vocabulary = WORDS,
    segmenter: Any = segment,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Outcome:
    pictures = find_pictures([str(folder)])
    origin = {"config": "c.yaml", "weights": None, "options": [], "value_range": None}
    task = LabellingTask(pictures, output_names(pictures.files), output or folder, vocabulary, origin, **options)
    return label_pictures(segmenter, task, say)


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


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Five pictures of different sizes, of which the third is broken."""
    folder = tmp_path / "five"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (5 + number, 4), (40 * number, 0, 0)).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:50])
    return folder


def reports(folder: Path) -> dict[str, dict[str, Any]]:
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return {name: {key: value for key, value in report.items() if key != "seconds"} for name, report in found.items()}


def test_batches_write_what_pictures_in_turn_write(five: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder, size, passes in ((alone, 1, [1, 1, 1, 1]), (together, 3, [2, 2])):
        folder.mkdir()
        segmenter, lines = StandIn(), []
        outcome = label(five, folder, segmenter=segmenter, say=lines.append, batch_size=size)
        assert segmenter.passes == passes and len(outcome.seconds) == 4
        assert [Path(path).name for path, _ in outcome.failures] == ["2.png"]
        assert [line.split("]")[0] for line in lines] == [f"[{number}/5" for number in range(1, 6)]
        assert lines[2].endswith("2.png  FAILED")
    assert reports(alone) == reports(together) and len(reports(alone)) == 4
    for path in alone.glob("*.png"):
        assert path.read_bytes() == (together / path.name).read_bytes()


def test_a_batch_is_gone_on_with_in_batches_of_another_size(five: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    assert len(label(five, output, segmenter=StandIn(), batch_size=2).seconds) == 4
    for path in output.glob("[13]*"):
        path.unlink()
    segmenter = StandIn()
    outcome = label(five, output, segmenter=segmenter, batch_size=4)
    assert segmenter.passes == [2] and (len(outcome.seconds), outcome.done_before) == (2, 2)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_batch_without_room_is_taken_apart(five: Path, error: type[Exception]) -> None:
    segmenter, lines = StandIn(room=2, error=error), []
    outcome = label(five, segmenter=segmenter, say=lines.append, batch_size=5)
    assert segmenter.passes == [1, 1, 1, 1] and len(outcome.seconds) == 4 and len(outcome.failures) == 1
    assert "cannot be segmented in one pass (out of memory)" in lines[0] and len(lines) == 6


def test_a_batch_of_broken_pictures_fails_as_a_whole(five: Path) -> None:
    for path in five.glob("*.png"):
        path.write_text("no picture")
    outcome = label(five, segmenter=StandIn(), batch_size=3)
    assert not outcome.seconds and len(outcome.failures) == 5


def test_a_report_and_a_line_say_how_many_words_were_considered(folder: Path) -> None:
    class Few(StandIn):
        def __call__(self, path: Path, vocabulary: Vocabulary, *_: Any, **__: Any) -> SegmentationResult:
            return replace(super().__call__(path, vocabulary), considered=2)

    lines: list[str] = []
    label(folder, vocabulary=OTHER, segmenter=Few(), say=lines.append)
    report = json.loads((folder / "a.json").read_text())
    assert (report["words"], report["words_considered"]) == (3, 2)
    assert "(2 of 3 words considered)" in lines[0]
    label(folder, segmenter=StandIn(), say=lines.append, overwrite=True)
    assert "considered" not in lines[-1]


def test_a_batch_without_pictures_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="batch size is 0"):
        label(folder, batch_size=0)


def test_a_picture_with_prompts_has_a_pass_of_its_own(five: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    point = {"cat": WordPrompts([(1, 2)])}
    segmenter, lines = StandIn(), []
    prompts = {five / "1.png": point, five / "2.png": point}
    outcome = label(five, output, segmenter=segmenter, say=lines.append, batch_size=4, prompts=prompts)
    # Of the first four the third is broken.
    assert segmenter.passes == [2, 1, 1] and segmenter.prompts == {"1.png": point, "4.png": None}
    assert len(outcome.seconds) == 4 and [Path(path).name for path, _ in outcome.failures] == ["2.png"]
    assert [line.split("]")[0] for line in lines] == [f"[{number}/5" for number in range(1, 6)]
    found = reports(output)
    assert found["1.json"]["prompts"] == {"cat": {"points": [[1, 2]], "labels": [1]}}
    assert "prompts" not in found["0.json"] and Image.open(output / "1_labels.png").size == (6, 4)


def test_other_prompts_are_other_results(folder: Path, tmp_path: Path) -> None:
    mask = tmp_path / "masks" / "cat.png"
    mask.parent.mkdir()
    Image.new("L", (5, 4), 1).save(mask)
    output = tmp_path / "out"
    output.mkdir()
    first = {folder / "a.png": {"cat": WordPrompts([(1, 2.5)], mask=mask), "dog": WordPrompts(box=(0, 0, 2.5, 3))}}
    assert len(label(folder, output, prompts=first).seconds) == 2
    assert label(folder, output, prompts=first).done_before == 2
    before = contents(output)
    for others in (
        {},
        {folder / "a.png": {**first[folder / "a.png"], "dog": WordPrompts(box=(0, 0, 3, 3))}},
        {**first, folder / "b.png": {"cat": WordPrompts([(1, 2)])}},
    ):
        with pytest.raises(LabellingError, match=r"[ab]\.json: was made with other prompts; .*--overwrite"):
            label(folder, output, prompts=others)
    Image.new("L", (5, 4), 2).save(mask)
    with pytest.raises(LabellingError, match=r"a\.json: was made with other prompts"):
        label(folder, output, prompts=first)
    assert contents(output) == before
    assert len(label(folder, output, prompts={}, overwrite=True).seconds) == 2
    assert label(folder, output).done_before == 2


def test_prompts_that_do_not_fit_a_picture_are_its_failure(folder: Path) -> None:
    def refuse(path: Path, vocabulary: Vocabulary, prompts: Any = None, **_: Any) -> SegmentationResult:
        if prompts:
            raise PromptError('the prompts of "cat": the point (9, 9) is outside the image')
        return segment(path, vocabulary)

    outcome = label(folder, segmenter=refuse, prompts={folder / "a.png": {"cat": WordPrompts([(9, 9)])}})
    assert outcome.failures == [(str(folder / "a.png"), 'the prompts of "cat": the point (9, 9) is outside the image')]
    assert len(outcome.seconds) == 1


def test_the_pages_of_a_tiff_are_segmented_each(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pages = [Image.new("RGB", (5 + number, 4)) for number in range(3)]
    pages[0].save(tmp_path / "in" / "scan.tif", save_all=True, append_images=pages[1:])
    for batch_size in (1, 2):
        output = tmp_path / f"out{batch_size}"
        output.mkdir()
        outcome = label(tmp_path / "in", output, segmenter=StandIn(), batch_size=batch_size)
        assert len(outcome.seconds) == 3 and not outcome.failures
        for number in range(3):
            report = json.loads((output / f"scan_page000{number + 1}.json").read_text())
            assert report["width"] == 5 + number
            assert report["image"] == f"{tmp_path / 'in' / 'scan.tif'}#page={number + 1}"
            assert Image.open(output / f"scan_page000{number + 1}_labels.png").size == (5 + number, 4)
        assert label(tmp_path / "in", output, segmenter=StandIn()).done_before == 3


def test_a_label_map_lies_where_its_picture_does_and_no_longer(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(2, 0, 10, 0, -2, 20), "nodata": 0}
    pixels = np.full((3, 4, 5), 9, np.uint8)
    pixels[:, 1, 2] = 0
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = tmp_path / "in" / "field.tif"
    with rasterio.open(source, "w", driver="GTiff", width=5, height=4, count=3, dtype="uint8", **place) as file:
        file.write(pixels)
    assert not label(tmp_path / "in", tmp_path / "out", segmenter=StandIn()).failures
    with rasterio.open(tmp_path / "out" / "field_labels.png") as labels:
        assert labels.crs == place["crs"] and labels.transform == place["transform"] and labels.nodata == 255
        np.testing.assert_array_equal(labels.read(1) == 255, pixels[0] == 0)
    assert json.loads((tmp_path / "out" / "field.json").read_text())["no_data"] == 255
    # Another picture in its place must not lie where the first one did.
    Image.new("RGB", (5, 4)).save(source)
    label(tmp_path / "in", tmp_path / "out", segmenter=StandIn(), overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "field.json", "field_labels.png", "field_overlay.png"}  # fmt: skip
    assert "no_data" not in json.loads((tmp_path / "out" / "field.json").read_text())
