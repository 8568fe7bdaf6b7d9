"""ONNX for PyTorch's operators that torch.onnx does not translate itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20 as op


def stable_sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """ONNX's TopK of all puts the lower index first of equals, as a stable sort does."""
    count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)


TRANSLATIONS: dict[Callable, Callable] = {torch.ops.aten.sort.stable: stable_sort}
