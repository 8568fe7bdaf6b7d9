"""How many classes are worked on at a time."""

from __future__ import annotations

import pytest

from escnet.layers.chunking import class_chunks, classes_at_a_time


def test_a_gpu_takes_more_classes_at_a_time_than_a_cpu():
    assert [classes_at_a_time(-1, device) for device in ("cpu", "cuda:1", "mps")] == [8, 64, 64]


@pytest.mark.parametrize("wanted", [0, 5])
def test_a_number_that_is_asked_for_is_taken_on_every_device(wanted):
    assert [classes_at_a_time(wanted, device) for device in ("cpu", "cuda")] == [wanted, wanted]


def test_chunks_cover_every_class_once():
    assert [(s.start, s.stop) for s in class_chunks(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert [(s.start, s.stop) for s in class_chunks(7, 0)] == [(0, 7)]
