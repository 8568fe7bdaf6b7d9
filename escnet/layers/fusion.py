"""Vision-language fusion: refine correlation maps with image features, then with the other classes (ESC-Net, "VLF")."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.chunking import class_chunks, run_chunk

GUIDANCES = ("input", "qk", "input+qk")


class VisionLanguageFusion(nn.Module):
    """One step of refinement of the correlation maps of a vocabulary.

    Image guidance: each class's correlation is embedded to d channels together with the image features and goes through
    a pair of Swin blocks (plain and shifted windows), whose queries and keys see the image features once more. Text
    guidance: linear attention over the classes at each cell, whose queries and keys also see the text. It has no
    positional embedding, so any number of classes in any order will do. The refined map is the given one plus a learned
    change.

    Args:
        dim: d.
        feature_dim: C, channels of the image features.
        text_dim: D, channels of the text features.
        num_heads: attention heads, of the windows and of the classes.
        window: side of a window, in cells.
        mlp_ratio: width of the MLPs over d.
        guidance: where the image features enter: with the correlation (`input`), in the queries and keys of the Swin
            blocks (`qk`, as in CAT-Seg), or both (`input+qk`).

    Raises:
        ValueError: for an unknown guidance.
    """

    def __init__(
        self,
        dim: int,
        feature_dim: int,
        text_dim: int,
        num_heads: int = 4,
        window: int = 12,
        mlp_ratio: float = 4.0,
        guidance: str = "input+qk",
    ) -> None:
        super().__init__()
        if guidance not in GUIDANCES:
            raise ValueError(f"guidance must be one of {GUIDANCES}, got {guidance!r}")
        # W·[c; g] = W_c·c + W_g·g, so guidance that all classes share is projected once; here and in the Swin blocks.
        self.embed = nn.Linear(1, dim)
        self.embed_features = _projection(feature_dim, dim) if "input" in guidance else None
        self.swin = nn.ModuleList(
            GuidedSwinBlock(dim, feature_dim if "qk" in guidance else 0, num_heads, window, shift, mlp_ratio)
            for shift in (0, window // 2)
        )
        self.class_attention = ClassAttention(dim, text_dim, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(dim)
        self.change = nn.Linear(dim, 1)
        # The first step leaves the correlation map as CLIP made it.
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(
        self,
        correlation: Tensor,
        embedding: Tensor | None,
        features: Tensor,
        text: Tensor,
        logit_scale: Tensor | float,
        chunk: int = 0,
        recompute: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            correlation: (B, N, h, w) cosine similarities.
            embedding: (B, N, hw, d) carried from the block before, or None.
            features: (B, hw, C) image features for all classes, or (B, N, hw, C), one for each.
            text: (B, N, D) text features.
            logit_scale: CLIP's temperature: it gives the correlation the scale of logits, and back.
            chunk: classes at a time (0: all); the result does not depend on it.
            recompute: checkpoint the activations of each chunk.

        Returns:
            The refined correlation (B, N, h, w) and the embedding (B, N, hw, d).
        """
        grid = correlation.shape[-2:]
        classes = correlation.shape[1]
        # The offset that CLIP gives to all similarities alike carries nothing, and would drown the rest.
        logits = (correlation - correlation.mean(dim=(1, 2, 3), keepdim=True)) * logit_scale
        logits = logits.flatten(2).unsqueeze(-1)
        is_shared = features.dim() == 3
        guidance = self._guide(features.unsqueeze(1)) if is_shared else None

        spatial, context = [], None
        for s in class_chunks(classes, chunk):
            carried = embedding[:, s] if embedding is not None else None
            given = guidance if is_shared else self._guide(features[:, s])
            x, part = run_chunk(
                self._aggregate_space, logits[:, s], carried, given, text[:, s], grid, recompute=recompute
            )
            spatial.append(x)
            context = part if context is None else context.plus(part)

        embeddings, changes = [], []
        for i, s in enumerate(class_chunks(classes, chunk)):
            x, change = run_chunk(self._aggregate_classes, spatial[i], text[:, s], context, recompute=recompute)
            spatial[i] = None
            embeddings.append(x)
            changes.append(change)
        refined = correlation + torch.cat(changes, dim=1).view_as(correlation) / logit_scale
        return refined, torch.cat(embeddings, dim=1)

    def _guide(self, features: Tensor) -> Guidance:
        """What (B, n, hw, C) features, n classes or 1, give to the embedding and to each Swin block."""
        embedded = self.embed_features(features) if self.embed_features is not None else None
        return Guidance(embedded, [block.guide(features) for block in self.swin])

    def _aggregate_space(
        self, logits: Tensor, carried: Tensor | None, guidance: Guidance, text: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, ClassContext]:
        x = self.embed(logits)
        for given in (carried, guidance.embedded):
            if given is not None:
                x = x + given
        for block, guide in zip(self.swin, guidance.queries_keys, strict=True):
            x = block(x, guide, grid)
        return x, self.class_attention.context(x, text)

    def _aggregate_classes(self, x: Tensor, text: Tensor, context: ClassContext) -> tuple[Tensor, Tensor]:
        x = self.class_attention(x, text, context)
        return x, self.change(self.norm(x))


