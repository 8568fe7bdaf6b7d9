"""The work and the memory of a step, counted on tensors that have shapes and no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# Backward passes can be run on a fake CPU alone, and autocast has the types of a GPU on a fake one alone.
CPU, GPU = "cpu", "cuda"


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Counts matrix products, convolutions and attention; a multiply-add is two, as a GPU's rate is stated."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    # Fused attention would hide its products from the counter.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def forward_flops(run: Callable[[], object]) -> int:
    """FLOPs of a call that no gradient goes through."""
    with torch.no_grad(), counting_flops() as counter:
        run()
    return counter.get_total_flops()


def training_flops(loss: Callable[[], Tensor]) -> tuple[int, int]:
    """FLOPs of the forward pass to a loss (), and of the backward pass from it, as autograd runs it.

    What trains costs twice its forward pass, what only passes gradients on costs it once, and what lies before the
    first trained parameter nothing.
    """
    with counting_flops() as forward:
        value = loss()
    with counting_flops() as backward:
        value.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def graph_bytes(loss: Callable[[], Tensor], own: Iterable[Tensor]) -> int:
    """Bytes that the graph of a loss () holds for its backward pass, views of one tensor once.

    What is alive for a moment alone, like the input of a softmax, is not among them.

    Args:
        loss: computes it.
        own: tensors that are there anyway, as parameters and buffers are.
    """
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        held = _Saved(tensor)
        saved.add(held)
        return held

    with saved_tensors_hooks(pack, lambda held: held.tensor):
        value = loss()
    sizes = {_storage(held.tensor): held.tensor.untyped_storage().nbytes() for held in saved}
    for tensor in own:
        sizes.pop(_storage(tensor), None)
    del value  # until here it holds the graph
    return sum(sizes.values())


@dataclass(frozen=True)
class Footprint:
    """What a call needs beside its work.

    Attributes:
        memory: bytes of the tensors that it has made and that are alive at once, at most.
        operators: calls of PyTorch's operators that compute something, which views do not; each is a kernel or more.
    """

    memory: int
    operators: int


def footprint(run: Callable[[], object], own: Iterable[Tensor]) -> Footprint:
    """Memory and operators of a call, of a backward pass in it too, with what is alive for a moment alone.

    What an operator takes for itself while it runs is not seen.

    Args:
        run: the call.
        own: tensors that are there anyway, as parameters and buffers are.
    """
    with _Watch(own) as watch:
        run()
    return Footprint(watch.most, watch.operators)


@contextmanager
def on_fake_device(device: str, *modules: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Within, modules and new tensors have shapes and types alone, as they would be on a device that need not be there.

    Args:
        device: "cpu", or "cuda" for forward passes; backward passes would ask its driver.
        modules: each different; they get their own parameters back.
        dtype: of autocast; None for none.
    """
    tables = [table for m in modules for inner in m.modules() for table in (inner._parameters, inner._buffers)]
    originals = [dict(table) for table in tables]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _autocast(device, dtype):
            for table in tables:
                table.update({name: _fake(tensor, device) for name, tensor in table.items() if tensor is not None})
            yield
    finally:
        for table, original in zip(tables, originals, strict=True):
            table.update(original)


def _fake(tensor: Tensor, device: str) -> Tensor:
    fake = torch.empty_like(tensor, device=device)
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


class _Saved:
    """A tensor for as long as the graph holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Watch(TorchDispatchMode):
    """Sees every operator, and the memory that comes and goes."""

    def __init__(self, own: Iterable[Tensor]) -> None:
        super().__init__()
        self.operators = self.most = self._now = 0
        self._sizes = {_storage(tensor): 0 for tensor in own}

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators += func.namespace == "aten" and not func.is_view
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _storage(value) not in self._sizes:
                self._begin(value.untyped_storage())
        return result

    def _begin(self, storage: torch.UntypedStorage) -> None:
        self._sizes[storage._cdata] = storage.nbytes()
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._end, storage._cdata)

    def _end(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def _autocast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """As torch.autocast, which refuses to work without a driver."""
    if dtype is None:
        yield
        return
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
