"""Shapes of annotated regions: COCO's run lengths against pycocotools, and what must not be filled with chance."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from escnet.data.preparation.own_annotations.shapes import BoxRuns, CocoRuns
from escnet.data.run_lengths import parse_run_lengths


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_compressed_run_lengths_are_those_of_pycocotools(share: float) -> None:
    mask = np.random.default_rng(0).random((211, 97)) < share
    runs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    shape = CocoRuns(runs["counts"].decode(), mask.shape, (0, 0, 1, 1))
    np.testing.assert_array_equal(shape.mask(mask.shape), mask)


def test_run_lengths_by_hand() -> None:
    # 5; 40 = 01000 + 32 * 00001 in two characters; 3; then 41 as 41 - 40 and 2 as 2 - 3 = -1.
    text = "5" + chr(48 + 0b101000) + "1" + "3" + "1" + chr(48 + 0b11111)
    assert parse_run_lengths({"size": [7, 13], "counts": text}, (7, 13)).tolist() == [5, 40, 3, 41, 2]


@pytest.mark.parametrize("counts", ["", "1", "0`0", "0`", "~~~", "é", "PPPPPPPPPPPPPPPPPPPP0", "O"])
def test_run_lengths_that_do_not_fill_the_picture_are_refused(counts: str) -> None:
    with pytest.raises(ValueError, match=r"(counts|runs) of a mask"):
        CocoRuns(counts, (6, 8), (0, 0, 1, 1)).mask((6, 8))


def test_runs_in_a_box_are_cut_at_every_side() -> None:
    # .##  The box of 3x2 pixels, whose second row is all inside.
    # ###
    counts, inside = (1, 5), np.array([[False, True, True], [True, True, True]])
    for left, top in ((-1, -1), (0, 0), (3, 1), (4, 2), (9, 9), (-3, 0)):
        wide = np.zeros((30, 30), bool)
        wide[10 + top : 12 + top, 10 + left : 13 + left] = inside
        np.testing.assert_array_equal(BoxRuns(counts, left, top, 3, 2).mask((3, 5)), wide[10:13, 10:15])