class Guidance(NamedTuple):
    """The image features' share, for n classes or, with n = 1, for all.

    Attributes:
        embedded: (B, n, hw, d) of the embedding, or None.
        queries_keys: (B, n, hw, 2d) of the queries and keys of each Swin block, or None.
    """

    embedded: Tensor | None
    queries_keys: list[Tensor | None]


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
        self.guidance = _projection(feature_dim, 2 * dim) if feature_dim else None
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _mlp(dim, mlp_ratio)
        self.position_bias = nn.Parameter(torch.zeros(num_heads, (2 * window - 1) ** 2))
        nn.init.trunc_normal_(self.position_bias, std=0.02)

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
        plan = window_plan(grid, self.window, self.shift)
        index = plan.cells.to(qkv.device)
        windows = qkv.index_select(1, index.clamp(min=0).flatten())
        # Windows stand beside the heads, where one mask serves every class.
        query, key, value = rearrange(
            windows, "m (v p) (three x c) -> three m (v x) p c", v=len(index), three=3, x=self.num_heads
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self._mask(plan).to(query.dtype))
        attended = rearrange(attended, "m (v x) p c -> m (v p) (x c)", v=len(index))
        return attended.index_select(1, plan.place.to(qkv.device))

    def _mask(self, plan: WindowPlan) -> Tensor:
        """(1, windows·heads, p, p) relative position bias, -inf between cells that may not see each other."""
        device = self.position_bias.device
        bias = self.position_bias[:, plan.offset.to(device)]
        if not plan.is_masked:
            return bias.repeat(len(plan.cells), 1, 1).unsqueeze(0)
        blocked = ~plan.visible.to(device).unsqueeze(1)
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


class ClassContext(NamedTuple):
    """Sums over the classes that linear attention needs; they add up over chunks.

    Attributes:
        key_value: (B, hw, X, c, c) sum of key ⊗ value.
        key: (B, hw, X, c) sum of keys.
    """

    key_value: Tensor
    key: Tensor

    def plus(self, other: ClassContext) -> ClassContext:
        """The context of both sets of classes together."""
        return ClassContext(self.key_value + other.key_value, self.key + other.key)


class ClassAttention(nn.Module):
    """Linear attention over the classes at each cell, guided by text, and an MLP.

    Queries and keys are elu(·) + 1 (Katharopoulos et al., "Transformers are RNNs"), so the cost grows with N, not N².
    """

    def __init__(self, dim: int, text_dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.text = _projection(text_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _mlp(dim, mlp_ratio)

    def context(self, x: Tensor, text: Tensor) -> ClassContext:
        """What some classes, (B, n, hw, d) with text (B, n, D), contribute to the attention of all."""
        key, value = self.key_value(self.norm1(x)).chunk(2, dim=-1)
        key = key + self.text(text)[..., x.shape[-1] :].unsqueeze(2)
        key, value = (rearrange(t, "b n p (x c) -> b p x n c", x=self.num_heads) for t in (_positive(key), value))
        with torch.autocast(x.device.type, enabled=False):
            key, value = key.float(), value.float()
            return ClassContext(key.transpose(-1, -2) @ value, key.sum(dim=-2))

    def forward(self, x: Tensor, text: Tensor, context: ClassContext) -> Tensor:
        """(B, n, hw, d) to the same shape, given the context of all N classes."""
        query = self.query(self.norm1(x)) + self.text(text)[..., : x.shape[-1]].unsqueeze(2)
        query = rearrange(_positive(query), "b n p (x c) -> b p x n c", x=self.num_heads)
        with torch.autocast(x.device.type, enabled=False):
            query = query.float()
            total = query @ context.key.unsqueeze(-1)
            attended = (query @ context.key_value) / total
        x = x + self.proj(rearrange(attended, "b p x n c -> b n p (x c)").to(x.dtype))
        return x + self.mlp(self.norm2(x))


def _positive(x: Tensor) -> Tensor:
    return F.elu(x) + 1.0


def _projection(channels: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, dim, bias=False))


def _mlp(dim: int, ratio: float) -> nn.Sequential:
    hidden = int(dim * ratio)
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
