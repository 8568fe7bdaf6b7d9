"""Where a model's time and memory go on its device: seconds, peak, the share of each stage and of each operator."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from escnet.own_process import forget_peak, peak_memory

_MIB = 1 << 20


class DeviceWatch:
    """Seconds and memory of what runs on a device: a GPU works while the program goes on.

    Args:
        device: of the model that is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"

    def seconds(self, function: Callable[[], Any]) -> float:
        """Until all is done that a call asks for."""
        self.wait()
        start = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - start

    def mark(self) -> Any:
        """This moment in the work of the device, without a wait for it."""
        if not self.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one mark to another, which the device has passed."""
        return start.elapsed_time(end) / 1000 if self.is_cuda else end - start

    def start_memory(self) -> float:
        """Forget the peak; MiB that are in use now."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()
        return self.most_memory()

    def most_memory(self) -> float:
        """MiB at the peak, since `start_memory` if it was called: of the GPU, else of this process."""
        return torch.cuda.max_memory_allocated() / _MIB if self.is_cuda else peak_memory()

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.is_cuda:
            torch.cuda.synchronize()


class StageTimer:
    """The time that a model spends in some of its parts, by hooks, which are there within the context, as often as it
    is entered.

    Args:
        watch: of the device on which they work.
        parts: the modules of each part, by its name. Modules of one part do not hold each other.
    """

    def __init__(self, watch: DeviceWatch, parts: Mapping[str, Sequence[nn.Module]]) -> None:
        self.watch = watch
        self.parts = parts
        self._marks: dict[str, list[Any]] = defaultdict(list)
        self._handles: list[Any] = []

    def __enter__(self) -> StageTimer:
        for name, modules in self.parts.items():
            for module in modules:
                self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._mark(name)))
                self._handles.append(module.register_forward_hook(lambda *_, name=name: self._mark(name)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def seconds(self) -> dict[str, float]:
        """Of each part, all calls together, once the device has done them."""
        spans = {name: zip(marks[::2], marks[1::2], strict=True) for name, marks in self._marks.items()}
        return {name: sum(self.watch.between(*span) for span in spans.get(name, ())) for name in self.parts}

    def _mark(self, name: str) -> None:
        self._marks[name].append(self.watch.mark())


def busiest_operators(function: Callable[[], Any], device: torch.device, most: int) -> list[tuple[str, int, float]]:
    """The operators in which most of the time of a call is spent: name, calls, percent of the whole."""
    from torch.profiler import ProfilerActivity, profile

    is_cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]) as profiler:
        function()
    events = profiler.key_averages()
    time_of = {e.key: e.self_device_time_total if is_cuda else e.self_cpu_time_total for e in events}
    whole = sum(time_of.values())
    order = sorted(events, key=lambda event: -time_of[event.key])[:most]
    return [(event.key.removeprefix("aten::"), event.count, 100 * time_of[event.key] / whole) for event in order]
