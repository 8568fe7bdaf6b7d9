"""Pictures that take longer than they may: their process is ended, and they are found and passed over."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from escnet import Segmenter
from escnet.labelling.corpus.attempts import Attempts
from escnet.labelling.corpus.contents import Picture
from escnet.labelling.corpus.labeller import Job, UnitLabeller
from escnet.labelling.corpus.verification import verify

from .conftest import ended, rows, unit


def hang() -> None:
    """With the interpreter held, so that no thread of Python could end it."""
    ctypes.PyDLL(None).sleep(60)


@pytest.mark.parametrize("where", ["reading", "the model"])
def test_a_picture_that_hangs_is_found_and_passed_over(
    where: str,
    labeller: UnitLabeller,
    job: Job,
    pictures: Path,
    segmenter: Segmenter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, batch = labeller._read, segmenter.batch
    if where == "reading":
        monkeypatch.setattr(labeller, "_read", lambda one: hang() if one.key == "01.png" else read(one))
    else:
        monkeypatch.setattr(
            segmenter,
            "batch",
            lambda images, *words: [hang() if image.shape[1] == 41 else batch([image], *words)[0] for image in images],
        )
    for name, value in {"batch_size": 2, "time_limit": 0.7, "attempts": 2}.items():
        object.__setattr__(job, name, value)
    whole = unit(pictures, "00.png", "01.png", "02.png")
    # Once in a batch, then twice by itself.
    codes = [ended(lambda: labeller.label(whole)) for _ in range(4)]
    assert codes == [1, 1, 1, 0]
    record = labeller.label(whole)
    assert record.labelled == 2 and record.failures[0]["key"] == "01.png"
    assert record.failures[0]["reason"] == "reading or segmenting it took longer than --time-limit allows, 2 times"
    assert not list((job.output / "attempts").rglob("*.*"))


def test_pictures_in_time_are_labelled_however_long_all_of_them_take(
    labeller: UnitLabeller, job: Job, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = labeller._read

    def slowly(picture: object) -> object:
        time.sleep(0.15)
        return read(picture)

    monkeypatch.setattr(labeller, "_read", slowly)
    for name, value in {"readers": 0, "time_limit": 1.0}.items():
        object.__setattr__(job, name, value)
    keys = [f"{number:02d}.png" for number in (0, 1, 2, 4, 5, 6, 8, 9)]

    def label() -> None:
        labeller.label(unit(pictures, *keys))
        # What follows is not timed.
        time.sleep(1.2)

    assert ended(label) == 0
    assert labeller.label(unit(pictures, *keys)).labelled == 8


def test_a_note_of_an_earlier_limit_is_read_once(labeller: UnitLabeller, job: Job, pictures: Path) -> None:
    whole = unit(pictures, "00.png", "02.png")
    note = Attempts(job.output, whole, 3).note
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("late")
    assert Attempts(job.output, whole, 3).is_suspect
    assert labeller.label(whole).labelled == 2
    assert not Attempts(job.output, whole, 3).is_suspect and not note.exists()


def test_a_time_limit_moves_the_work_to_another_process(
    label: Callable[..., int], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "escnet.labelling.corpus.local_engine.label_in_processes",
        lambda job, todo, workers, tell: asked.append((job.time_limit, workers)),
    )
    label(pictures, tmp_path / "one", "--time-limit", "2.5")
    label(pictures, tmp_path / "three", "--time-limit", "9", "--workers", "3")
    assert asked == [(2.5, 1), (9.0, 3)]


def test_the_command_goes_on_with_other_processes(
    label: Callable[..., int], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, output = UnitLabeller._read, tmp_path / "out"

    def read_or_hang(self: UnitLabeller, picture: Picture) -> np.ndarray | str:
        return hang() if picture.key == "02.png" else read(self, picture)

    monkeypatch.setattr(UnitLabeller, "_read", read_or_hang)
    # Forked, so that the processes have the model, and what hangs.
    monkeypatch.setattr(
        "escnet.labelling.corpus.local_engine.worker_context", lambda _: multiprocessing.get_context("fork")
    )
    assert label(pictures, output, "--time-limit", "1.5", "--attempts", "1") == 1
    (failure,) = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert failure["key"] == "02.png" and failure["reason"].endswith("took longer than --time-limit allows, 1 time")
    assert len(rows(output)) == 39 and verify(output).faults == []
