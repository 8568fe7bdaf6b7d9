"""k-means on the pixel coordinates of many regions at once: it cuts the regions of ESC-Net into pseudo objects."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

BACKENDS = ("torch", "sklearn")

# The search for a start. On 600 random regions of a 24x24 grid and k = 5 the inertia is at most 4 % above that of
# scikit-learn's best of 10 starts; with a sample of 128 pixels, or with two START_ITERATIONS, it is up to 7 % above.
SAMPLE_SIZE = 160  # pixels of a region on which starts are compared; smaller regions are taken whole
STARTS, STARTS_PER_CLUSTER = 32, 6  # the larger of STARTS and STARTS_PER_CLUSTER · k
START_ITERATIONS = 3
FINALISTS = 8  # starts that go on for FINALIST_ITERATIONS; the best of them is then refined on all pixels
FINALIST_ITERATIONS = 5
LATTICE = 16  # centres of the search lie on a lattice of 1/16 pixel, see `_lloyd_on_sample`

# Elements of the largest temporary (4 bytes each); on a CPU it has to stay in the cache.
CHUNK_ELEMENTS_CPU = 1 << 20
CHUNK_ELEMENTS = 1 << 24


class KMeansResult(NamedTuple):
    """Clusters of each map: the non-empty ones first, larger before smaller, equal ones by centre (y, then x).

    assignment: (..., h, w) int64, cluster index 0..k-1 inside the region and -1 outside.
    centers: (..., k, 2) float32, mean (x, y) of the cluster's pixels in grid units; (0, 0) for an empty cluster.
    sizes: (..., k) int64, number of pixels; 0 for an empty cluster.
    inertia: (...) float32, sum over the pixels of the squared distance to their centre.
    """

    assignment: Tensor
    centers: Tensor
    sizes: Tensor
    inertia: Tensor


@torch.no_grad()
def batched_kmeans(points_mask: Tensor, k: int, iterations: int = 8, backend: str = "torch") -> KMeansResult:
    """Split the region of every map into k clusters of pixels (ESC-Net, pseudo prompt generation).

    The torch back end runs on the tensor's device without random numbers or host synchronisation, and gives a map the
    same result alone and in a batch. A region of fewer than k pixels makes each pixel its own cluster and leaves the
    surplus clusters empty; an empty region has only empty clusters.

    Args:
        points_mask: (..., h, w) regions, non-zero = inside; bool, integer or float.
        k: number of clusters, K in the paper.
        iterations: Lloyd iterations on all pixels after the search for a start, a fixed count (torch back end only).
        backend: "torch", or "sklearn" for scikit-learn's KMeans (best of 10 starts), map by map on the CPU.

    Raises:
        ValueError: points_mask is not (..., h, w) with at least one pixel, k or iterations below 1, unknown back end.
        ImportError: back end "sklearn" without scikit-learn.
    """
    if points_mask.dim() < 2 or 0 in points_mask.shape[-2:]:
        raise ValueError(f"points_mask must be (..., h, w) with h, w >= 1, got the shape {tuple(points_mask.shape)}")
    if k < 1 or iterations < 1:
        raise ValueError(f"k and iterations must be at least 1, got k={k} and iterations={iterations}")
    if backend not in BACKENDS:
        raise ValueError(f"the k-means back end must be one of {BACKENDS}, got {backend!r}")

    *batch, h, w = points_mask.shape
    regions = (points_mask != 0).reshape(math.prod(batch), h, w)
    with torch.autocast(regions.device.type, enabled=False):  # half precision cannot hold the squared distances
        labels = _torch_labels(regions, k, iterations) if backend == "torch" else _sklearn_labels(regions, k)
        parts = [_clusters_of(part, k) for part in _chunks(labels, k * h * w)]
    return KMeansResult(
        *(torch.cat(field).reshape((*batch, *field[0].shape[1:])) for field in zip(*parts, strict=True))
    )


def _torch_labels(regions: Tensor, k: int, iterations: int) -> Tensor:
    """Cluster index of every pixel, -1 outside the region: (M, h, w) bool → (M, h, w)."""
    h, w = regions.shape[-2:]
    sample_size = min(max(SAMPLE_SIZE, 8 * k), h * w)
    starts = max(STARTS, STARTS_PER_CLUSTER * k)
    parts = _chunks(regions, starts * k * sample_size)
    centers = torch.cat([_search_start(part, k, starts, sample_size) for part in parts])
    parts = zip(_chunks(regions, k * h * w), _chunks(centers, k * h * w), strict=True)
    return torch.cat([_lloyd_on_grid(part, start, iterations) for part, start in parts])


def _chunks(maps: Tensor, elements_per_map: int) -> tuple[Tensor, ...]:
    """Equal parts of (M, ...), so small that a temporary of `elements_per_map` for each map keeps within the budget."""
    if torch.compiler.is_exporting():
        return (maps,)  # a graph for any number of maps has no number of parts
    budget = CHUNK_ELEMENTS_CPU if maps.device.type == "cpu" else CHUNK_ELEMENTS
    return maps.chunk(max(1, math.ceil(len(maps) * elements_per_map / budget)))


def _search_start(regions: Tensor, k: int, starts: int, sample_size: int) -> Tensor:
    """The best centres found on a sample of each region's pixels: (M, h, w) → centred (x, y) (M, k, 2)."""
    points, valid = _sample_pixels(regions, sample_size)
    centers = _seed(points, valid, k, starts)
    centers, inertia = _lloyd_on_sample(points, valid, centers, START_ITERATIONS)
    centers = _best(centers, inertia, FINALISTS)
    centers, inertia = _lloyd_on_sample(points, valid, centers, FINALIST_ITERATIONS)
    return _best(centers, inertia, 1).squeeze(1)


