"""Work on the classes of a vocabulary in chunks, with activation checkpointing while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def class_chunks(num_classes: int, chunk: int) -> Iterator[slice]:
    """Yield slices that cover `num_classes` classes, `chunk` at a time (0: all at once)."""
    step = chunk if chunk > 0 else max(num_classes, 1)
    for start in range(0, num_classes, step):
        yield slice(start, min(start + step, num_classes))


def run_chunk(function: Callable[..., Any], *inputs: Any, recompute: bool) -> Any:
    """Call `function(*inputs)`; with `recompute`, and only when gradients are recorded, its activations are
    dropped after the forward pass and computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)
