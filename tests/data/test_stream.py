"""The training stream: every record once per epoch, resumable, the same with any workers and ranks; the loaders."""

from __future__ import annotations

from itertools import chain, islice

import numpy as np
import pytest
import torch

from escnet.data.images import ImageError
from escnet.data.label_spaces import label_spaces
from escnet.data.mappers import EvaluationMapper, TrainingMapper
from escnet.data.registration import dataset_records
from escnet.data.stream import ShuffledStream, build_evaluation_loader, build_training_loader

RECORDS = [{"index": index} for index in range(7)]


def with_seed(record: dict, seed: int) -> dict:
    return {**record, "seed": seed}


def batches(count: int, **settings) -> list[list[dict]]:
    settings = {"batch_size": 4, "seed": 3, **settings}
    return list(islice(build_training_loader(RECORDS, with_seed, **settings), count))


def test_each_epoch_has_every_record_once_in_its_own_order():
    stream = ShuffledStream(RECORDS, with_seed, seed=0)
    epochs = [[stream[7 * epoch + place]["index"] for place in range(7)] for epoch in range(6)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 4


def test_samples_get_seeds_of_their_own():
    stream = ShuffledStream(RECORDS, with_seed, seed=0)
    seeds = [stream[position]["seed"] for position in range(200)]
    assert len(set(seeds)) == 200 and all(0 <= seed < 2**32 for seed in seeds)
    assert np.random.RandomState(seeds[0])  # accepted as a seed


def test_position_decides_whatever_was_read_before():
    forward = ShuffledStream(RECORDS, with_seed, seed=5)
    ahead = [forward[position] for position in range(30)]
    backward = ShuffledStream(RECORDS, with_seed, seed=5)
    assert [backward[position] for position in reversed(range(30))][::-1] == ahead
    assert [ShuffledStream(RECORDS, with_seed, seed=6)[position] for position in range(30)] != ahead


def test_the_order_is_pinned():
    # A change of this order would silently change the data of runs that are resumed with a newer version.
    stream = ShuffledStream(RECORDS, with_seed, seed=0)
    assert [stream.record_index(position) for position in range(14)] == [6, 2, 5, 0, 4, 3, 1, 3, 1, 2, 6, 4, 0, 5]
    assert stream[0]["seed"] == 3953331965


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("done", [0, 1, 5])
def test_resumed_stream_continues_the_undisturbed_one(done, num_workers):
    undisturbed = batches(9)
    assert batches(9 - done, start_iteration=done, num_workers=num_workers) == undisturbed[done:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_share_the_batches_of_one_process(world_size):
    shares = [batches(6, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [[sample for share in shares for sample in share[step]] for step in range(6)]
    assert joined == batches(6)


def test_a_loader_can_be_iterated_again_from_its_start():
    loader = build_training_loader(RECORDS, with_seed, batch_size=4, seed=3)
    assert list(islice(loader, 3)) == list(islice(loader, 3)) == batches(3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_global_random_state_is_left_alone(num_workers):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(3, num_workers=num_workers)
    list(build_evaluation_loader(RECORDS, dict, num_workers))
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("settings", [{"batch_size": 3, "world_size": 2}, {"batch_size": 0}])
def test_batch_size_has_to_divide_over_the_ranks(settings):
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH"):
        batches(1, **settings)


def test_impossible_streams_are_refused():
    with pytest.raises(ValueError, match="at least one record"):
        ShuffledStream([], with_seed, seed=0)
    with pytest.raises(ValueError, match="-1; set SEED"):
        ShuffledStream(RECORDS, with_seed, seed=-1)
    with pytest.raises(ValueError, match="no records"):
        build_evaluation_loader([], dict)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_passes_every_record_once_in_order(num_workers):
    assert list(build_evaluation_loader(RECORDS, dict, num_workers)) == [[record] for record in RECORDS]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_batches_keep_the_order_and_the_last_is_shorter(num_workers):
    batches = list(build_evaluation_loader(RECORDS, dict, num_workers, batch_size=3))
    assert batches == [RECORDS[:3], RECORDS[3:6], RECORDS[6:]]
    with pytest.raises(ValueError, match="batch size is 0"):
        build_evaluation_loader(RECORDS, dict, batch_size=0)


def training_mapper() -> TrainingMapper:
    return TrainingMapper(label_spaces(["camvid_train"]), short_sides=(16, 24), max_size=64, crop_size=(14, 18))


def test_real_samples_are_the_same_with_any_number_of_workers(camvid_root):
    def read(num_workers: int) -> list[list[dict]]:
        records = dataset_records("camvid_train")
        settings = {"batch_size": 2, "seed": 1, "num_workers": num_workers}
        return list(islice(build_training_loader(records, training_mapper(), **settings), 6))

    alone, shared = read(0), read(2)
    for ours, theirs in zip(chain(*alone), chain(*shared), strict=True):
        assert torch.equal(ours["image"], theirs["image"]) and torch.equal(ours["sem_seg"], theirs["sem_seg"])
        assert ours["file_name"] == theirs["file_name"] and ours["vocabulary"] == theirs["vocabulary"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_file_is_named_by_the_loader(camvid_root, num_workers):
    records = dataset_records("camvid_val")
    path = camvid_root / "camvid/images/val/1.png"
    path.write_bytes(path.read_bytes()[:60])
    loader = build_evaluation_loader(records, EvaluationMapper(label_spaces(["camvid_val"])), num_workers)
    with pytest.raises(ImageError, match=str(path)):
        list(loader)
