"""Tests of batched_kmeans against scikit-learn, brute force and a hand-worked case."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from escnet.layers import kmeans
from escnet.layers.kmeans import KMeansResult, batched_kmeans


def random_regions(count: int, generator: torch.Generator, size: int = 24, fewest: int = 6) -> Tensor:
    """(count, size, size): smooth fields cut at a level, rectangles, ellipses, blobs, salt and pepper, a full map."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")

    def ellipses(number: int, smallest: float, largest: float) -> Tensor:
        cx, cy = uniform(0, size, 2, number, 1, 1)
        rx, ry = uniform(smallest, largest, 2, number, 1, 1)
        return (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1).any(0)

    def smooth_field() -> Tensor:
        width = int(uniform(1, 9, 1))
        noise = torch.randn(1, size + width, size + width, generator=generator)
        field = torch.nn.functional.avg_pool2d(noise, width, stride=1)[0, :size, :size]
        return field > field.flatten().quantile(uniform(0.02, 0.97, 1))

    def rectangles() -> Tensor:
        x0, y0 = uniform(0, size - 4, 2, 3, 1, 1)
        width, height = uniform(1, 14, 2, 3, 1, 1)
        return ((x >= x0) & (x < x0 + width) & (y >= y0) & (y < y0 + height)).any(0)

    kinds = (
        smooth_field,
        rectangles,
        lambda: ellipses(int(uniform(1, 4, 1)), 1, 9),
        lambda: ellipses(int(uniform(2, 12, 1)), 0.8, 4),
        lambda: torch.rand(size, size, generator=generator) < uniform(-4.4, -0.5, 1).exp(),
    )
    regions = [torch.ones(size, size, dtype=torch.bool)]
    while len(regions) < count:
        region = kinds[int(uniform(0, len(kinds), 1))]()
        if region.sum() >= fewest:
            regions.append(region)
    return torch.stack(regions)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def small_masks(size: int = 3) -> Tensor:
    """Every mask of size by size pixels."""
    numbers = torch.arange(2 ** (size * size)).unsqueeze(1)
    return (numbers >> torch.arange(size * size) & 1).view(-1, size, size).bool()


def pixels_of(mask: Tensor) -> Tensor:
    return mask.nonzero().flip(1).double()


def assert_same(first: KMeansResult, second: KMeansResult) -> None:
    for name, a, b in zip(KMeansResult._fields, first, second, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), name


def test_hand_worked_case():
    mask = torch.tensor(
        [
            [0, 0, 0, 1, 1, 1],
            [0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
        ]
    )
    result = batched_kmeans(mask, 2)
    assert result.assignment.tolist() == [
        [-1, -1, -1, 1, 1, 1],
        [-1, -1, -1, -1, -1, -1],
        [0, 0, -1, -1, -1, -1],
        [0, 0, -1, -1, -1, -1],
    ]
    assert result.centers.tolist() == [[0.5, 2.5], [4.0, 0.0]]
    assert result.sizes.tolist() == [4, 3]
    assert result.inertia.item() == 4.0  # 4 · (0.25 + 0.25) + (1 + 0 + 1)


def test_clusters_of_equal_size_are_ordered_by_row_then_column():
    mask = torch.zeros(9, 9)
    mask[[0, 0, 8, 8], [0, 8, 0, 8]] = 1
    assert batched_kmeans(mask, 4).centers.tolist() == [[0, 0], [8, 0], [0, 8], [8, 8]]


@pytest.mark.parametrize(("k", "count"), [(5, 200), (1, 40), (3, 40), (9, 40)])
def test_inertia_is_within_5_percent_of_the_best_of_10_starts_of_sklearn(k, count, generator):
    pytest.importorskip("sklearn")
    regions = random_regions(count, generator, fewest=max(6, k + 1))
    ours = batched_kmeans(regions, k)
    reference = batched_kmeans(regions, k, backend="sklearn")
    assert (ours.inertia / reference.inertia).max() <= 1.05
    assert (ours.sizes > 0).all()


def test_inertia_against_every_partition_of_every_small_mask():
    masks = small_masks()[1:]
    inertia = batched_kmeans(masks, 2).inertia
    for mask, found in zip(masks, inertia, strict=True):
        pixels = pixels_of(mask)
        sides = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(pixels) - 1)), dtype=torch.float64)
        members = torch.cat((torch.zeros(len(sides), 1), sides.view(len(sides), -1)), 1)
        members = torch.stack((members, 1 - members), 1)  # (partitions, 2, n)
        sizes = members.sum(-1, keepdim=True).clamp_min(1)
        optimum = pixels.square().sum() - ((members @ pixels).square() / sizes).sum((1, 2)).max()
        assert found == pytest.approx(optimum.item(), abs=1e-5)


