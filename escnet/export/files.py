"""A graph as a file, ONNX or a program of torch.export: nothing in it but what is computed."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from escnet.export.graphs import NotExportableError, Part
from escnet.export.operators import TRANSLATIONS


def write_onnx(part: Part, program: torch.export.ExportedProgram, path: Path) -> None:
    """A part as an ONNX file, of the operator set that torch.onnx chooses.

    Raises:
        NotExportableError: an operator has no translation.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.onnx, about its own future
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            found = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                custom_translation_table=TRANSLATIONS,
                input_names=part.inputs,
                output_names=list(part.outputs),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise NotExportableError(f"{path.name}: torch.onnx cannot translate it ({reason})") from error
    model = found.model_proto
    _forget_source(model.graph)
    onnx.save(model, path)


def write_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """A program as a .pt2 file, without those weights of the model that it does not use; do not run it afterwards."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    unused = [node.name for node in program.graph.nodes if node.op == "placeholder" and not node.users]
    for name in filter(None, map(names.get, unused)):
        if name in program.state_dict:
            value = program.state_dict[name]
            # Of the same shape, but one number that all of its elements are.
            nothing = value.new_zeros(()).expand(value.shape)
            is_parameter = isinstance(value, nn.Parameter)
            program.state_dict[name] = nn.Parameter(nothing, requires_grad=False) if is_parameter else nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are no whole tensors
        torch.export.save(program, path)


def _forget_source(graph: onnx.GraphProto) -> None:
    """Leave out where in which file nodes and values come from, which is most of what torch.onnx writes of them."""
    for entry in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _forget_source(inner)
