"""The stream of images with masks: drawn, shrunk, and what cannot serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from escnet.data.shards.accounting import ShardError, UnusableSampleError
from escnet.data.shards.batches import MaskBatch, mask_batches
from escnet.data.shards.masks import draw_masks, read_masks


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (16, 24)) -> np.ndarray:
    mask = np.zeros(size, dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def batches(folder: Path, count: int, **settings) -> list[MaskBatch]:
    settings = {"batch_size": 2, "seed": 1, "size": 16, "masks": 3, "mask_size": 8, **settings}
    return list(islice(mask_batches(folder, **settings), count))


def draw(masks: list[np.ndarray], annotations: Callable[..., bytes], count: int, side: int, seed: int = 0):
    size = masks[0].shape
    return draw_masks(read_masks(annotations(masks), size), size, side, count, np.random.RandomState(seed))


def test_masks_are_drawn_without_repetition_and_in_random_order(annotations: Callable[..., bytes]) -> None:
    masks = [box(0, 4 * n, 16, 4 * n + 4) for n in range(6)]
    orders = set()
    for seed in range(20):
        drawn = draw(masks, annotations, 4, 12, seed)
        assert drawn.shape == (4, 12, 12) and drawn.dtype == torch.bool
        columns = [int(mask[0].nonzero()[0]) // 2 for mask in drawn]
        assert len(set(columns)) == 4
        orders.add(tuple(columns))
    assert len(orders) > 15 and set(sum(orders, ())) == set(range(6))


def test_a_mask_is_shrunk_as_its_image(annotations: Callable[..., bytes]) -> None:
    (drawn,) = draw([box(4, 12, 12, 24)], annotations, 1, 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 4:8] = True
    assert torch.equal(drawn, expected)


def test_too_few_masks_are_drawn_again_and_vanishing_ones_are_not(annotations: Callable[..., bytes]) -> None:
    masks = [box(0, 0, 16, 12), box(3, 3, 4, 4), box(0, 12, 16, 24), box(0, 0, 0, 0)]
    drawn = draw(masks, annotations, 9, 4)
    assert drawn.shape == (9, 4, 4) and drawn.flatten(1).any(dim=1).all()
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) == 2
    with pytest.raises(UnusableSampleError, match="none of its 2 masks has a pixel left at 4x4"):
        draw([masks[1], masks[3]], annotations, 9, 4)


@pytest.fixture
def write_masks(
    write_pictures: Callable[..., Path], picture: Callable[..., bytes], annotations: Callable[..., bytes]
) -> Callable[..., Path]:
    """Writes shards of pictures with two masks each."""

    def write(change: dict[int, dict[str, bytes]] | None = None) -> Path:
        two = annotations([box(0, 0, 16, 12), box(8, 0, 16, 24)])
        members = {number: {"png": picture(number, (16, 24)), "json": two} for number in range(8)}
        return write_pictures((4, 4), {**members, **(change or {})})

    return write


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_have_images_and_masks_and_resume(write_masks: Callable[..., Path], num_workers: int) -> None:
    folder = write_masks()
    read = batches(folder, 6, num_workers=num_workers)
    for batch in read:
        assert batch.images.shape == (2, 3, 16, 16) and batch.images.dtype == torch.uint8
        assert batch.masks.shape == (2, 3, 8, 8) and batch.masks.dtype == torch.bool and not batch.broken
    assert sorted(key for batch in read[:4] for key in batch.keys) == [f"p{number:03d}" for number in range(8)]
    for done in (1, 5):
        resumed = batches(folder, 6 - done, start_iteration=done, num_workers=num_workers)
        for ours, theirs in zip(resumed, read[done:], strict=True):
            assert ours.keys == theirs.keys
            assert torch.equal(ours.images, theirs.images) and torch.equal(ours.masks, theirs.masks)


def test_masks_have_the_size_of_the_images_by_default(write_masks: Callable[..., Path]) -> None:
    assert batches(write_masks(), 1, mask_size=None)[0].masks.shape == (2, 3, 16, 16)


def test_samples_without_usable_masks_are_named(
    write_masks: Callable[..., Path], picture: Callable[..., bytes], annotations: Callable[..., bytes]
) -> None:
    image = {"png": picture(1, (16, 24))}
    whole = annotations([box(0, 0, 16, 12)])
    outside = json.dumps({"annotations": [{"segmentation": {"size": [16, 24], "counts": [100, 500]}}]}).encode()
    reasons = {
        0: (image, "no JSON of its key is in the shard"),
        1: ({**image, "json": whole[:-9]}, "its JSON is damaged"),
        2: ({**image, "json": annotations([])}, "its JSON lists none"),
        3: ({**image, "json": annotations([box(0, 0, 9, 9), box(0, 0, 9, 9, (24, 16))])}, r"size \[24, 16\]"),
        4: ({**image, "json": outside}, "do not cover its 16x24 pixels: it is damaged, or outside"),
        5: ({**image, "json": b'{"annotations": [{"id": 1}]}'}, "has no segmentation"),
        6: ({**image, "json": b"[" * 100000}, "its JSON is damaged|no list"),
    }
    folder = write_masks({**{n: members for n, (members, _) in reasons.items()}, 7: {**image, "json": whole}})
    read = batches(folder, 4, block=2)
    assert {key for batch in read for key in batch.keys} == {"p007"}
    found = {sample.key: sample.reason for batch in read for sample in batch.broken}
    assert found.keys() == {f"p{number:03d}" for number in reasons}
    for number, (_, reason) in reasons.items():
        with pytest.raises(UnusableSampleError, match=reason):
            raise UnusableSampleError(found[f"p{number:03d}"])


def test_shards_without_masks_are_refused(write_pictures: Callable[..., Path]) -> None:
    with pytest.raises(ShardError, match=r"000\.tar: its index says that it has no masks"):
        batches(write_pictures(), 1)


@pytest.mark.parametrize("settings", [{"masks": 0}, {"mask_size": 1}, {"size": 1}])
def test_impossible_numbers_are_refused(write_masks: Callable[..., Path], settings: dict) -> None:
    with pytest.raises(ValueError, match=r"at least one mask|2 pixels or more|2 or more"):
        batches(write_masks(), 1, **settings)
