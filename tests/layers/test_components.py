"""Connected parts, against scipy's labelling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from escnet.layers.components import connected_roots, largest_components

EIGHT = np.ones((3, 3), dtype=int)


def snake(side: int) -> torch.Tensor:
    """One path of single cells to and fro over the whole grid, the longest way there is for its area."""
    grid = torch.zeros(side, side, dtype=torch.bool)
    grid[::2] = True
    grid[1::4, -1] = True
    grid[3::4, 0] = True
    return grid


def same_partition(roots: np.ndarray, expected: np.ndarray) -> bool:
    pairs = set(zip(roots.tolist(), expected.tolist(), strict=True))
    return len(pairs) == len(set(roots.tolist())) == len(set(expected.tolist()))


@pytest.mark.parametrize("share", (0.2, 0.4, 0.5, 0.6, 0.9))
def test_parts_are_those_of_scipy(share: float) -> None:
    regions = torch.rand(40, 13, 17, generator=torch.Generator().manual_seed(int(10 * share))) < share
    roots = connected_roots(regions)
    for region, root in zip(regions, roots, strict=True):
        inside = region.numpy()
        assert same_partition(root.numpy()[inside], label(inside, EIGHT)[0][inside])
        assert (root[~region] == torch.arange(13 * 17).view(13, 17)[~region]).all()


@pytest.mark.parametrize("side", (7, 16, 24, 41))
def test_a_long_path_is_one_part(side: int) -> None:
    region = snake(side)
    assert label(region.numpy(), EIGHT)[1] == 1
    for turned in (region, region.flip(0), region.flip(1), region.T, region.flip((0, 1))):
        assert connected_roots(turned[None])[0][turned].unique().numel() == 1


def test_the_largest_parts_are_numbered_and_the_rest_goes_to_the_nearest() -> None:
    rows = ["##...#...", "##.......", ".........", "......###", "#.....###"]
    region = torch.tensor([[cell == "#" for cell in row] for row in rows])
    parts = largest_components(region, 2)
    assert parts[~region].unique().tolist() == [-1]
    assert parts[3:, 6:].unique().tolist() == [0]
    assert parts[:2, :2].unique().tolist() == [1]
    # Centres at (7, 3.5) and (0.5, 0.5), as (x, y): 4.03 and 4.53 from the first of the single cells.
    assert parts[0, 5] == 0 and parts[4, 0] == 1
    three = largest_components(region, 3)
    assert three[0, 5] == 2 and three[4, 0] == 1
    assert largest_components(region, 9).max() == 3


def test_sizes_fall_and_the_parts_cover_the_region() -> None:
    regions = torch.rand(3, 10, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.35
    for k in (1, 3, 200):
        parts = largest_components(regions, k)
        assert torch.equal(parts >= 0, regions)
        assert parts.max() < k
    sizes = torch.stack([(parts == i).sum(dim=(2, 3)) for i in range(8)])
    assert (sizes[:-1] >= sizes[1:]).all()


def test_a_map_has_the_same_parts_alone_and_in_a_batch() -> None:
    regions = torch.rand(6, 9, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    together = largest_components(regions, 4)
    for region, parts in zip(regions, together, strict=True):
        assert torch.equal(largest_components(region, 4), parts)


def test_empty_regions_and_more_parts_than_cells() -> None:
    assert largest_components(torch.zeros(2, 3, 3, dtype=torch.bool), 5).unique().tolist() == [-1]
    assert largest_components(torch.ones(1, 1, dtype=torch.bool), 5).tolist() == [[0]]
    with pytest.raises(ValueError, match="at least 1"):
        largest_components(torch.zeros(2, 2, dtype=torch.bool), 0)
