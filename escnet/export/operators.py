"""ONNX for PyTorch's operators that torch.onnx does not translate itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from onnxscript import opset20 as op


def stable_sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """ONNX's TopK of all puts the lower index first of equals, as a stable sort does."""
    count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)


def searchsorted(sorted_sequence: Any, self: Any, out_int32: bool = False, right: bool = False) -> Any:
    """How many of a row lie before each value: all of them are compared, and equals lie before it from the right."""
    row, values = op.Unsqueeze(sorted_sequence, [-2]), op.Unsqueeze(self, [-1])
    before = op.LessOrEqual(row, values) if right else op.Less(row, values)
    return op.ReduceSum(op.Cast(before, to=TensorProto.INT32 if out_int32 else TensorProto.INT64), [-1], keepdims=0)


TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.aten.sort.stable: stable_sort,
    torch.ops.aten.searchsorted.Tensor: searchsorted,
}
