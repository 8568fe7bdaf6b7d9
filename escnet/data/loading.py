"""How every loader of this package starts its worker processes."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

Batch = TypeVar("Batch")


def loader_settings(num_workers: int) -> dict[str, Any]:
    """The arguments of a `DataLoader` that are the same for all: workers of one thread, nothing collated.

    The global random state is neither read nor changed.
    """
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": _as_it_is,
        "worker_init_fn": _use_one_thread,
        # Without a generator of its own, every new iterator of a loader would advance torch's global random state.
        "generator": torch.Generator(),
    }


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
