"""Batches of several sizes at one cost, drawn by their number alone."""

from __future__ import annotations

from collections import Counter

import pytest

from escnet.data.shards.schedule import BatchSchedule


def test_the_cost_of_a_batch_is_constant() -> None:
    schedule = BatchSchedule((224, 336, 448), 2048, 4, seed=0)
    counts = {schedule.size(batch): schedule.count(batch) for batch in range(50)}
    # 2048 / 4 images of 224 px; (224/336)² and (224/448)² of them: 227.6 and 128.
    assert counts == {224: 512, 336: 228, 448: 128} == schedule.counts


def test_a_batch_has_at_least_one_image() -> None:
    schedule = BatchSchedule((16, 1024), 2, 1, seed=0)
    assert {schedule.count(batch) for batch in range(20)} == {2, 1}


def test_sizes_are_drawn_evenly_and_by_the_seed() -> None:
    schedules = [BatchSchedule((8, 16), 4, 1, seed) for seed in (0, 1)]
    drawn = [[schedule.size(batch) for batch in range(2000)] for schedule in schedules]
    assert all(abs(share - 1000) < 100 for sizes in drawn for share in Counter(sizes).values())
    assert drawn[0] != drawn[1]
    # A change of the draws would silently change the data of runs that are resumed with a newer version.
    assert drawn[0][:12] == [16, 16, 16, 8, 16, 8, 8, 8, 16, 16, 16, 8]


def test_all_ranks_draw_the_same() -> None:
    alone, shared = BatchSchedule((8, 16), 8, 1, 3), BatchSchedule((8, 16), 8, 4, 3)
    assert [alone.size(batch) for batch in range(9000)] == [shared.size(batch) for batch in range(9000)]


@pytest.mark.parametrize("sizes", [(8,), (8, 16), (8, 12, 24)])
@pytest.mark.parametrize("step", [1, 3])
def test_images_before_a_batch_are_those_of_the_batches_of_its_lane(sizes: tuple[int, ...], step: int) -> None:
    schedule = BatchSchedule(sizes, 9, 1, seed=5)
    counts = [schedule.count(batch) for batch in range(9000)]
    for batch in (0, 1, 2, 7, 4095, 4096, 4097, 8191, 8999):
        assert schedule.images_before(batch, step) == sum(counts[batch % step : batch : step])
