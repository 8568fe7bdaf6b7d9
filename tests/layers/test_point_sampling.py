"""Points drawn from score maps: only where the score is high enough, likelier where it is higher, none twice."""

from __future__ import annotations

import torch

from escnet.layers.point_sampling import sample_evenly, sample_points


def test_only_cells_above_the_threshold_are_drawn() -> None:
    scores = torch.zeros(2, 3, 4)
    scores[0, 1, 2], scores[0, 2, 0], scores[0, 0, 0] = 0.9, 0.6, 0.5
    drawn = sample_points(scores, 0.5, 3, torch.rand(12))
    assert sorted(drawn.cells[0, :2].tolist()) == [[0.0, 2.0], [2.0, 1.0]]
    assert drawn.labels.tolist() == [[1.0, 1.0, -1.0], [-1.0, -1.0, -1.0]]


def test_a_cell_is_drawn_in_proportion_to_its_score() -> None:
    scores = torch.tensor([[[0.2, 0.6]]]).expand(4000, 1, 2)
    uniform = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    share = sample_points(scores, 0.1, 1, uniform).cells[:, 0, 0].mean().item()
    assert abs(share - 0.75) < 0.03


def test_no_cell_is_drawn_twice_and_few_cells_give_few_points() -> None:
    drawn = sample_points(torch.full((5, 2, 2), 0.7), 0.5, 9, torch.rand(5, 4))
    assert drawn.cells.shape == (5, 4, 2)
    for cells in drawn.cells.tolist():
        assert len({tuple(cell) for cell in cells}) == 4


def test_the_same_numbers_give_the_same_points() -> None:
    scores, uniform = torch.rand(3, 4, 5), torch.rand(20)
    together = sample_points(scores, 0.3, 2, uniform)
    alone = sample_points(scores[1:2], 0.3, 2, uniform)
    assert torch.equal(together.cells[1:2], alone.cells)


def test_even_points_are_the_cells_of_the_regions_in_their_shares() -> None:
    region = torch.zeros(3, 2, 4, dtype=torch.bool)
    region[0, 0, 1] = region[0, 1, 0] = region[0, 1, 3] = True
    region[1, 1, 2] = True
    drawn = sample_evenly(region, torch.tensor([0.0, 0.34, 0.99, 1.0]))
    assert drawn.cells[0].tolist() == [[1, 0], [0, 1], [3, 1], [3, 1]]
    assert drawn.cells[1].tolist() == [[2, 1]] * 4
    assert drawn.labels.tolist() == [[1] * 4, [1] * 4, [-1] * 4]


def test_even_points_fall_on_each_cell_alike() -> None:
    region = torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.6
    drawn = sample_evenly(region, torch.rand(1, 20_000, generator=torch.Generator().manual_seed(1)))
    x, y = drawn.cells[0].long().unbind(dim=1)
    counts = torch.zeros(5, 7).index_put_((y, x), torch.ones(len(x)), accumulate=True)
    assert (counts > 0).equal(region[0])
    expected = 20_000 / region.sum()
    assert ((counts[region[0]] - expected).abs() < 5 * expected**0.5).all()
