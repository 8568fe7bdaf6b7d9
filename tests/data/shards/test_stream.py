"""The stream of shards: every sample once per epoch, resumed anywhere, the same with any start; broken samples."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from escnet.data.shards import stream
from escnet.data.shards.accounting import BrokenSample, ShardError
from escnet.data.shards.batches import ImageBatch, image_batches
from escnet.data.shards.decoding import Augmentation
from escnet.data.shards.index import INDEX, Shard
from escnet.data.shards.lanes import Block, Lane

COUNTS = (3, 4, 2, 5, 3, 4)
NAMES = [f"p{number:03d}" for number in range(sum(COUNTS))]


def batches(folder: Path, count: int, **settings) -> list[ImageBatch]:
    settings = {"batch_size": 4, "seed": 3, "sizes": (8, 16), "augmentation": Augmentation((0.2, 1.0)), **settings}
    return list(islice(image_batches(folder, **settings), count))


def assert_same(ours: list[ImageBatch], theirs: list[ImageBatch]) -> None:
    assert [(batch.keys, batch.broken) for batch in ours] == [(batch.keys, batch.broken) for batch in theirs]
    assert all(torch.equal(a.images, b.images) for a, b in zip(ours, theirs, strict=True))


def samples_of(block: Block) -> list[tuple[str, int]]:
    """The samples of a block in their order, as (shard, number in the shard)."""
    own = [(shard.url, number) for shard in block.shards for number in range(shard.samples)]
    return [own[place] for place in block.order]


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_each_epoch_of_all_lanes_has_every_sample_once(lanes: int) -> None:
    shards = [Shard(f"{number}", count, 0, "images") for number, count in enumerate(COUNTS)]
    every = Counter((shard.url, number) for shard in shards for number in range(shard.samples))
    blocks = [Lane(shards, lane, lanes, 2, 0).blocks(0) for lane in range(lanes)]
    orders = []
    for _ in range(4):
        # Of six shards a lane has those from its own number on, two of them in a block.
        own = [islice(lane, -(-len(range(number, 6, lanes)) // 2)) for number, lane in enumerate(blocks)]
        orders.append([sample for lane in own for block in lane for sample in samples_of(block)])
        assert Counter(orders[-1]) == every
    assert len(set(map(tuple, orders))) == 4


def test_the_order_is_pinned() -> None:
    # A change of this order would silently change the data of runs that are resumed with a newer version.
    shards = [Shard(f"{number}", count, 0, "images") for number, count in enumerate(COUNTS)]
    order = [sample for block in islice(Lane(shards, 1, 2, 2, 0).blocks(0), 4) for sample in samples_of(block)]
    assert " ".join(f"{url}{number}" for url, number in order[:14]) == "12 13 10 20 11 21 42 40 41 20 30 33 21 31"


@pytest.mark.parametrize("lanes", [1, 2])
def test_blocks_from_a_position_on_are_those_of_the_whole_lane(lanes: int) -> None:
    lane = Lane([Shard(f"{number}", count, 0, "images") for number, count in enumerate(COUNTS)], 0, lanes, 2, 7)
    whole = list(islice(lane.blocks(0), 30))
    for position in range(80):
        block = next(lane.blocks(position))
        expected = next(block for block in whole if block.start + len(block.order) > position)
        assert (block.start, samples_of(block)) == (expected.start, samples_of(expected))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_stream_continues_the_undisturbed_one(
    write_pictures: Callable[..., Path], num_workers: int, rank: int
) -> None:
    folder = write_pictures()
    settings = {"num_workers": num_workers, "rank": rank, "world_size": 2}
    undisturbed = batches(folder, 24, **settings)  # several epochs of 21 samples, two or one of them in a batch
    for done in (1, 4, 17):
        assert_same(batches(folder, 24 - done, start_iteration=done, **settings), undisturbed[done:])


def read_until_killed(folder: Path, pipe: Connection) -> None:
    for number, batch in enumerate(image_batches(folder, batch_size=4, seed=3, sizes=(8, 16))):
        pipe.send(batch.keys)
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_followed_by_one_that_reads_on(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures()
    context = multiprocessing.get_context("fork")
    end, start = context.Pipe(duplex=False)
    process = context.Process(target=read_until_killed, args=(folder, start))
    process.start()
    read = [end.recv() for _ in range(6)]
    process.join()
    assert process.exitcode == -signal.SIGKILL
    rest = batches(folder, 4, start_iteration=6, augmentation=None)
    assert [*read, *(batch.keys for batch in rest)] == [batch.keys for batch in batches(folder, 10, augmentation=None)]


def test_one_worker_reads_what_the_process_itself_would(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures()
    assert_same(batches(folder, 8, num_workers=1), batches(folder, 8))


def test_pictures_belong_to_their_keys_and_each_comes_once(write_pictures: Callable[..., Path]) -> None:
    read = batches(write_pictures(), 3, batch_size=7, sizes=(16,), augmentation=None)
    assert sorted(key for batch in read for key in batch.keys) == NAMES
    for batch in read:
        assert batch.images.shape == (7, 3, 16, 16) and batch.images.dtype == torch.uint8
        assert [f"p{red:03d}" for red in batch.images[:, 0, 5, 5].tolist()] == batch.keys


def test_ranks_draw_the_same_sizes_and_share_every_sample(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures((4,) * 6)
    ranks = [batches(folder, 12, rank=rank, world_size=2, batch_size=8) for rank in range(2)]
    sizes = [[batch.images.shape[-1] for batch in rank] for rank in ranks]
    assert sizes[0] == sizes[1] and set(sizes[0]) == {8, 16}
    assert all(len(batch.keys) == {8: 4, 16: 1}[batch.images.shape[-1]] for rank in ranks for batch in rank)
    whole = [batches(folder, 3, rank=rank, world_size=2, batch_size=8, sizes=(8,)) for rank in range(2)]
    assert len({key for rank in whole for batch in rank for key in batch.keys}) == 24


def test_blocks_before_the_start_are_not_read(
    write_pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = write_pictures((4,) * 6), []
    monkeypatch.setattr(stream, "read_shard", lambda url, a, f=stream.read_shard: read.append(url) or f(url, a))
    undisturbed = batches(folder, 6, sizes=(8,))
    assert len(read) == 6
    read.clear()
    assert_same(batches(folder, 1, sizes=(8,), start_iteration=5), undisturbed[5:])
    assert len(read) == 2


def test_the_global_random_state_is_left_alone(write_pictures: Callable[..., Path]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(write_pictures(), 3)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


def test_fewer_shards_than_readers_are_refused(write_pictures: Callable[..., Path]) -> None:
    with pytest.raises(ShardError, match="6 shards cannot be dealt out to 8 readers"):
        batches(write_pictures(), 1, num_workers=4, world_size=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 0}, "at least one shard"),
        ({"seed": -1}, "-1; set it"),
        ({"rank": 2, "world_size": 2}, "no rank 2 of 2"),
        ({"batch_size": 3, "world_size": 2}, "multiple of the number of processes"),
        ({"sizes": ()}, "image sizes"),
        ({"sizes": (8, 8)}, "image sizes"),
        ({"start_iteration": -1}, "cannot be negative"),
        ({"augmentation": Augmentation((0.5, 1.5))}, "scale of random crops"),
        ({"augmentation": Augmentation(flip=2)}, "flip is 0 to 1"),
        ({"augmentation": Augmentation(ratio=(2, 1))}, "ratio of random crops"),
        ({"embeddings": "teacher"}, "exclude each other"),
    ],
)
def test_impossible_streams_are_refused(write_pictures: Callable[..., Path], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(write_pictures(), 1, **settings)


@pytest.fixture
def broken_members(picture: Callable[..., bytes]) -> dict[int, dict[str, bytes]]:
    """Three samples that cannot serve, by number."""
    return {2: {"png": b"no picture"}, 9: {"png": picture(9)[:50]}, 10: {"png": picture(10, (3, 16))}}


def broken_of(read: list[ImageBatch]) -> list[BrokenSample]:
    return [sample for batch in read for sample in batch.broken]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_samples_are_replaced_and_named_once_per_epoch(
    write_pictures: Callable[..., Path], broken_members: dict[int, dict[str, bytes]], num_workers: int
) -> None:
    folder = write_pictures((4,) * 6, change=broken_members)
    settings = {"sizes": (16,), "augmentation": None, "num_workers": num_workers}
    read = batches(folder, 12, **settings)  # two epochs
    assert all(len(batch.keys) == 4 for batch in read)
    assert not {f"p{number:03d}" for number in broken_members} & {key for batch in read for key in batch.keys}
    for batch in read:
        assert [f"p{red:03d}" for red in batch.images[:, 0, 5, 5].tolist()] == batch.keys
    broken = broken_of(read)
    assert Counter(sample.key for sample in broken) == {"p002": 2, "p009": 2, "p010": 2}
    reasons = {sample.key: sample.reason for sample in broken}
    assert "not an image" in reasons["p002"] and "truncated" in reasons["p009"]
    assert reasons["p010"] == "has 16x3 pixels, where no side may be below 16"
    assert {Path(sample.shard).name for sample in broken} == {"000.tar", "002.tar"}
    for done in (1, 3, 8):
        assert_same(batches(folder, 12 - done, start_iteration=done, **settings), read[done:])


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.7])
def test_what_a_truncated_shard_lacks_is_broken(write_pictures: Callable[..., Path], cut: float) -> None:
    folder = write_pictures((8, 8))
    path = folder / "001.tar"
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    read = batches(folder, 4, sizes=(16,), augmentation=None)
    broken = broken_of(read)
    good = {key for batch in read for key in batch.keys}
    assert broken and len(broken) + len(good) == 16 and {sample.shard for sample in broken} == {str(path)}
    assert len({sample.key for sample in broken}) == len(broken)
    assert all(sample.reason.startswith(f"the shard ends after {8 - len(broken)} of 8 samples") for sample in broken)


def test_for_a_block_without_a_good_sample_later_ones_stand(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures((3, 3, 3), change={0: {"png": b"a"}, 1: {"png": b"b"}, 2: {"png": b"c"}})
    settings = {"sizes": (16,), "augmentation": None, "block": 1}
    read = batches(folder, 9, **settings)
    broken = broken_of(read)
    assert {Path(sample.shard).name for sample in broken} == {"000.tar"}
    assert {sample.key for sample in broken} == {"p000", "p001", "p002"}
    used = {key for batch in read for key in batch.keys}
    assert used == {f"p{number:03}" for number in range(3, 9)}
    for done in range(1, 9):
        assert_same(batches(folder, 9 - done, start_iteration=done, **settings), read[done:])


def test_blocks_without_a_good_sample_end_the_stream(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures((1, 1), change={0: {"png": b"a"}, 1: {"png": b"b"}})
    with pytest.raises(ShardError, match=r"none of the 2 samples .*00[01]\.tar.* can be used.*not an image"):
        batches(folder, 1)


def test_a_shard_that_vanishes_is_counted_and_one_that_is_not_there_is_an_error(
    write_pictures: Callable[..., Path],
) -> None:
    folder = write_pictures((2, 2))
    running = image_batches(folder, batch_size=4, seed=0)
    (folder / "001.tar").unlink()
    broken = next(running).broken
    assert [sample.reason for sample in broken] == 2 * [
        "the shard ends after 0 of 2 samples (No such file or directory)"
    ]
    with pytest.raises(ShardError, match=r"001\.tar: is in the index, but cannot be read"):
        batches(folder, 1)


def test_a_shard_that_has_grown_is_an_error(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures((2, 2))
    (folder / "001.tar").write_bytes((folder / "001.tar").read_bytes() + bytes(512))
    with pytest.raises(ShardError, match=r"001\.tar: has \d+ bytes where its index says"):
        batches(folder, 1)
    index = (folder / INDEX).read_text()
    (folder / INDEX).write_text(index.replace('"samples": 2', '"samples": 1').replace('"bytes": ', '"bytes": 9'))
    with pytest.raises(ShardError, match="has 2 samples where its index says 1"):
        batches(folder, 1)