@pytest.mark.parametrize("k", [4, 5, 9, 12])
def test_with_fewer_pixels_than_clusters_each_pixel_is_its_own_cluster(k):
    masks = small_masks()
    result = batched_kmeans(masks, k)
    count = masks.sum((1, 2))
    assert torch.equal((result.sizes > 0).sum(1), count.clamp_max(k))
    few = count <= k
    assert result.sizes[few].max() == 1
    assert result.inertia[few].abs().max() == 0
    assert all(bool(torch.isfinite(field).all()) for field in result)
    assert (result.centers[result.sizes == 0] == 0).all()


def test_more_clusters_than_pixels_of_the_grid_or_of_the_sample():
    assert batched_kmeans(torch.ones(2, 3), 20).sizes.tolist() == [1] * 6 + [0] * 14
    k = kmeans.SAMPLE_SIZE + 40
    sizes = batched_kmeans(torch.ones(16, 16), k, iterations=3).sizes
    assert sizes.shape == (k,) and sizes.sum() == 256 and sizes.min() >= 1


def test_empty_maps_have_only_empty_clusters():
    result = batched_kmeans(torch.zeros(3, 4, 6, 5), 5)
    assert (result.assignment == -1).all()
    assert (result.sizes == 0).all() and (result.centers == 0).all() and (result.inertia == 0).all()


def test_a_batch_without_maps():
    result = batched_kmeans(torch.zeros(2, 0, 6, 5, dtype=torch.bool), 3)
    assert [tuple(field.shape) for field in result] == [(2, 0, 6, 5), (2, 0, 3, 2), (2, 0, 3), (2, 0)]


@pytest.mark.parametrize("size", [24, 67])
def test_a_map_gives_the_same_result_alone_and_in_a_batch(size, generator):
    regions = random_regions(45, generator, size=size, fewest=0)
    regions[7] = False
    together = batched_kmeans(regions, 5)
    for index in range(0, 45, 4):
        assert_same(batched_kmeans(regions[index], 5), KMeansResult(*(field[index] for field in together)))
    shuffled = torch.randperm(45, generator=generator)
    assert_same(batched_kmeans(regions[shuffled], 5), KMeansResult(*(field[shuffled] for field in together)))


def test_leading_dimensions_and_chunks_change_nothing(generator, monkeypatch):
    regions = random_regions(12, generator)
    flat = batched_kmeans(regions, 5)
    nested = batched_kmeans(regions.view(2, 3, 2, 24, 24), 5)
    assert nested.centers.shape == (2, 3, 2, 5, 2) and nested.inertia.shape == (2, 3, 2)
    assert_same(KMeansResult(*(field.flatten(0, 2) for field in nested)), flat)
    monkeypatch.setattr(kmeans, "CHUNK_ELEMENTS_CPU", 1)
    assert_same(batched_kmeans(regions, 5), flat)


def test_deterministic_and_without_random_numbers(generator):
    regions = random_regions(10, generator)
    state = torch.get_rng_state()
    first = batched_kmeans(regions, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert_same(batched_kmeans(regions, 5), first)


def test_passes_no_gradient_and_leaves_the_mask_alone():
    mask = torch.eye(6).requires_grad_()
    result = batched_kmeans(mask, 2)
    assert not any(field.requires_grad for field in result)
    assert torch.equal(mask, torch.eye(6))


def test_reads_no_value_back_to_the_host():
    # A fake tensor has no values: whatever depends on one (item, nonzero, a branch) raises.
    with FakeTensorMode():
        result = batched_kmeans(torch.ones(4, 24, 24, dtype=torch.bool), 5)
    assert result.assignment.shape == (4, 24, 24)


@pytest.mark.parametrize("backend", ["torch", "sklearn"])
def test_the_fields_of_a_result_agree(backend, generator):
    if backend == "sklearn":
        pytest.importorskip("sklearn")
    regions = torch.cat((random_regions(20, generator, fewest=2), torch.zeros(1, 24, 24, dtype=torch.bool)))
    result = batched_kmeans(regions, 5, iterations=40, backend=backend)
    assert result.assignment.dtype == result.sizes.dtype == torch.int64
    assert result.centers.dtype == result.inertia.dtype == torch.float32
    assert torch.equal(result.assignment >= 0, regions)
    for region, labels, centers, sizes, inertia in zip(regions, *result, strict=True):
        pixels, label = pixels_of(region), labels[region]
        assert sizes.tolist() == label.bincount(minlength=5).tolist() == sorted(sizes.tolist(), reverse=True)
        for index in range(min(5, len(pixels))):
            torch.testing.assert_close(centers[index].double(), pixels[label == index].mean(0), rtol=1e-6, atol=0)
        distances = torch.cdist(pixels, centers[sizes > 0].double()).square()
        assert inertia.item() == pytest.approx(distances[torch.arange(len(pixels)), label].sum().item(), rel=1e-5)
        if len(pixels):
            chosen = distances.gather(1, label.unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(chosen, distances.amin(1), rtol=0, atol=1e-4)


def test_more_iterations_do_not_raise_the_inertia(generator):
    regions = random_regions(20, generator)
    inertia = [batched_kmeans(regions, 5, iterations=count).inertia for count in (1, 2, 5, 20)]
    for before, after in itertools.pairwise(inertia):
        assert (after <= before * 1.00001).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float16, torch.bfloat16])
