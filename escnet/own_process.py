"""Calls in a process of their own, and the peak memory of a process: what the benchmarks measure with."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_STATUS = Path("/proc/self/status")


def several_processes(number: int) -> ProcessPoolExecutor:
    """New processes for calls of functions of modules; Ctrl-C ends them silently."""
    context, at_once = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_DFL)
    return ProcessPoolExecutor(number, context, initializer=signal.signal, initargs=at_once)


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function of a module in a new process, so that its peak memory is its own; Ctrl-C ends it silently."""
    with several_processes(1) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> float:
    """The peak memory of this process in MiB, since `forget_peak` where there is a /proc."""
    if _STATUS.exists():
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    # ru_maxrss counts KiB, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 20)


def forget_peak() -> None:
    """Make Linux take the present memory for the peak: importing torch needs more than what is measured after it."""
    if _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")
