"""SAM's two-way transformer on CLIP's grid, for many classes at once (ESC-Net, "SAM block").

The mathematics is segment_anything's; only the order of the sums differs. Two facts make it cheap:

- The dense prompt of a class is `outside + mask · step` (`SamPromptEncoder`), so in the first layer the image side is
  the same for all classes, up to the mask times one vector: it is projected once for an image.
- A prompt has few tokens, so later layers fold the image-side projections into the tokens, head by head:
  (x W_k)·q = x·(W_k q), and softmax·(x W_v) = (softmax·x) W_v.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.sam_prompt_encoder import PromptEmbedding


@dataclass(frozen=True)
class SharedImage:
    """What the first layer computes once for all classes; X heads, c = C / (2·X) inner channels of a head.

    Attributes:
        tokens: (B, hw, C) image features plus the dense prompt outside a mask.
        position: (hw, C) positional encoding.
        step: (C,) what a mask adds to a cell.
        query, key, value: (B, X, hw, c) projections of the image side, outside a mask.
        query_step, key_step, value_step: (X, c) what a mask adds to them.
    """

    tokens: Tensor
    position: Tensor
    step: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    query_step: Tensor
    key_step: Tensor
    value_step: Tensor


class SamBlock(nn.Module):
    """The layers of SAM's two-way transformer, applied to one image with the prompts of many classes.

    Equal to segment_anything's TwoWayTransformer on `image + dense prompt`, of which the image side is returned; the
    final token-to-image attention changes only the tokens and is left out.

    Args:
        transformer: segment_anything's module; its layers are kept with their weights.
    """

    def __init__(self, transformer: TwoWayTransformer) -> None:
        super().__init__()
        self.layers = transformer.layers

    def share(self, image: Tensor, prompts: PromptEmbedding) -> SharedImage:
        """Project the image side of the first layer, once for all classes.

        Args:
            image: (B, C, h, w) image features.
            prompts: for its `outside`, `inside` and `position` vectors.
        """
        to_image = self.layers[0].cross_attn_token_to_image
        to_token = self.layers[0].cross_attn_image_to_token
        tokens = rearrange(image, "b c h w -> b (h w) c") + prompts.outside
        placed = tokens + prompts.position
        step = prompts.inside - prompts.outside
        return SharedImage(
            tokens=tokens,
            position=prompts.position,
            step=step,
            query=_heads(to_token.q_proj(placed), to_token),
            key=_heads(to_image.k_proj(placed), to_image),
            value=_heads(to_image.v_proj(tokens), to_image),
            query_step=_heads(F.linear(step, to_token.q_proj.weight).view(1, 1, -1), to_token)[0, :, 0],
            key_step=_heads(F.linear(step, to_image.k_proj.weight).view(1, 1, -1), to_image)[0, :, 0],
            value_step=_heads(F.linear(step, to_image.v_proj.weight).view(1, 1, -1), to_image)[0, :, 0],
        )

    def forward(self, shared: SharedImage, sparse: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            shared: from `share`.
            sparse: (B, n, T, C) prompt tokens of some classes.
            mask: (B, n, h, w) their mask share.

        Returns:
            (B, n, hw, C) image features of each class.
        """
        batch, classes = sparse.shape[:2]
        mask = mask.flatten(2)
        prompt = sparse.flatten(0, 1)

        first = self.layers[0]
        tokens = _attend_to_prompts(first, prompt, prompt)
        query = _by_class(first.cross_attn_token_to_image.q_proj(tokens + prompt), classes)
        read = first.cross_attn_token_to_image.out_proj(_read_shared_image(query, shared, mask))
        tokens = _finish_tokens(first, tokens, read)
        image = _write_shared_image(first, shared, mask, tokens, prompt)

        for layer in self.layers[1:]:
            tokens = _attend_to_prompts(layer, tokens, prompt)
            tokens = _finish_tokens(layer, tokens, _read_image(layer, tokens + prompt, image, shared.position))
            image = _write_image(layer, tokens, prompt, image, shared.position)
        return image.view(batch, classes, *image.shape[1:])


def _attend_to_prompts(layer: TwoWayAttentionBlock, tokens: Tensor, prompt: Tensor) -> Tensor:
    """Self-attention of the tokens, (M, T, C)."""
    if layer.skip_first_layer_pe:
        return layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
    query = tokens + prompt
    return layer.norm1(tokens + layer.self_attn(q=query, k=query, v=tokens))


def _finish_tokens(layer: TwoWayAttentionBlock, tokens: Tensor, read: Tensor) -> Tensor:
    """Add what the tokens read from the image, then the MLP, (M, T, C)."""
    tokens = layer.norm2(tokens + read)
    return layer.norm3(tokens + layer.mlp(tokens))


def _read_shared_image(query: Tensor, shared: SharedImage, mask: Tensor) -> Tensor:
    """First layer, tokens to image: (B, n, T, X·c) projected queries to the (M, T, X·c) attention result."""
    batch, classes, tokens = query.shape[:3]
    heads = shared.key.shape[1]
    query = rearrange(query, "b n t (x c) -> b x (n t) c", x=heads) * shared.key.shape[-1] ** -0.5
    scores = (query @ shared.key.transpose(-1, -2)).view(batch, heads, classes, tokens, -1)
    on_mask = (query * shared.key_step.unsqueeze(1)).sum(-1).view(batch, heads, classes, tokens, 1)
    attention = (scores + on_mask * mask[:, None, :, None]).softmax(dim=-1)
    read = attention.flatten(2, 3) @ shared.value
    on_mask = (attention * mask[:, None, :, None]).sum(-1).flatten(2, 3)
    read = read + on_mask.unsqueeze(-1) * shared.value_step.unsqueeze(1)
    return rearrange(read, "b x (n t) c -> (b n) t (x c)", n=classes)


