"""Detectron2 imported without the warnings of PyTorch about what Detectron2 does while it is imported."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# The modules that script a function with torch.jit while they are imported, as Detectron2's imports do.
SCRIPTING_MODULES = ("fvcore.nn.focal_loss", "detectron2.modeling.box_regression")
# How PyTorch's warning of it begins, whatever it recommends.
WARNING = r"`torch\.jit\.script`"


def silence_scripting() -> None:
    """From now on, importing `SCRIPTING_MODULES` says nothing of torch.jit; code of the user that scripts still does.

    A filter for the whole process would hide the warning from the user's code too, which is why only the execution of
    these modules is wrapped.
    """
    if not any(isinstance(finder, _QuietFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietFinder())


class _QuietFinder(MetaPathFinder):
    """Finds the scripting modules as Python does, and leaves all others to it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in SCRIPTING_MODULES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _quiet(spec.loader.exec_module)
        return spec


def _quiet(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_quietly(module: ModuleType) -> None:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.filterwarnings("ignore", WARNING, category)
            execute(module)

    return execute_quietly
