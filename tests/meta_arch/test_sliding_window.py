"""Windows averaged with the whole image: all rows as one tensor would have them, and few rows without the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.meta_arch.segmentation import Segmentation
from escnet.meta_arch.sliding_window import SlidingWindow, WindowedFeatures, average_windows

SLIDING = SlidingWindow((32, 64), (32, 32), 0.5)
CORNERS = [(0, 0), (0, 16), (0, 32)]


def parts(images: int, rows: int, seed: int = 0) -> list[Segmentation]:
    """The whole images and three windows of each, four pixels to a cell; all rows."""
    generator = torch.Generator().manual_seed(seed)
    return [Segmentation(3 * torch.randn(images, rows, 8, 8, generator=generator)) for _ in range(4)]


def average(segmentations: list[Segmentation]) -> Segmentation:
    whole, *windows = segmentations
    return average_windows(WindowedFeatures(whole, windows), SLIDING, lambda part: part)


def of_all_rows(segmentations: list[Segmentation], rows: int) -> Tensor:
    """Probabilities (B, rows, 8, 16) of the average, which carries all rows along."""
    whole, *windows = segmentations
    total, count = torch.zeros(len(whole.logits), rows, 8, 16), torch.zeros(1, 1, 8, 16)
    for (_, left), window in zip(CORNERS, windows, strict=True):
        total[..., left // 4 : left // 4 + 8] += window.row_probabilities(rows)
        count[..., left // 4 : left // 4 + 8] += 1
    return (total / count + F.interpolate(whole.row_probabilities(rows), (8, 16), mode="bilinear")) / 2


def narrowed(segmentations: list[Segmentation], kept: list[list[list[int]]]) -> list[Segmentation]:
    """Keep the rows `kept[part][image]`, padded to the longest of a part; padding holds what must not be seen."""
    result = []
    for part, rows_of_images in zip(segmentations, kept, strict=True):
        counts = [len(rows) for rows in rows_of_images]
        rows = torch.zeros(len(counts), max(counts), dtype=torch.long)
        logits = torch.full((*rows.shape, 8, 8), torch.nan)
        for image, own in enumerate(rows_of_images):
            rows[image, : len(own)] = torch.tensor(own)
            logits[image, : len(own)] = part.logits[image, own]
        result.append(Segmentation(logits, rows, [logits.clone()], kept=tuple(counts)))
    return result


KEPT = [[[1, 5], [0, 2, 9]], [[1, 4], [0, 2]], [[5], [2, 3, 9]], [[1, 5, 7], [0, 9]]]


def test_windows_begin_where_they_are_averaged() -> None:
    assert SLIDING.corners() == CORNERS


@pytest.mark.parametrize("images", (1, 3))
def test_nothing_left_out_is_the_average_to_the_last_bit(images: int) -> None:
    segmentations = parts(images, 10)
    result = average(segmentations)
    tiny = torch.finfo(torch.float).tiny
    assert torch.equal(result.logits, of_all_rows(segmentations, 10).clamp(min=tiny).log())
    assert result.rows is None and result.kept is None and result.map_rows is None


def test_an_image_keeps_the_rows_that_any_of_its_parts_kept() -> None:
    segmentations = narrowed(parts(2, 10), KEPT)
    result, expected = average(segmentations), of_all_rows(segmentations, 10)
    assert result.logits.shape[1] == 4 and result.kept is None  # {1, 4, 5, 7} and {0, 2, 3, 9}
    assert result.rows.tolist() == [[1, 4, 5, 7], [0, 2, 3, 9]]
    torch.testing.assert_close(result.row_probabilities(10), expected)


def test_images_with_different_numbers_of_rows_are_padded() -> None:
    kept = [[part[0], [2]] for part in KEPT]
    segmentations = narrowed(parts(2, 10), kept)
    result = average(segmentations)
    assert result.kept == (4, 1) and result.logits.shape[1] == 4
    torch.testing.assert_close(result.row_probabilities(10), of_all_rows(segmentations, 10))
    assert result.of_image(1).rows.tolist() == [[2]]
    for image in range(2):
        alone = average(
            narrowed([Segmentation(p.logits[image, None]) for p in parts(2, 10)], [[k[image]] for k in kept])
        )
        assert torch.equal(result.of_image(image).logits, alone.of_image(0).logits)
        assert torch.equal(result.of_image(image).correlations[0], alone.of_image(0).correlations[0])


def test_maps_belong_to_the_rows_of_the_whole_image() -> None:
    result = average(narrowed(parts(2, 10), KEPT))
    assert result.map_rows.tolist() == [[1, 5, -1], [0, 2, 9]]
    first = result.of_image(0)
    assert first.map_rows.tolist() == [[1, 5]] and first.correlations[0].shape == (1, 2, 8, 8)


def test_rows_left_out_in_the_whole_image_alone_come_from_the_windows() -> None:
    whole, *windows = parts(1, 4)
    (few,) = narrowed([whole], [[[2]]])
    result = average([few, *windows])
    assert result.rows.tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(result.row_probabilities(4), of_all_rows([few, *windows], 4))
