"""What a unit's files hold: the labels that calls one by one give, in both formats; and what is told of the rest."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from escnet import Segmenter, Vocabulary
from escnet.labelling.corpus.attempts import Attempts
from escnet.labelling.corpus.labeller import DeviceLostError, Job, UnitLabeller
from escnet.labelling.corpus.units import Unit, UnreadableUnitError
from escnet.labelling.corpus.verification import verify
from escnet.safe_files import DiskFullError

from .conftest import WORDS, decoded, rows, unit


@pytest.mark.parametrize("options", [(), ("--batch-size", "4", "--samples-per-shard", "16", "--readers", "0")])
def test_parquet_has_the_labels_of_calls_one_by_one(
    options: tuple[str, ...],
    label: Callable[..., int],
    segmenter: Segmenter,
    pictures: Path,
    expected: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    assert label(pictures, tmp_path / "out", *options) == 0
    found = rows(tmp_path / "out")
    assert [row["key"] for row in found] == [*(k for k in expected if "/" not in k), *(k for k in expected if "/" in k)]
    for row in found:
        np.testing.assert_array_equal(decoded(row), expected[row["key"]])
        assert row["source"] == str(pictures / row["key"])
    summary = segmenter(pictures / "00.png", WORDS).summary()
    (first,) = (row for row in found if row["key"] == "00.png")
    assert (first["words"], first["words_considered"]) == (summary["words"], summary["words_considered"])
    for entry, whole in zip(first["classes"], summary["classes"], strict=True):
        assert (entry["id"], entry["name"], entry["area"]) == (whole["id"], whole["name"], whole["pixels"])
        assert entry["mean_score"] == pytest.approx(whole["mean_score"], abs=1e-5)
    schema = pq.read_schema(next((tmp_path / "out").rglob("*.parquet")))
    assert json.loads(schema.metadata[b"class_names"]) == list(Vocabulary.parse(WORDS).class_names)


def test_webdataset_has_the_labels_of_calls_one_by_one(
    label: Callable[..., int], pictures: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert label(pictures, output, "--format", "webdataset", "--samples-per-shard", "15") == 0
    shards = [str(path) for path in sorted((output / "labels").rglob("*.tar"))]
    assert len(shards) == 3
    found = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        row = json.loads(sample["json"])
        found[row["key"]] = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert sum(entry["area"] for entry in row["classes"]) == row["width"] * row["height"]
    assert sorted(found) == sorted(expected)
    for key, labels in found.items():
        np.testing.assert_array_equal(labels, expected[key])
    assert verify(output).faults == []


@pytest.fixture
def poisoned(tmp_path: Path, pictures: Path) -> Path:
    """Two sound pictures among four that cannot be read, one of them a bomb of 30000 by 30000 pixels."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    sound = (pictures / "00.png").read_bytes()
    for name, contents in (
        ("a.png", sound),
        ("b_cut.png", sound[:60]),
        ("c_text.png", b"no picture"),
        ("d_empty.png", b""),
        ("f.png", sound),
    ):
        (folder / name).write_bytes(contents)
    Image.new("1", (30000, 30000)).save(folder / "e_bomb.png")
    return folder


