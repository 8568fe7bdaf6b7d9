"""Recorded failures that are labelled again: what was labelled is kept, and each picture is still there once."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from escnet import Segmenter
from escnet.labelling.corpus.labeller import Job, UnitLabeller
from escnet.labelling.corpus.records import read_record
from escnet.labelling.corpus.verification import verify

from .conftest import decoded, ended, rows, unit


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_failures_are_labelled_again_and_the_rest_is_kept(
    kind: str,
    label: Callable[..., int],
    pictures: Path,
    segmenter: Segmenter,
    expected: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, options = tmp_path / "out", ("--format", kind, "--samples-per-shard", "15", "--batch-size", "2")
    whole = segmenter.batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "batch", lambda images, *words: fail_at(41, whole, images, *words))
        assert label(pictures, output, *options) == 1
    failed = len((output / "failures.jsonl").read_text().splitlines())
    assert failed == 13 and verify(output).failed == failed
    before = {path: path.read_bytes() for path in output.rglob("labels/*/*")}
    # Not asked for, and asked for in vain: the files stay.
    assert label(pictures, output, *options) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "batch", lambda images, *words: fail_at(41, whole, images, *words))
        assert label(pictures, output, *options, "--retry-failures") == 1
    assert {path: path.read_bytes() for path in before} == before
    passes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "batch", lambda images, *words: passes.append(len(images)) or whole(images, *words))
        capsys.readouterr()
        assert label(pictures, output, *options, "--retry-failures") == 0
    told = capsys.readouterr()
    assert sum(passes) == failed and "3 of 3 units to label, in 3 of them 13 failures" in told.err
    assert "40 labelled, 0 failed" in told.out and "13 of them now" in told.out
    verdict = verify(output)
    assert (verdict.faults, verdict.labelled, verdict.failed) == ([], 40, 0)
    found = {row["key"]: decoded(row) for row in rows(output)} | label_maps(output)
    assert sorted(found) == sorted(expected)
    for key, labels in found.items():
        np.testing.assert_array_equal(labels, expected[key])
    assert label(pictures, output, *options, "--retry-failures") == 0


def fail_at(width: int, whole: Callable[..., object], images: list[np.ndarray], *words: object) -> object:
    if any(image.shape[1] == width for image in images):
        raise RuntimeError("out of memory")
    return whole(images, *words)


def label_maps(output: Path) -> dict[str, np.ndarray]:
    """Those of all archives of an output, by the keys of their pictures."""
    shards = [str(path) for path in sorted((output / "labels").rglob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=False) if shards else ()
    return {json.loads(one["json"])["key"]: np.asarray(Image.open(io.BytesIO(one["png"]))) for one in samples}


def test_a_retry_that_is_cut_off_leaves_a_unit_that_is_labelled_again(
    labeller: UnitLabeller, job: Job, pictures: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_of = {"retry_failures": True, "format": "webdataset"}
    for name, value in job_of.items():
        object.__setattr__(job, name, value)
    whole, two = segmenter.batch, unit(pictures, "00.png", "01.png")
    with monkeypatch.context() as patch:
        patch.setattr(segmenter, "batch", lambda images, *words: fail_at(41, whole, images, *words))
        assert labeller.label(two).labelled == 1
    before = next(job.output.rglob("labels/*/*.tar")).stat().st_size
    with monkeypatch.context() as patch:
        # The process ends between the new file and its record.
        patch.setattr("escnet.labelling.corpus.labeller.write_record", lambda *_: os._exit(7))
        assert ended(lambda: labeller.label(two)) == 7
    # Of the same size as the old file: only that its record is gone tells them apart.
    assert next(job.output.rglob("labels/*/*.tar")).stat().st_size == before
    assert read_record(job.output, 0) is None
    assert labeller.label(two).labelled == 2 and labeller.label(two).failures == []


def test_a_damaged_file_is_not_kept_by_a_retry(
    labeller: UnitLabeller, job: Job, pictures: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(job, "retry_failures", True)
    whole, two = segmenter.batch, unit(pictures, "00.png", "01.png")
    with monkeypatch.context() as patch:
        patch.setattr(segmenter, "batch", lambda images, *words: fail_at(41, whole, images, *words))
        labeller.label(two)
    (path,) = job.output.rglob("labels/*/*.parquet")
    path.write_bytes(bytes(path.stat().st_size))
    assert labeller.label(two).labelled == 2
    assert sorted(row["key"] for row in rows(job.output)) == ["00.png", "01.png"]
