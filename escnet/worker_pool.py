"""Worker processes that end with their parent, leave Ctrl-C to it and use one core each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext


@contextmanager
def worker_pool(workers: int, preload: str) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes, or None for a single one. On leaving, what has been begun is finished and the rest dropped.

    Args:
        workers: how many.
        preload: name of the module whose functions they will call; imported once for all of them.
    """
    if workers == 1:
        yield None
        return
    pool = ProcessPoolExecutor(workers, mp_context=worker_context(preload), initializer=start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def worker_context(preload: str) -> BaseContext:
    """How worker processes are started; `preload` is the module whose functions they call, imported once for all."""
    # Not forked from this process: it has threads. The server of forks imports everything once for all workers.
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_server else "spawn")
    if has_server:
        # Torch, since each worker sets its threads.
        context.set_forkserver_preload([preload, "torch"])
    return context


def start_worker() -> None:
    """Leave Ctrl-C to the parent process, end with it, and use one core."""
    import torch  # takes seconds, which a script that only prints its options need not wait for

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