@pytest.mark.parametrize("batch", ["1", "3"])
def test_poisoned_pictures_are_recorded_and_passed_over(
    batch: str, label: Callable[..., int], poisoned: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert label(poisoned, output, "--samples-per-shard", "4", "--batch-size", batch) == 1
    assert [row["key"] for row in rows(output)] == ["a.png", "f.png"]
    lines = (output / "failures.jsonl").read_text().splitlines()
    reasons = {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}
    assert list(reasons) == ["b_cut.png", "c_text.png", "d_empty.png", "e_bomb.png"]
    for key, words in (
        ("b_cut.png", "truncated"),
        ("c_text.png", "not an image"),
        ("d_empty.png", "empty"),
        ("e_bomb.png", "too large"),
    ):
        assert words in reasons[key]
    verdict = verify(output)
    assert (verdict.faults, verdict.labelled, verdict.failed) == ([], 2, 4)


def test_an_error_of_the_model_is_of_the_picture_that_has_it(
    labeller: UnitLabeller, job: Job, pictures: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = segmenter.batch
    passes = []

    def batch(images: list[np.ndarray], *words: object) -> object:
        passes.append(len(images))
        if any(image.shape[1] == 41 for image in images):
            raise RuntimeError("CUDA out of memory")
        return whole(images, *words)

    monkeypatch.setattr(segmenter, "batch", batch)
    object.__setattr__(job, "batch_size", 3)
    record = labeller.label(unit(pictures, "00.png", "01.png", "02.png", "05.png"))
    # Of each width 40, 41, 42, 42: the second alone fails, after the batch with it.
    assert passes == [3, 1, 1, 1, 1] and record.labelled == 3
    assert record.failures == [{"key": "01.png", "source": str(pictures / "01.png"), "reason": "CUDA out of memory"}]


def test_a_lost_device_is_no_fault_of_pictures(
    labeller: UnitLabeller, job: Job, pictures: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(RuntimeError):
        pass

    def batch(*_: object) -> None:
        raise Lost("an illegal memory access was encountered")

    monkeypatch.setattr("escnet.labelling.corpus.labeller._DEVICE_ERRORS", (Lost,))
    monkeypatch.setattr(segmenter, "batch", batch)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        labeller.label(unit(pictures, "00.png"))
    assert not list((job.output / "records").rglob("*.json")) and not list((job.output / "labels").rglob("*.*"))


def test_a_full_disk_ends_it_and_counts_as_no_attempt(
    labeller: UnitLabeller, job: Job, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("escnet.labelling.corpus.parts.encode_mask", full)
        for _ in range(5):
            with pytest.raises(DiskFullError):
                labeller.label(unit(pictures, "00.png"))
    assert not Attempts(job.output, unit(pictures, "00.png"), 1).is_suspect
    assert labeller.label(unit(pictures, "00.png")).labelled == 1


def test_pictures_that_end_the_process_are_counted_one_by_one(job: Job, pictures: Path) -> None:
    def begun(*keys: str) -> list[bool]:
        """A process that dies at the last of these pictures."""
        attempts = Attempts(job.output, unit(pictures), 2)
        attempts.begin()
        return [attempts.begin_picture(key) for key in keys]

    assert begun("a", "b") == [True, True]
    # "a" ends each time, so that its beginnings do not add up.
    assert begun("a", "b") == [True, True]
    assert begun("a", "b", "c") == [True, False, True]
    assert begun("a", "b", "c") == [True, False, True]
    assert begun("a", "b", "c", "d") == [True, False, False, True]
    assert Attempts(job.output, unit(pictures), 2).is_suspect
    Attempts(job.output, unit(pictures), 2).end()
    assert not Attempts(job.output, unit(pictures), 2).is_suspect and begun("b") == [True]


def test_memory_does_not_grow_with_a_unit(
    labeller: UnitLabeller, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a unit's pictures, three batches at most are read and not yet segmented."""
    alive, most = 0, 0
    read, segment = labeller._read, labeller._segment

    def counted(picture: object) -> object:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return read(picture)

    def done(images: list[np.ndarray]) -> object:
        nonlocal alive
        alive -= len(images)
        return segment(images)

    monkeypatch.setattr(labeller, "_read", counted)
    monkeypatch.setattr(labeller, "_segment", done)
    keys = [path.name for path in sorted(pictures.glob("*.png"))]
    assert labeller.label(unit(pictures, *keys)).labelled == len(keys) == 30
    assert most <= 3


def tar_of(path: Path, pictures: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.add(pictures / name, name)
    return path


def test_archives_are_units_and_one_that_breaks_off_is_told(
    label: Callable[..., int], pictures: Path, expected: dict[str, np.ndarray], tmp_path: Path, capsys
) -> None:
    shards, output = tmp_path / "shards", tmp_path / "out"
    shards.mkdir()
    tar_of(shards / "a-0.tar", pictures, ["00.png", "01.png"])
    tar_of(shards / "a-1.tar", pictures, ["00.png", "02.png"])
    assert label(shards / "a-{0..1}.tar", output) == 0
    found = {row["key"]: decoded(row) for row in rows(output)}
    # Two shards may have samples of the same name.
    assert list(found) == ["a-0.tar/00", "a-0.tar/01", "a-1.tar/00", "a-1.tar/02"]
    np.testing.assert_array_equal(found["a-1.tar/02"], expected["02.png"])
    assert verify(output).faults == []

    whole = (shards / "a-1.tar").read_bytes()
    (shards / "a-1.tar").write_bytes(whole[: whole.index(b"02.png") + 700])
    assert label(shards / "a-{0..1}.tar", output) == 2 and "input_digest" in capsys.readouterr().err
    assert label(shards / "a-{0..1}.tar", tmp_path / "cut") == 1
    (fault,) = verify(tmp_path / "cut").faults
    assert "a-1.tar is damaged" in fault
    (shards / "a-0.tar").unlink()
    assert any("is not there any more" in fault for fault in verify(output).faults)


def test_a_source_that_is_gone_is_tried_again_by_the_next_run(
    labeller: UnitLabeller, job: Job, pictures: Path, tmp_path: Path
) -> None:
    shard = Unit(0, "shard", str(tmp_path / "a.tar"), "a.tar")
    for _ in range(4):
        with pytest.raises(UnreadableUnitError, match=r"a\.tar: is not there any more"):
            labeller.label(shard)
    tar_of(tmp_path / "a.tar", pictures, ["00.png"])
    assert not Attempts(job.output, shard, 1).is_suspect
    assert labeller.label(shard).labelled == 1


@pytest.mark.parametrize("form", ["image", "struct", "path"])
def test_row_groups_of_parquet_are_units(
    form: str, label: Callable[..., int], pictures: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    names = ["00.png", "01.png", "02.png", "04.png", "05.png"]
    contents = [(pictures / name).read_bytes() for name in names]
    columns = {
        "image": {"image": contents},
        "struct": {"image": [{"bytes": data, "path": name} for name, data in zip(names, contents, strict=True)]},
        "path": {"path": [str(pictures / names[0]), *names[1:3], "missing.png", None]},
    }[form]
    for name in names[1:3]:
        (tmp_path / name).write_bytes((pictures / name).read_bytes())
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=2)
    output = tmp_path / "out"
    assert label(tmp_path / "in.parquet", output) == (1 if form == "path" else 0)
    found = {row["key"]: decoded(row) for row in rows(output)}
    for number in range(3 if form == "path" else 5):
        np.testing.assert_array_equal(found[f"in.parquet/{number}"], expected[names[number]])
    assert len(list(output.rglob("labels/*/*.parquet"))) == 3
    verdict = verify(output)
    assert (verdict.faults, verdict.failed) == ([], 2 if form == "path" else 0)
