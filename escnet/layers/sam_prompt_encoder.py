"""SAM's prompt encoder for the pseudo prompts of many classes on CLIP's grid (ESC-Net, "SAM block").

A pseudo mask is constant on each cell, and SAM's mask encoder looks at one cell at a time. So its output takes two
values, one outside and one inside the mask, and the dense prompt of a class is `outside + mask · step`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from segment_anything.modeling.prompt_encoder import PromptEncoder
from torch import Tensor, nn

from escnet.layers.pseudo_prompts import PseudoPrompts

PROMPT_KINDS = ("point", "mask", "point+mask", "box")
MASK_ENCODINGS = ("union", "each")


@dataclass(frozen=True)
class PromptEmbedding:
    """SAM's embedding of the prompts of N classes.

    Attributes:
        sparse: (B, N, T, C) prompt tokens.
        mask: (B, N, h, w) float in [0, 1], the share of the dense prompt that is `inside`.
        outside: (C,) dense prompt of a cell outside the mask.
        inside: (C,) dense prompt of a cell inside the mask.
        position: (hw, C) positional encoding of the cells.
    """

    sparse: Tensor
    mask: Tensor
    outside: Tensor
    inside: Tensor
    position: Tensor

    @property
    def dense(self) -> Tensor:
        """(B, N, C, h, w) dense prompt embedding, as segment_anything returns it."""
        return torch.lerp(*(v.view(1, 1, -1, 1, 1) for v in (self.outside, self.inside)), self.mask.unsqueeze(2))


class SamPromptEncoder(nn.Module):
    """SAM's prompt encoder for pseudo prompts on a grid of any size.

    Args:
        prompt_encoder: segment_anything's module; its weights are used as they are.
        kind: `point`, `mask`, `point+mask` or `box`. Without points or boxes the only token is SAM's "not a point";
            without masks the dense prompt is SAM's "no mask".
        mask_encoding: the K masks of a class are disjoint: `union` encodes them as one mask, `each` encodes each of
            them and takes the mean.
        mask_logit: SAM was trained on mask logits; a cell inside is given +mask_logit, a cell outside -mask_logit.

    Raises:
        ValueError: for an unknown kind or mask encoding.
    """

    def __init__(
        self,
        prompt_encoder: PromptEncoder,
        kind: str = "point+mask",
        mask_encoding: str = "union",
        mask_logit: float = 8.0,
    ) -> None:
        super().__init__()
        if kind not in PROMPT_KINDS:
            raise ValueError(f"prompts must be one of {PROMPT_KINDS}, got {kind!r}")
        if mask_encoding not in MASK_ENCODINGS:
            raise ValueError(f"mask_encoding must be one of {MASK_ENCODINGS}, got {mask_encoding!r}")
        self.prompt_encoder = prompt_encoder
        self.kind = kind
        self.mask_encoding = mask_encoding
        self.mask_logit = mask_logit

    def forward(self, prompts: PseudoPrompts) -> PromptEmbedding:
        """Embed prompts; the grid is that of `prompts.assignment`."""
        outside, inside = self._mask_levels()
        position = self.positional_encoding(tuple(prompts.assignment.shape[-2:]))
        return PromptEmbedding(self._tokens(prompts), self._mask_share(prompts), outside, inside, position)

    def positional_encoding(self, grid: tuple[int, int]) -> Tensor:
        """(h·w, C) positional encoding of the cells of an h×w grid."""
        with full_precision(self.prompt_encoder):
            return rearrange(self.prompt_encoder.pe_layer(grid), "c h w -> (h w) c")

    def _tokens(self, prompts: PseudoPrompts) -> Tensor:
        encoder = self.prompt_encoder
        not_a_point = encoder.not_a_point_embed.weight
        is_object = (prompts.labels > 0).unsqueeze(-1)
        grid = prompts.assignment.shape[-2:]
        if self.kind == "mask":
            return not_a_point.expand(*prompts.labels.shape[:2], 1, -1)
        if self.kind == "box":
            # The far corner is the far edge of the last cell.
            corners = torch.stack([prompts.boxes[..., :2], prompts.boxes[..., 2:] + 1.0], dim=-2)
            position = self._encode_coordinates(corners.flatten(2, 3), grid)
            kind = torch.stack([encoder.point_embeddings[i].weight[0] for i in (2, 3)])
            embedded = rearrange(position, "b n (k two) c -> b n k two c", two=2) + kind
            return torch.where(is_object.unsqueeze(-1), embedded, not_a_point[0]).flatten(2, 3)
        embedded = self._encode_coordinates(prompts.points + 0.5, grid) + encoder.point_embeddings[1].weight[0]
        return torch.where(is_object, embedded, not_a_point[0])

    def _encode_coordinates(self, points: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, P, 2) coordinates in cells, 0 at the edge of the first one, to (B, N, P, C)."""
        with full_precision(self.prompt_encoder):
            encoded = self.prompt_encoder.pe_layer.forward_with_coords(points.flatten(0, 1), grid)
        return encoded.view(*points.shape[:3], -1)

    def _mask_levels(self) -> tuple[Tensor, Tensor]:
        """The dense prompt outside and inside a mask, (C,) each."""
        encoder = self.prompt_encoder
        if "mask" not in self.kind:
            nothing = encoder.no_mask_embed.weight[0]
            return nothing, nothing
        like = encoder.no_mask_embed.weight
        # Made where they are needed: a GPU would be waited for to take two numbers from the host.
        cells = torch.linspace(-self.mask_logit, self.mask_logit, 2, dtype=like.dtype, device=like.device)
        outside, inside = encoder.mask_downscaling(cells.view(2, 1, 1, 1).expand(2, 1, 4, 4)).flatten(1)
        return outside, inside

    def _mask_share(self, prompts: PseudoPrompts) -> Tensor:
        region = prompts.region.to(prompts.points.dtype)
        if self.mask_encoding == "union":
            return region
        objects = (prompts.labels > 0).sum(dim=2).clamp(min=1)
        return region / objects[:, :, None, None]


def full_precision(encoder: PromptEncoder) -> torch.autocast:
    """Within, SAM's prompt encoder works in full precision: a lower one loses half of a Fourier feature's phase."""
    return torch.autocast(encoder.not_a_point_embed.weight.device.type, enabled=False)
