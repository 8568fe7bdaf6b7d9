"""Random numbers and orders of summation that do not depend on how often a run was stopped."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.utils import comm


def seed_step(seed: int, iteration: int) -> None:
    """Seed torch, NumPy and `random` for one iteration of this process, whatever was drawn before."""
    words = np.random.SeedSequence((seed, iteration, comm.get_rank())).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))


@contextmanager
def deterministic_if_cpu(device: torch.device) -> Iterator[None]:
    """Let backward passes, such as that of indexing, add in a fixed order: with several threads even a CPU does not.

    On CUDA some operations have no such form and would fail, so there nothing is changed.
    """
    filling = torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled()
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filling
