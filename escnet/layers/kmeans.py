"""TEMPORARY stand-in until the k-means helper puts its file here (overwrite it)."""

from typing import NamedTuple

import torch


class KMeansResult(NamedTuple):
    assignment: torch.Tensor
    centers: torch.Tensor
    sizes: torch.Tensor
    inertia: torch.Tensor


@torch.no_grad()
def batched_kmeans(points_mask, k, iterations=10, backend="torch"):
    *lead, h, w = points_mask.shape
    m = points_mask.reshape(-1, h * w).bool()
    M = len(m)
    dev = m.device
    ys, xs = torch.meshgrid(torch.arange(h, device=dev), torch.arange(w, device=dev), indexing="ij")
    p = torch.stack([xs, ys], -1).view(-1, 2).float()
    first = m.float().argmax(1)
    d = ((p[None] - p[first][:, None]) ** 2).sum(-1).masked_fill(~m, -1)
    cs = [p[first]]
    for _ in range(k - 1):
        i = d.argmax(1)
        cs.append(p[i])
        d = torch.minimum(d, ((p[None] - p[i][:, None]) ** 2).sum(-1)).masked_fill(~m, -1)
    c = torch.stack(cs, 1)
    for _ in range(iterations):
        a = ((p[None, None] - c[:, :, None]) ** 2).sum(-1).argmin(1)
        o = torch.nn.functional.one_hot(a, k).float() * m[..., None]
        s = o.sum(1)
        c = torch.where(s[..., None] > 0, (o.transpose(1, 2) @ p) / s.clamp(min=1)[..., None], c)
    a = torch.where(m, a, -1)
    return KMeansResult(a.view(*lead, h, w), c.view(*lead, k, 2), s.long().view(*lead, k), s.new_zeros(M).view(*lead))
