"""Results image by image: written line by line, read back, repaired after a kill, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import zlib

import numpy as np
import pytest

from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics
from escnet.evaluation.runs.image_results import ImageResult, ImageResults, ResultsError


def result(image: str, entries: list[list[int]], truth: int = 7) -> ImageResult:
    return ImageResult(image, 4, 5, 0.25, np.array(entries, dtype=np.int64).reshape(-1, 3), truth)


def test_counting_by_hand():
    truth = np.array([[0, 1, 255], [1, 1, 0]], dtype=np.uint8)
    one = ImageResult.count("a", np.array([[0, 1, 2], [2, 1, 0]]), truth, 3, 255, seconds=0.5)
    assert (one.image, one.height, one.width, one.seconds) == ("a", 2, 3, 0.5)
    assert one.entries.tolist() == [[0, 0, 2], [1, 1, 2], [1, 2, 1]]


def test_the_checksum_is_of_the_ids_and_not_of_their_bits():
    prediction, truth = np.zeros((2, 3), int), np.array([[0, 1, 2], [2, 1, 255]])

    def checksum(labels: np.ndarray) -> int:
        return ImageResult.count("a", prediction, labels, 3, 255).truth

    assert checksum(truth.astype(np.uint8)) == checksum(truth.astype(np.uint16)) == checksum(truth)
    assert checksum(truth) == zlib.crc32(bytes([0, 0, 1, 0, 2, 0, 2, 0, 1, 0, 255, 0]))
    assert checksum(truth[::-1]) != checksum(truth)


def test_written_and_read_back(tmp_path):
    results = ImageResults(tmp_path / "run")
    assert list(results) == [] and results.images() == set()
    results.add(result("b/ü", [[0, 1, 6], [1, 1, 14]]))
    results.add(result("a", []))
    results.close()
    other = ImageResults(tmp_path / "run")
    other.add(result("c", [[2, 2, 20]], truth=9), rank=1)
    other.close()
    read = {one.image: one for one in ImageResults(tmp_path / "run")}
    assert list(read) == ["b/ü", "a", "c"]
    assert read["b/ü"].entries.tolist() == [[0, 1, 6], [1, 1, 14]] and read["a"].entries.shape == (0, 3)
    assert (read["c"].height, read["c"].width, read["c"].seconds, read["c"].truth) == (4, 5, 0.25, 9)
    confusion = ImageResults(tmp_path / "run").confusion(3)
    assert confusion.counts.tolist() == [[0, 6, 0], [0, 14, 0], [0, 0, 20]]


def test_words_that_were_looked_at_are_read_back_and_older_lines_do_not_say_it(tmp_path):
    counted = ImageResult.count("a", np.zeros((2, 3), int), np.zeros((2, 3), int), 3, 255, 0.5, words_considered=2)
    assert counted.words_considered == 2
    results = ImageResults(tmp_path)
    for one in (counted, result("b", [[0, 0, 20]])):
        results.add(one)
    results.close()
    file = tmp_path / "images.0.jsonl"
    assert [json.loads(line).get("words_considered", "-") for line in file.read_text().splitlines()] == [2, "-"]
    assert [one.words_considered for one in ImageResults(tmp_path)] == [2, None]
    file.write_text(file.read_text().replace('"words_considered":2', '"words_considered":"few"'))
    with pytest.raises(ResultsError, match=r"images\.0\.jsonl, line 1: is damaged"):
        list(ImageResults(tmp_path))


def test_every_result_is_on_disk_at_once(tmp_path):
    results = ImageResults(tmp_path)
    for number in range(3):
        results.add(result(str(number), [[0, 0, 1]]))
        assert len(ImageResults(tmp_path).images()) == number + 1


def test_a_line_that_a_kill_cut_off_is_removed(tmp_path):
    results = ImageResults(tmp_path)
    for name in ("a", "b"):
        results.add(result(name, [[0, 0, 20]]))
    results.close()
    file = tmp_path / "images.0.jsonl"
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2 + 4):
        file.write_bytes(whole[:length])
        ImageResults(tmp_path).repair()
        assert ImageResults(tmp_path).images() == {"a"}
    file.write_bytes(whole[:5])
    ImageResults(tmp_path).repair()
    assert ImageResults(tmp_path).images() == set() and file.stat().st_size == 0
    file.write_bytes(whole)
    ImageResults(tmp_path).repair()
    assert file.read_bytes() == whole


def test_damaged_lines_are_named(tmp_path):
    (tmp_path / "images.0.jsonl").write_text('{"image": "a"}\n')
    with pytest.raises(ResultsError, match=r"images\.0\.jsonl, line 1: is damaged"):
        list(ImageResults(tmp_path))


def test_an_image_that_occurs_twice_is_refused(tmp_path):
    for rank in (0, 1):
        results = ImageResults(tmp_path)
        results.add(result("a", [[0, 0, 1]]), rank)
        results.close()
    with pytest.raises(ResultsError, match=r"images\.1\.jsonl, line 1: a second result of the image 'a'"):
        ImageResults(tmp_path).images()


def test_results_of_other_classes_name_the_image(tmp_path):
    results = ImageResults(tmp_path)
    results.add(result("a", [[0, 5, 1]]))
    with pytest.raises(ResultsError, match=r"image 'a': entries with classes outside 0\.\.4"):
        results.confusion(5)


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_an_image_are_those_of_its_matrix(random_maps, seed):
    confusion = ConfusionMatrix(12, 255)
    confusion.update(*random_maps(12, 255, seed))
    metrics = semantic_metrics(confusion, [str(number) for number in range(12)])
    one = result("a", confusion.entries().tolist())
    assert one.miou() == pytest.approx(metrics.miou, rel=1e-12)
    assert one.pixel_accuracy() == pytest.approx(metrics.pixel_accuracy, rel=1e-12)


@pytest.mark.parametrize("scored", [(0, 5), (3, 9), (4, 12)])
def test_scores_of_a_part_of_the_classes_are_those_of_the_matrix(random_maps, scored):
    confusion = ConfusionMatrix(12, 255)
    confusion.update(*random_maps(12, 255, seed=1))
    metrics = semantic_metrics(confusion, [str(number) for number in range(12)], scored)
    one = result("a", confusion.entries().tolist())
    assert one.miou(scored) == pytest.approx(metrics.miou, rel=1e-12) and one.miou(scored) != one.miou()


def test_an_image_without_a_scored_class_has_no_miou():
    one = result("a", [[0, 0, 3], [0, 2, 1]])
    assert np.isnan(one.miou((1, 3))) and one.miou((0, 1)) == one.miou() == 3 / 4


def test_an_image_without_labels_has_no_score():
    assert np.isnan(result("a", []).miou()) and np.isnan(result("a", []).pixel_accuracy())


def test_lines_are_plain_json(tmp_path):
    ImageResults(tmp_path).add(result("a", [[1, 2, 3]]))
    assert json.loads((tmp_path / "images.0.jsonl").read_text()) == {
        "image": "a", "height": 4, "width": 5, "seconds": 0.25, "truth": 7, "entries": [[1, 2, 3]],
    }  # fmt: skip


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_half_line_and_says_how_to_go_on(tmp_path, monkeypatch, code):
    space = 150

    class SmallDisk(io.FileIO):
        """Takes what fits; only the next write is an error, as of a real disk."""

        def write(self, contents):
            left = space - self.seek(0, io.SEEK_END)
            if left <= 0:
                raise OSError(code, "No space left on device")
            return super().write(contents[:left])

    results = ImageResults(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda path, mode, buffering: SmallDisk(path, mode))
        results.add(result("a", [[0, 0, 20]]))
        size = (tmp_path / "images.0.jsonl").stat().st_size
        assert size < space < 2 * size, "the second line has to fit in part"
        with pytest.raises(OSError, match=r"images\.0\.jsonl: the result of the image 'b' was not written \(No space"):
            results.add(result("b", [[0, 0, 20]]))
        results.close()
    assert (tmp_path / "images.0.jsonl").stat().st_size == size
    again = ImageResults(tmp_path)
    assert again.images() == {"a"}
    again.add(result("b", [[0, 0, 20]]))
    assert ImageResults(tmp_path).images() == {"a", "b"}