def test_non_zero_means_inside_in_any_dtype(dtype, generator):
    regions = random_regions(4, generator)
    values = (regions * torch.randint(1, 100, regions.shape, generator=generator)).to(dtype)
    assert_same(batched_kmeans(values, 5), batched_kmeans(regions, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_loses_no_precision(dtype, generator):
    regions = random_regions(6, generator)
    with torch.autocast("cpu", dtype=dtype):
        cast = batched_kmeans(regions, 5)
    assert_same(cast, batched_kmeans(regions, 5))


def test_non_square_and_non_contiguous_maps(generator):
    regions = random_regions(8, generator)[:, :9]
    result = batched_kmeans(regions, 3)
    assert result.assignment.shape == (8, 9, 24)
    assert_same(batched_kmeans(regions.contiguous(), 3), result)
    assert_same(batched_kmeans(regions.transpose(1, 2).contiguous().transpose(1, 2), 3), result)
    line = batched_kmeans(torch.ones(1, 12), 3)
    assert line.sizes.tolist() == [4, 4, 4] and line.centers.tolist() == [[1.5, 0], [5.5, 0], [9.5, 0]]


@pytest.mark.parametrize("transposed", [False, True])
def test_few_iterations_suffice_on_non_square_maps(transposed, generator):
    pytest.importorskip("sklearn")
    regions = random_regions(20, generator)[:, :7]
    regions = regions[regions.sum((1, 2)) > 5]
    if transposed:
        regions = regions.transpose(1, 2)
    inertia = batched_kmeans(regions, 5, iterations=1).inertia
    assert (inertia / batched_kmeans(regions, 5, backend="sklearn").inertia).max() <= 1.05


def test_the_search_for_a_start_is_exact_in_single_precision(generator):
    regions = random_regions(10, generator)
    points, valid = kmeans._sample_pixels(regions, 160)
    centers = 10 * torch.randn(10, 4, 5, 2, generator=generator)
    single = kmeans._lloyd_on_sample(points, valid, centers, 1)
    double = kmeans._lloyd_on_sample(points.double(), valid.double(), centers.double(), 1)
    assert torch.equal(single[1].double(), double[1])
    torch.testing.assert_close(single[0].double(), double[0], rtol=1e-6, atol=1e-6)


def test_sklearn_back_end_has_the_same_interface():
    pytest.importorskip("sklearn")
    mask = torch.zeros(2, 3, 6, 8)
    mask[0, 0, 0, 0] = mask[0, 1, :2, :2] = mask[0, 1, 5, 7] = 1
    ours, reference = batched_kmeans(mask, 2), batched_kmeans(mask, 2, backend="sklearn")
    assert_same(ours, reference)


def test_missing_sklearn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"escnet\[sklearn\]"):
        batched_kmeans(torch.ones(4, 4), 2, backend="sklearn")


@pytest.mark.parametrize(
    ("mask", "arguments", "message"),
    [
        (torch.ones(4), {"k": 2}, r"\(4,\)"),
        (torch.ones(2, 0, 4), {"k": 2}, r"\(2, 0, 4\)"),
        (torch.ones(4, 4), {"k": 0}, "k=0"),
        (torch.ones(4, 4), {"k": 2, "iterations": 0}, "iterations=0"),
        (torch.ones(4, 4), {"k": 2, "backend": "faiss"}, "faiss"),
    ],
)
def test_wrong_arguments_are_refused(mask, arguments, message):
    with pytest.raises(ValueError, match=message):
        batched_kmeans(mask, **arguments)


def test_an_exported_graph_finds_the_same_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = random_regions(40, torch.Generator().manual_seed(3))
    wanted = batched_kmeans(regions, 5)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for found, expected in zip(batched_kmeans(regions, 5), wanted, strict=True):
        assert torch.equal(found, expected)
