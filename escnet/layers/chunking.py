"""Work on the classes of a vocabulary in chunks, with activation checkpointing while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

# MODEL.ESC.CLASS_CHUNK: as many as the device does well. Of so many classes the activations stay in a CPU's cache; a
# GPU has room for more, and would be done with few of them before it is asked for the next operator.
AS_THE_DEVICE_DOES = -1
_ON_A_CPU, _ON_A_GPU = 8, 64


def classes_at_a_time(wanted: int, device: str) -> int:
    """How many classes a device works on at a time.

    Args:
        wanted: MODEL.ESC.CLASS_CHUNK.
        device: MODEL.DEVICE, such as "cpu" or "cuda:1".

    Returns:
        A number of classes, or 0 for all at once.
    """
    if wanted != AS_THE_DEVICE_DOES:
        return wanted
    return _ON_A_CPU if torch.device(device).type == "cpu" else _ON_A_GPU


def class_chunks(num_classes: int, chunk: int) -> Iterator[slice]:
    """Yield slices that cover `num_classes` classes, `chunk` at a time (0: all at once)."""
    if chunk <= 0:
        # Without a loop over them, the number may be one that an exported graph does not know yet.
        yield slice(0, num_classes)
        return
    for start in range(0, num_classes, chunk):
        yield slice(start, min(start + chunk, num_classes))


def run_chunk(function: Callable[..., Any], *inputs: Any, recompute: bool) -> Any:
    """Call `function(*inputs)`; with `recompute`, and only when gradients are recorded, its activations are
    dropped after the forward pass and computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)
