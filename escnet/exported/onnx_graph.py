"""A graph that ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from escnet.exported.card import ExportedFilesError

CPU = "CPUExecutionProvider"


class OnnxGraph:
    """An ONNX file, open.

    Args:
        path: of the file.
        threads: of ONNX Runtime; 0 for as many as the machine has cores.
        providers: of ONNX Runtime, what it computes by.

    Raises:
        ExportedFilesError: it cannot be opened.
        ImportError: without onnxruntime.
        ValueError: for a provider that this onnxruntime does not have.
    """

    def __init__(self, path: Path, threads: int = 0, providers: Sequence[str] = (CPU,)) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ImportError("exported graphs need ONNX Runtime: pip install onnxruntime") from None
        known = onnxruntime.get_available_providers()
        unknown = [provider for provider in providers if provider not in known]
        if unknown:
            raise ValueError(f"ONNX Runtime has no {unknown[0]} here; it has {', '.join(known)}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # onnxruntime's own errors have no common base
            raise ExportedFilesError(f"{path}: ONNX Runtime cannot open it ({str(error).splitlines()[0]})") from None
        self.inputs = [given.name for given in self._session.get_inputs()]
        self.outputs = [given.name for given in self._session.get_outputs()]

    def __call__(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name, of inputs by name; what it does not ask for may be among them."""
        found = self._session.run(None, {name: given[name] for name in self.inputs})
        return dict(zip(self.outputs, found, strict=True))
