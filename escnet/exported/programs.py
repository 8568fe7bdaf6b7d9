"""ProgramSegmenter: exported programs of torch.export, with PyTorch but without Detectron2 and the models' own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from escnet.exported.card import PROGRAM, ExportedFilesError
from escnet.exported.segmenter import ExportedSegmenter


class ProgramGraph:
    """A .pt2 file, open.

    Args:
        path: of the file.
        inputs, outputs: their names, in order.

    Raises:
        ExportedFilesError: it cannot be opened.
    """

    def __init__(self, path: Path, inputs: list[str], outputs: list[str]) -> None:
        self.inputs, self.outputs = inputs, outputs
        try:
            self._module = torch.export.load(path).module()
        except Exception as error:  # torch.export's own errors have no common base
            raise ExportedFilesError(f"{path}: torch.export cannot open it ({str(error).splitlines()[0]})") from None

    @torch.inference_mode()
    def __call__(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name, of inputs by name; what it does not ask for may be among them."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(given[name])) for name in self.inputs}
        features = [tensors.pop(name) for name in self.inputs if name.startswith("feature_")]
        found = self._module(*([features] if features else []), *tensors.values())
        found = found if isinstance(found, list | tuple) else (found,)
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, found, strict=True)}


class ProgramSegmenter(ExportedSegmenter):
    """An exported model, run by PyTorch from programs of torch.export; see docs/export.md.

    Arguments and errors are those of `ExportedSegmenter`; `threads` is left to PyTorch. Programs are opened by
    torch.export.load: take them from those whom you trust.
    """

    kind = PROGRAM

    def open_graph(self, path: Path, graph: dict, threads: int) -> ProgramGraph:
        """A .pt2 file."""
        return ProgramGraph(path, graph["inputs"], graph["outputs"])
