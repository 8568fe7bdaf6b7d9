"""Whether a module's weights are still those that something was computed with."""

from __future__ import annotations

import threading

from torch import nn


class WeightsVersion:
    """Numbers the states of a module's parameters: another number whenever one of them was replaced or changed.

    PyTorch counts the changes of each tensor, so nothing is read from the device. Edits through `.data` and steps of
    fused optimizers escape it; who takes these says so by `torch.autograd.graph.increment_version`.

    """

    def __init__(self) -> None:
        self._number = 0
        # The parameters themselves, not their ids: the id of one that is gone may be given to its successor.
        self._known: list[tuple[nn.Parameter, tuple[object, ...]]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[WeightsVersion], tuple[()]]:
        # Copied or pickled with its module, it begins anew.
        return WeightsVersion, ()

    def of(self, module: nn.Module) -> int:
        """The number of the present state."""
        found = [(parameter, _state(parameter)) for parameter in module.parameters()]
        with self._lock:
            is_same = len(found) == len(self._known) and all(
                new is old and new_state == old_state
                for (new, new_state), (old, old_state) in zip(found, self._known, strict=True)
            )
            if not is_same:
                self._known = found
                self._number += 1
            return self._number


def _state(parameter: nn.Parameter) -> tuple[object, ...]:
    version = -1 if parameter.is_inference() else parameter._version
    return version, parameter.device, parameter.dtype
