"""GPUs that train together: what each holds beside a backward pass, and what it sends. Arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

# Gradients and parameters are in single precision; AdamW keeps two moments of each.
BYTES = 4
MOMENTS = 2
# Of a GPU's memory, left for what lives for a moment, for the gaps of the allocator and for the network's buffers.
RESERVE = 0.1


@dataclass(frozen=True)
class Cluster:
    """GPUs that train together.

    Attributes:
        gpus: how many.
        rate: FLOP/s that each sustains.
        bandwidth: bytes/s that each sends and receives while gradients are averaged.
        memory: bytes of each.
    """

    gpus: int
    rate: float
    bandwidth: float
    memory: float

    def sent(self, trained: int) -> float:
        """Bytes that a GPU sends in a step, in a ring: 2 (n - 1) / n times the gradients of the trained parameters."""
        return 2 * (self.gpus - 1) / self.gpus * BYTES * trained
