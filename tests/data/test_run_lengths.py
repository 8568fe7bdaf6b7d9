"""Run lengths against pycocotools, and damaged ones, which must never reach it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from torch.nn import functional as F

from escnet.data.run_lengths import encode_mask, parse_run_lengths
from escnet.data.shards.shrinking import shrink_masks


def random_masks(generator: np.random.Generator, count: int) -> tuple[list[np.ndarray], tuple[int, int]]:
    size = tuple(generator.integers(2, 60, 2).tolist())
    return [(generator.random(size) > generator.random()).astype(np.uint8) for _ in range(count)], size


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_masks_at_their_own_size_are_those_that_pycocotools_decodes() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        masks, size = random_masks(generator, int(generator.integers(1, 7)))
        encoded = [encode_mask(mask) for mask in masks]
        decoded = shrink_masks([parse_run_lengths(one, size) for one in encoded], size, size)
        assert (decoded.numpy() == np.stack([coco_masks.decode(one) for one in encoded])).all()
        assert (decoded.numpy() == np.stack(masks)).all()


def test_shrunk_masks_are_those_of_an_antialiased_resize() -> None:
    generator = np.random.default_rng(1)
    for _ in range(100):
        masks, size = random_masks(generator, 5)
        small = tuple(generator.integers(2, 40, 2).tolist())
        shares = F.interpolate(torch.from_numpy(np.stack(masks)).float()[None], small, mode="bilinear", antialias=True)
        got = shrink_masks([parse_run_lengths(encode_mask(mask), size) for mask in masks], size, small)
        is_clear = (shares[0] - 0.5).abs() > 0.01  # bytes are rounded
        assert (got == (shares[0] >= 0.5))[is_clear].all()


@pytest.mark.parametrize("size", [(1500, 2250), (1, 1), (1, 40), (40, 1)])
def test_full_empty_and_lists_of_counts(size: tuple[int, int]) -> None:
    area = size[0] * size[1]
    for value, counts in ((0, [area]), (1, [0, area])):
        compressed = encode_mask(np.full(size, value, dtype=np.uint8))
        for segmentation in (compressed, {"size": list(size), "counts": counts}):
            runs = parse_run_lengths(segmentation, size)
            assert runs.tolist() == counts and bool(shrink_masks([runs], size, (4, 4)).all()) == bool(value)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "not given in run lengths"),
        ([[1.0, 2.0, 3.0, 4.0]], "not given in run lengths"),
        ({"counts": "00"}, "not given in run lengths"),
        ({"size": [3, 4], "counts": [12]}, r"size \[3, 4\].*image of \[4, 3\]"),
        ({"size": "43", "counts": [12]}, "size 43"),
        ({"size": [4, 3], "counts": [13]}, "do not cover its 4x3 pixels"),
        ({"size": [4, 3], "counts": [6, 7]}, "do not cover"),
        ({"size": [4, 3], "counts": [11]}, "do not cover"),
        ({"size": [4, 3], "counts": []}, "do not cover"),
        ({"size": [4, 3], "counts": [-1, 13]}, "do not cover"),
        ({"size": [4, 3], "counts": [12.0]}, "neither a string nor a list"),
        ({"size": [4, 3], "counts": [True]}, "neither a string nor a list"),
        ({"size": [4, 3], "counts": 12}, "neither a string nor a list"),
        ({"size": [4, 3], "counts": ""}, "are empty"),
        ({"size": [4, 3], "counts": "ä"}, "characters that do not occur"),
        ({"size": [4, 3], "counts": "<~"}, "characters that do not occur"),
        ({"size": [4, 3], "counts": "<o"}, "break off"),
        ({"size": [4, 3], "counts": "oooooooo0"}, "too long"),
    ],
)
def test_damaged_run_lengths_are_refused(segmentation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_run_lengths(segmentation, (4, 3))


def test_random_strings_are_refused_or_cover_the_image() -> None:
    generator = random.Random(0)
    for _ in range(3000):
        counts = "".join(chr(generator.randrange(44, 116)) for _ in range(generator.randrange(12)))
        try:
            runs = parse_run_lengths({"size": [20, 30], "counts": counts}, (20, 30))
        except ValueError:
            continue
        assert runs.min() >= 0 and runs.sum() == 600
