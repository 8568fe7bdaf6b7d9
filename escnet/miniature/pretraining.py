"""What the trainings of the small CLIP and SAM share: drawing on all cores, arithmetic, weight decay, progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from escnet.progress import progress_bar
from escnet.worker_pool import worker_pool

Drawn = TypeVar("Drawn")
_CHUNK = 500


def draw_chunks(draw: Callable[[tuple[int, int]], Drawn], count: int) -> list[Drawn]:
    """Call `draw` with (first, end) of each few hundred of `count` pictures, in worker processes; results in order."""
    chunks = [(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with worker_pool(min(os.cpu_count() or 1, len(chunks)), preload=__name__) as pool:
        return list((pool.map if pool else map)(draw, chunks))


@contextmanager
def fast_arithmetic() -> Iterator[None]:
    """bf16 autocast on the CPU, without the fused attention, whose backward pass is slow there in bf16."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for an optimizer: matrices decay; biases, norms and scalars do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


@contextmanager
def progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    """A bar on the screen; yields what is to be called after each step, with its number and loss."""
    with progress_bar(total=steps, unit="step") as bar:

        def report(step: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        yield report
