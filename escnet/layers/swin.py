"""Swin Transformer blocks whose queries and keys also see guidance (Swin Transformer, sec. 3.2; CAT-Seg, sec. 3.3)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.feed_forward import mlp, projection


class GuidedSwinBlock(nn.Module):
    """A Swin Transformer block whose queries and keys also see guidance features of C channels (0: they do not)."""

    def __init__(
        self, dim: int, feature_dim: int, num_heads: int, window: int, shift: int, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.guidance = projection(feature_dim, 2 * dim) if feature_dim else None
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp(dim, mlp_ratio)
        self.position_bias = nn.Parameter(torch.zeros(num_heads, (2 * window - 1) ** 2))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self._last_plan: tuple[tuple[int, int], WindowPlan] | None = None

    def guide(self, features: Tensor) -> Tensor | None:
        """(..., hw, C) features to their share of the queries and keys, (..., hw, 2d)."""
        return self.guidance(features) if self.guidance is not None else None

    def forward(self, x: Tensor, guide: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """
        Args:
            x: (B, n, hw, d).
            guide: (B, n, hw, 2d), or (B, 1, hw, 2d) for all classes; None without guidance.
            grid: (h, w).
        """
        qkv = self.qkv(self.norm1(x))
        if guide is not None:
            qkv[..., : guide.shape[-1]] += guide
        x = x + self.proj(self._attend(qkv.flatten(0, 1), grid).view_as(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, qkv: Tensor, grid: tuple[int, int]) -> Tensor:
        """(M, hw, 3d) projections to the attention result, (M, hw, d)."""
        plan = self._plan(grid, qkv.device)
        windows = qkv.index_select(1, plan.cells.clamp(min=0).flatten())
        # Windows of different masks stand beside the heads, where one copy serves every class; others need no copy.
        order = "m (v x) p c" if plan.is_masked else "(m v) x p c"
        query, key, value = rearrange(
            windows, f"m (v p) (three x c) -> three {order}", v=len(plan.cells), three=3, x=self.num_heads
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self._mask(plan).to(query.dtype))
        attended = rearrange(attended, f"{order} -> m (v p) (x c)", v=len(plan.cells), x=self.num_heads)
        return attended.index_select(1, plan.place)

    @torch.compiler.disable
    @torch.inference_mode(False)
    def _plan(self, grid: tuple[int, int], device: torch.device) -> WindowPlan:
        """The plan of a grid, which stays on the device: the host would wait at each copy of one.

        A block that has predicted in inference mode can be trained, and threads may run it on grids of their own.
        """
        last = self._last_plan
        if last is None or (grid, device) != (last[0], last[1].cells.device):
            last = self._last_plan = grid, window_plan(grid, self.window, self.shift).to(device)
        return last[1]

    def _mask(self, plan: WindowPlan) -> Tensor:
        """(1, heads, p, p) relative position bias, or (1, windows·heads, p, p), -inf where cells may not see others."""
        bias = self.position_bias[:, plan.offset]
        if not plan.is_masked:
            return bias.unsqueeze(0)
        blocked = ~plan.visible.unsqueeze(1)
        return bias.unsqueeze(0).masked_fill(blocked, float("-inf")).flatten(0, 1).unsqueeze(0)


class WindowPlan(NamedTuple):
    """How an h×w grid is cut into windows of p = window² places.

    Attributes:
        cells: (windows, p) index of the cell at each place, -1 where the grid was padded.
        place: (hw,) where each cell stands in the flattened `cells`.
        visible: (windows, p, p) bool, whether two places may see each other.
        offset: (p, p) index of the relative position in a table of (2·window - 1)² entries.
        is_masked: whether any two places of a window may not see each other.
    """

    cells: Tensor
    place: Tensor
    visible: Tensor
    offset: Tensor
    is_masked: bool

    def to(self, device: torch.device) -> WindowPlan:
        """The same on a device."""
        return WindowPlan(*(tensor.to(device) for tensor in self[:-1]), self.is_masked)


@lru_cache(maxsize=64)
def window_plan(grid: tuple[int, int], window: int, shift: int) -> WindowPlan:
    """Cut a grid, padded to whole windows and rolled by `shift` cells, into windows (Swin Transformer, sec. 3.2).

    Cells that the roll brought together from opposite ends of the grid do not see each other; nothing sees padding,
    save that a place of padding sees itself, so that no softmax is empty.
    """
    h, w = grid
    rows, columns = (-(-side // window) * window for side in grid)
    row = torch.arange(rows).roll(-shift)
    column = torch.arange(columns).roll(-shift)
    is_cell = (row < h)[:, None] & (column < w)[None]
    cell = torch.where(is_cell, row[:, None] * w + column[None], -1)
    # Before the roll: regions 0 and 1 are the part that stays and the part that was carried round.
    region = 2 * (torch.arange(rows) >= rows - shift)[:, None] + (torch.arange(columns) >= columns - shift)[None]
    cells, regions = (
        rearrange(t.expand(rows, columns), "(r a) (c b) -> (r c) (a b)", a=window, b=window) for t in (cell, region)
    )
    inside = cells >= 0
    visible = (regions[:, :, None] == regions[:, None]) & inside[:, None, :]
    visible |= torch.eye(window * window, dtype=torch.bool)
    place = torch.empty(h * w, dtype=torch.long)
    place[cells[inside]] = torch.arange(cells.numel())[inside.flatten()]
    a, b = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    a, b = a.flatten(), b.flatten()
    offset = (a[:, None] - a[None] + window - 1) * (2 * window - 1) + (b[:, None] - b[None] + window - 1)
    return WindowPlan(cells, place, visible, offset, not bool(visible.all()))