def _sample_pixels(regions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`size` evenly spread pixels of every region: (M, h, w) → centred (x, y) (M, 2, size), valid 0/1 (M, 1, size).

    Pixels are numbered to and fro along strips about as high as the samples are far apart, so that near numbers are
    near pixels, and every (n / size)-th is taken. A region of n < size pixels is taken whole, the rest is not valid.
    """
    h, w = regions.shape[-2:]
    cell = torch.arange(h * w, device=regions.device)
    y, x = cell // w, cell % w
    strip_height = max(1, round(math.sqrt(h * w / size)))
    strip, y_in_strip = y // strip_height, y % strip_height
    x_to_and_fro = torch.where(strip % 2 == 0, x, w - 1 - x)
    order = ((strip * w + x_to_and_fro) * strip_height + y_in_strip).argsort()

    number = regions.flatten(1)[:, order].cumsum(-1)
    count = number[:, -1:]
    place = torch.arange(size, device=regions.device)
    wanted = 1 + torch.where(count > size, (2 * place + 1) * count // (2 * size), place)
    pixel = order[_places(number, wanted).clamp_max_(h * w - 1)]
    points = torch.stack((pixel % w - w // 2, pixel // w - h // 2), dim=1)
    return points.float(), (place < count).unsqueeze(1).float()


def _seed(points: Tensor, valid: Tensor, k: int, starts: int) -> Tensor:
    """k-means++ with evenly distributed numbers in the place of random ones: centres (M, starts, k, 2)."""
    quantiles = _evenly_distributed(starts, k, points.device)
    x, y = points.split(1, dim=1)
    pixels = points.transpose(1, 2)
    index = (quantiles[:, :1] * valid.sum(-1, keepdim=True)).long()
    centers = [pixels.gather(1, index.expand(-1, -1, 2))]
    nearest = points.new_full((points.shape[0], starts, points.shape[-1]), torch.inf)
    for step in range(1, k):
        center_x, center_y = centers[-1].split(1, dim=-1)
        nearest = torch.minimum(nearest, (x - center_x).square_().add_((y - center_y).square_()))
        # Squared distances on the grid are integers, so the sums are exact in whatever order they are taken.
        cumulated = (nearest * valid).cumsum(-1)
        drawn = quantiles[:, step, None] * cumulated[..., -1:]
        index = _places(cumulated, drawn, right=True).clamp_max_(points.shape[-1] - 1)
        centers.append(pixels.gather(1, index.expand(-1, -1, 2)))
    return torch.stack(centers, dim=2)


def _places(ascending: Tensor, values: Tensor, right: bool = False) -> Tensor:
    """`torch.searchsorted`; in an exported graph, which has no such operator, by counting what comes before."""
    if not torch.compiler.is_exporting():
        return torch.searchsorted(ascending, values, right=right)
    before, values = ascending.unsqueeze(-2), values.unsqueeze(-1)
    return (before <= values if right else before < values).sum(dim=-1)


def _evenly_distributed(count: int, dim: int, device: torch.device) -> Tensor:
    """Additive recurrence with powers of the generalised golden ratio, g^(dim + 1) = g + 1: (count, dim) in [0, 1)."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (dim + 1))
    step = ratio ** -torch.arange(1, dim + 1, device=device, dtype=torch.float32)
    return (0.5 + torch.arange(1, count + 1, device=device).unsqueeze(1) * step) % 1


def _lloyd_on_sample(points: Tensor, valid: Tensor, centers: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd iterations of S starts, (M, S, k, 2) → centres and inertia (M, S), less the points' own sum of |x|².

    The inertia is that before the last update. A point as near to two centres counts for both: rare, and the final
    iterations decide such ties. On a lattice all products are exact, hence the same for one map and for many.
    """
    starts, k = centers.shape[1:3]
    moments = torch.cat((points * valid, valid), dim=1).transpose(1, 2)
    # One buffer: allocating it costs as much.
    distance = points.new_empty((points.shape[0], starts * k, points.shape[-1]))
    for _ in range(iterations):
        flat = (centers * LATTICE).round_().div_(LATTICE).flatten(1, 2)
        torch.baddbmm(flat.square().sum(-1, keepdim=True), flat, points, alpha=-2, out=distance)
        of_start = distance.unflatten(1, (starts, k))
        nearest = of_start.amin(2, keepdim=True)
        of_start.eq_(nearest)
        sums = (distance @ moments).unflatten(1, (starts, k))
        size = sums[..., 2:]
        centers = torch.where(size > 0, sums[..., :2] / size.clamp_min(1), centers)
    return centers, (nearest.squeeze(2) * valid).sum(-1)


def _best(centers: Tensor, inertia: Tensor, count: int) -> Tensor:
    """The `count` starts of lowest inertia: (M, S, k, 2), (M, S) → (M, count, k, 2)."""
    index = inertia.sort(dim=1, stable=True).indices[:, :count]
    return centers.gather(1, index[..., None, None].expand(-1, -1, *centers.shape[2:]))


def _lloyd_on_grid(regions: Tensor, centers: Tensor, iterations: int) -> Tensor:
    """Refine centred (x, y) centres (M, k, 2) on all pixels of the regions (M, h, w); the labels, -1 outside."""
    h, w = regions.shape[-2:]
    k = centers.shape[1]
    x, y = torch.arange(w, device=regions.device), torch.arange(h, device=regions.device)
    outside = ~regions.unsqueeze(1)
    center_x, center_y = centers[..., 0] + w // 2, centers[..., 1] + h // 2
    for _ in range(iterations - 1):
        keys = _distance_keys(center_x, center_y, x, y)
        nearest = keys.amin(1, keepdim=True).masked_fill_(outside, -1)
        columns, rows = _profiles(keys.eq_(nearest).float())
        size = columns.sum(-1)
        center_x = torch.where(size > 0, (columns * x).sum(-1) / size.clamp_min(1), center_x)
        center_y = torch.where(size > 0, (rows * y).sum(-1) / size.clamp_min(1), center_y)
    nearest = _distance_keys(center_x, center_y, x, y).amin(1)
    return (nearest & _index_mask(k)).masked_fill_(~regions, -1).long()


def _index_mask(k: int) -> int:
    return (1 << (k - 1).bit_length()) - 1


def _distance_keys(center_x: Tensor, center_y: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of centres (M, k) to the grid's pixels, as int32 keys (M, k, h, w) with the index of the centre
    in the low bits: the least key names the nearest centre, the first one of equals, in one vectorised reduction."""
    k = center_x.shape[1]
    index_bits = (k - 1).bit_length()
    largest = max(1, (len(x) - 1) ** 2 + (len(y) - 1) ** 2)
    scale = 2.0 ** (30 - index_bits - largest.bit_length())
    index = torch.arange(k, device=x.device, dtype=torch.int32).unsqueeze(1)
    key_x = ((x - center_x.unsqueeze(-1)).square_() * scale).round_().int() << index_bits
    key_y = ((y - center_y.unsqueeze(-1)).square_() * scale).round_().int() << index_bits
    return (key_x + index).unsqueeze(2) + key_y.unsqueeze(3)


def _profiles(member: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels per column and per row of each cluster: (M, k, h, w) 0/1 → (M, k, w), (M, k, h)."""
    return member.sum(2), member.sum(3)


def _sklearn_labels(regions: Tensor, k: int) -> Tensor:
    """Cluster index of every pixel by scikit-learn, -1 outside the region: (M, h, w) bool → (M, h, w)."""
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError("the k-means back end 'sklearn' needs scikit-learn: pip install 'escnet[sklearn]'") from error

    labels = torch.full(regions.shape, -1, dtype=torch.int64)
    for region, label in zip(regions.cpu(), labels, strict=True):
        pixels = region.nonzero()
        if len(pixels) > 0:
            model = KMeans(n_clusters=min(k, len(pixels)), n_init=10, random_state=0)
            label[region] = torch.from_numpy(model.fit_predict(pixels.flip(1).double().numpy())).long()
    return labels.to(regions.device)


def _clusters_of(labels: Tensor, k: int) -> KMeansResult:
    """Order the clusters of (M, h, w) labels and measure them; all sums are over integers and therefore exact."""
    h, w = labels.shape[-2:]
    x, y = torch.arange(w, device=labels.device), torch.arange(h, device=labels.device)
    columns, rows = _profiles(labels.unsqueeze(1) == torch.arange(k, device=labels.device).view(k, 1, 1))
    size, sum_x, sum_y = columns.sum(-1), (columns * x).sum(-1), (rows * y).sum(-1)
    sum_squares = (columns * x.square()).sum(-1) + (rows * y.square()).sum(-1)

    order = (sum_y * (h * w * w) + sum_x).argsort(dim=1, stable=True)
    order = order.gather(1, size.gather(1, order).argsort(dim=1, descending=True, stable=True))
    rank = order.argsort(dim=1)
    ranked = rank.gather(1, labels.flatten(1).clamp_min(0)).view_as(labels)

    divisor = size.clamp_min(1)
    spread = (size * sum_squares - sum_x.square() - sum_y.square()) / divisor
    centers = torch.stack((sum_x, sum_y), dim=-1) / divisor.unsqueeze(-1)
    return KMeansResult(
        assignment=ranked.masked_fill_(labels < 0, -1),
        centers=centers.gather(1, order.unsqueeze(-1).expand(-1, -1, 2)),
        sizes=size.gather(1, order),
        inertia=spread.sum(-1),
    )