def _write_shared_image(
    layer: TwoWayAttentionBlock, shared: SharedImage, mask: Tensor, tokens: Tensor, prompt: Tensor
) -> Tensor:
    """First layer, image to tokens: the (M, hw, C) image side of each class."""
    attention = layer.cross_attn_image_to_token
    batch, classes = mask.shape[:2]
    heads, count = attention.num_heads, tokens.shape[1]
    key = rearrange(attention.k_proj(tokens + prompt), "(b n) t (x c) -> b x (n t) c", n=classes, x=heads)
    key = key * key.shape[-1] ** -0.5
    scores = (key @ shared.query.transpose(-1, -2)).view(batch, heads, classes, count, -1)
    on_mask = (key * shared.query_step.unsqueeze(1)).sum(-1).view(batch, heads, classes, count, 1)
    weights = (scores + on_mask * mask[:, None, :, None]).softmax(dim=3)
    weights = rearrange(weights, "b x n t p -> (b n) (x t) p")
    # The mask's own step rides along as one more token.
    weights = torch.cat([weights, mask.flatten(0, 1).unsqueeze(1).to(weights.dtype)], dim=1)
    values = _folded_values(attention, tokens)
    values = torch.cat([values, shared.step.to(values.dtype).expand(values.shape[0], 1, -1)], dim=1)
    start = (shared.tokens + attention.out_proj.bias).unsqueeze(1).expand(-1, classes, -1, -1).flatten(0, 1)
    return layer.norm4(torch.baddbmm(start.to(weights.dtype), weights.transpose(1, 2), values))


def _read_image(layer: TwoWayAttentionBlock, query: Tensor, image: Tensor, position: Tensor) -> Tensor:
    """Later layers, tokens to image: (M, T, C) queries and the (M, hw, C) image to the (M, T, C) result."""
    attention = layer.cross_attn_token_to_image
    heads = attention.num_heads
    query = rearrange(attention.q_proj(query), "m t (x c) -> m x t c", x=heads)
    folded = torch.einsum("m x t c, x c d -> m x t d", query, _head_weights(attention.k_proj, heads)).flatten(1, 2)
    folded = folded * query.shape[-1] ** -0.5
    bias = torch.einsum("m x t c, x c -> m x t", query, attention.k_proj.bias.view(heads, -1)).flatten(1)
    scores = _score_cells(folded, bias * query.shape[-1] ** -0.5, image, position)
    read = (scores.softmax(dim=-1) @ image).unflatten(1, (heads, -1))
    read = torch.einsum("m x t d, x c d -> m t x c", read, _head_weights(attention.v_proj, heads)).flatten(2)
    return attention.out_proj(read + attention.v_proj.bias)


def _write_image(
    layer: TwoWayAttentionBlock, tokens: Tensor, prompt: Tensor, image: Tensor, position: Tensor
) -> Tensor:
    """Later layers, image to tokens: the updated (M, hw, C) image side."""
    attention = layer.cross_attn_image_to_token
    heads = attention.num_heads
    key = rearrange(attention.k_proj(tokens + prompt), "m t (x c) -> m x t c", x=heads) * (
        (attention.internal_dim // heads) ** -0.5
    )
    folded = torch.einsum("m x t c, x c d -> m x t d", key, _head_weights(attention.q_proj, heads)).flatten(1, 2)
    bias = torch.einsum("m x t c, x c -> m x t", key, attention.q_proj.bias.view(heads, -1)).flatten(1)
    scores = _score_cells(folded, bias, image, position)
    weights = scores.unflatten(1, (heads, -1)).softmax(dim=2).flatten(1, 2)
    written = torch.baddbmm(image + attention.out_proj.bias, weights.transpose(1, 2), _folded_values(attention, tokens))
    return layer.norm4(written)


def _score_cells(folded: Tensor, bias: Tensor, image: Tensor, position: Tensor) -> Tensor:
    """(M, X·T, C) folded tokens and their (M, X·T) bias against image + position, (M, X·T, hw)."""
    on_position = torch.addmm(bias.reshape(-1, 1), folded.flatten(0, 1), position.T).view(*bias.shape, -1)
    return torch.baddbmm(on_position, folded, image.transpose(1, 2))


def _folded_values(attention: Attention, tokens: Tensor) -> Tensor:
    """Values of the tokens already carried through the output projection, (M, X·T, C)."""
    heads = attention.num_heads
    value = rearrange(attention.v_proj(tokens), "m t (x c) -> m x t c", x=heads)
    output = rearrange(attention.out_proj.weight, "d (x c) -> x c d", x=heads)
    return torch.einsum("m x t c, x c d -> m x t d", value, output).flatten(1, 2)


def _head_weights(projection: nn.Linear, heads: int) -> Tensor:
    """(X, c, C): the weight of a projection, one matrix for each head."""
    return rearrange(projection.weight, "(x c) d -> x c d", x=heads)


def _heads(projected: Tensor, attention: Attention) -> Tensor:
    return rearrange(projected, "b p (x c) -> b x p c", x=attention.num_heads)


def _by_class(tokens: Tensor, classes: int) -> Tensor:
    return rearrange(tokens, "(b n) t c -> b n t c", n=classes)
