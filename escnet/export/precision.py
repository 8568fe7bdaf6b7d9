"""Graphs whose weights take fewer bits; what they are computed with stays in full precision, and so do their inputs.

docs/export.md has what each costs, and the other ways to the same bits that were measured.
"""

from __future__ import annotations

import contextlib
import io
import logging
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from escnet.exported.card import FULL, HALF, PRECISIONS

# Smaller arrays, such as biases, are not worth it.
_LEAST_ELEMENTS = 1024
# Weights that share a scale.
_BLOCK = 32


def lower(path: Path, precision: str) -> None:
    """Rewrite an ONNX file in a precision.

    fp16: all weights, which ONNX Runtime brings to full precision when it opens the file. int8: those of matrix
    products, in blocks of 32 with a scale each, and a product that ONNX Runtime alone has (`MatMulNBits`).

    Args:
        path: of the file.
        precision: of `PRECISIONS`.

    Raises:
        ValueError: for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it has to be one of {', '.join(PRECISIONS)}")
    if precision != FULL:
        model = onnx.load(path)
        onnx.save(_half(model) if precision == HALF else _int8(model), path)


def _half(model: ModelProto) -> ModelProto:
    casts = []
    for value in model.graph.initializer:
        if value.data_type == TensorProto.FLOAT and prod(value.dims) >= _LEAST_ELEMENTS:
            name, weights = value.name, numpy_helper.to_array(value)
            value.CopyFrom(numpy_helper.from_array(weights.astype(np.float16), f"{name}_fp16"))
            casts.append(helper.make_node("Cast", [value.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _int8(model: ModelProto) -> ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, bits=8, block_size=_BLOCK, is_symmetric=True)
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        quantizer.process()
    return quantizer.model.model
