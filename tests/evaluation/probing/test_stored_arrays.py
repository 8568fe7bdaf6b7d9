"""Arrays in files: computed once, known by what they were made of, never half-written, and not larger than allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from escnet.evaluation.probing.stored_arrays import delete_stored, stored_array
from escnet.evaluation.runs.image_results import ResultsError

ROWS = np.arange(24, dtype=np.float16).reshape(4, 2, 3)


class Batches:
    """Gives the rows in batches of three, and counts how often it was asked."""

    def __init__(self, fails: bool = False) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self) -> Iterator[np.ndarray]:
        self.calls += 1
        yield ROWS[:3]
        if self.fails:
            raise KeyboardInterrupt
        yield ROWS[3:]


def test_computed_once_and_mapped(tmp_path: Path) -> None:
    batches = Batches()
    for _ in range(2):
        array = stored_array(tmp_path / "a[:4].npy", {"weights": "x"}, 4, batches, limit=48)
        assert isinstance(array, np.memmap) and not array.flags.writeable and array.dtype == np.float16
        np.testing.assert_array_equal(array, ROWS)
    assert batches.calls == 1


def test_an_array_of_other_weights_is_refused_and_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    stored_array(path, {"weights": "x", "size": 4}, 4, Batches(), 1e3)
    other = Batches()
    with pytest.raises(
        ResultsError, match=r"a\.npy: has .* made under other conditions \(weights was x, is y\).*--restart"
    ):
        stored_array(path, {"weights": "y", "size": 4}, 4, other, 1e3)
    assert other.calls == 0
    np.testing.assert_array_equal(np.load(path), ROWS)
    delete_stored(tmp_path)
    np.testing.assert_array_equal(stored_array(path, {"weights": "y"}, 4, Batches(), 1e3), ROWS)


def test_what_is_interrupted_leaves_nothing_and_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "a[:4].npy"
    (tmp_path / ".a[:4].npy.0.tmp").write_bytes(b"of a process that was killed")
    with pytest.raises(KeyboardInterrupt):
        stored_array(path, {"weights": "x"}, 4, Batches(fails=True), 1e3)
    assert [file.name for file in tmp_path.iterdir()] == ["a[:4].json"]
    # Nothing was computed of the other weights, so that there is nothing to be refused.
    np.testing.assert_array_equal(stored_array(path, {"weights": "y"}, 4, Batches(), 1e3), ROWS)
    with pytest.raises(ResultsError, match="weights was y, is x"):
        stored_array(path, {"weights": "x"}, 4, Batches(), 1e3)


def test_the_limit_is_obeyed_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"4x2x3 values of float16 take .* allow more with --disk-limit"):
        stored_array(tmp_path / "a.npy", {}, 4, Batches(), limit=47)
    assert not (tmp_path / "a.npy").exists()


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 47}))
    with pytest.raises(ResultsError, match="are free on the disk"):
        stored_array(tmp_path / "a.npy", {}, 4, Batches(), limit=1e3)


@pytest.mark.parametrize("count", [3, 5])
def test_another_number_of_rows_is_an_error(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} rows were expected"):
        stored_array(tmp_path / "a.npy", {}, count, Batches(), 1e3)
    assert not (tmp_path / "a.npy").exists()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    stored_array(path, {}, 4, Batches(), 1e3)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ResultsError, match=r"a\.npy: cannot be read .*--restart"):
        stored_array(path, {}, 4, Batches(), 1e3)
