"""The door to weight files: a path or "shipped:NAME" in, tensors by our models' names out; no code of a file runs."""

from __future__ import annotations

import pickle
import re
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from escnet.pretrained.files import WeightsError, first_line
from escnet.pretrained.hub import is_hub_reference
from escnet.pretrained.hugging_face import from_hugging_face
from escnet.pretrained.shipped import resolve_shipped
from escnet.pretrained.torchscript import is_torchscript, read_torchscript

# What DistributedDataParallel, torch.compile and trainers put before all names of the model that they wrap.
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.)*")
# How torch and our own reader of archives say which object they refuse.
_REFUSED = re.compile(r"GLOBAL (\S+) (?:was|whose)|but got <class '([\w.]+)'>|([\w.]+) is not allowed in a weight file")
# Trainers keep losses and scores beside the weights as these. Both names of the module: NumPy 1 wrote the first.
_NUMPY_TYPES: list[Any] = [
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + np.typecodes["Complex"]},
    type(np.dtype(bool)),
    type(np.dtype(str)),
    *(
        (function, f"numpy.{package}.multiarray.{name}")
        for package in ("core", "_core")
        for name, function in (
            ("scalar", np.float64(0).__reduce__()[0]),
            ("_reconstruct", np.zeros(0).__reduce__()[0]),
        )
    ),
]
# torch keeps the list of allowed types for the process, and takes it back at the end of each reading.
_ALLOWED_TYPES_LOCK = threading.Lock()
_FILES_READ: ContextVar[list[Path] | None] = ContextVar("files_read", default=None)


class Checkpoint(NamedTuple):
    """A weight file that was read.

    Attributes:
      weights: the tensors of the model by name, on the CPU; they may be mapped from the file.
      rest: what else the file holds beside them, such as the iteration or an optimizer's state; it may be mapped too.
    """

    weights: dict[str, Tensor]
    rest: dict[str, Any]


def read_checkpoint(weights: str | Path, remedy: str = "") -> Checkpoint:
    """Read a weight file of any form: .safetensors, TorchScript archives, and what torch.save wrote.

    The last is a dict of tensors, alone or under the key "state_dict" or "model". Prefixes of wrappers that all names
    have ("module.", "_orig_mod.", "model.") are removed, and Hugging Face's names of CLIP and SAM become those of
    open_clip and segment_anything. Of other objects only tensors, Python's own and NumPy's numbers and arrays are read.

    Arguments:
      weights: the path of the file, or "shipped:NAME".
      remedy: what the user can do when it cannot be read; ends the error message.

    Raises:
      WeightsError: for a file that is missing, damaged, or not of these formats; the message names the object that
        was refused, if any.
    """
    path = Path(resolve_shipped(weights)).expanduser()
    if is_hub_reference(weights) or path.is_dir():
        raise WeightsError(
            f"{weights}: is no file of weights; a published model is named by --model, or where MODEL.WEIGHTS of a "
            "whole model is set"
        )
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file. {remedy or 'Check the path.'}")
    try:
        content = _read(path)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        size = path.stat().st_size
        raise WeightsError(
            f"{path}: cannot be read as weights, {size} bytes ({_reason(error)}). {remedy}".rstrip()
        ) from None
    files = _FILES_READ.get()
    if files is not None and path not in files:
        files.append(path)
    rest: dict[str, Any] = {}
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            rest |= {other: value for other, value in content.items() if other != key}
            content = content[key]
    return Checkpoint(_tensors_by_name(content, path), rest)


def read_weights(weights: str | Path, remedy: str = "") -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU; arguments and errors are those of `read_checkpoint`."""
    return read_checkpoint(weights, remedy).weights


@contextmanager
def files_read() -> Iterator[list[Path]]:
    """The weight files that are read within the block, each once: what a model needs on disk."""
    files: list[Path] = []
    token = _FILES_READ.set(files)
    try:
        yield files
    finally:
        _FILES_READ.reset(token)


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the model weights of a checkpoint of this project by name.

    Raises:
      WeightsError: for a file that is missing, damaged, or not of the formats of `read_checkpoint`.
    """
    return read_weights(path, remedy="Pass a checkpoint that training wrote, model_*.pth, or exported weights.")


def wrapper_prefix(names: Iterable[str]) -> str:
    """The prefix of wrappers that all names have: "module._orig_mod." for example; "" for none."""
    names = list(names)
    prefix = _WRAPPERS.match(min(names, default=""))[0]
    while not all(name.startswith(prefix) for name in names):
        prefix = prefix[: prefix.rindex(".", 0, -1) + 1] if prefix.count(".") > 1 else ""
    return prefix


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if is_torchscript(path):
        return read_torchscript(path)
    with _ALLOWED_TYPES_LOCK, torch.serialization.safe_globals(_NUMPY_TYPES):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _reason(error: Exception) -> str:
    refused = _REFUSED.search(str(error))
    if refused:
        name = next(filter(None, refused.groups()))
        return f"it holds more than tensors and numbers: {name}, which is not read, since that could run code"
    if isinstance(error, (pickle.UnpicklingError, EOFError)):
        return "it is cut off, or not a weight file"
    return first_line(error)


def _tensors_by_name(content: Any, path: Path) -> dict[str, Tensor]:
    tensors = {}
    if isinstance(content, dict):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds a {type(content).__name__} without tensors, not the weights of a model")
    prefix = wrapper_prefix(tensors)
    return from_hugging_face({name.removeprefix(prefix): value for name, value in tensors.items()})
