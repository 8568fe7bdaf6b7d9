"""Readers of weight files that run no code from them: torch state dicts, safetensors, OpenAI's TorchScript archives."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class WeightsError(RuntimeError):
    """Weights that are not there or do not fit; the message names the file, what is wrong and what to do."""


def read_weights(path: str | Path, remedy: str = "") -> dict[str, Tensor]:
    """Read the tensors of a weight file, on the CPU, by name.

    Takes .safetensors, TorchScript archives, and what torch.save wrote of a dict of tensors, alone or under the key
    "state_dict" or "model"; a prefix "module." that all names have is removed.

    Arguments:
      path: the file.
      remedy: what the user can do when it cannot be read; ends the error message.

    Raises:
      WeightsError: for a file that is missing, damaged, or not of these formats.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file. {remedy or 'Check the path.'}")
    try:
        content = _read(path)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        reason = first_line(error)
        if isinstance(error, (pickle.UnpicklingError, EOFError)):
            reason = "it is cut off, not a weight file, or holds objects other than tensors"
        size = path.stat().st_size
        raise WeightsError(f"{path}: cannot be read as weights, {size} bytes ({reason}). {remedy}".rstrip()) from None
    return _tensors_by_name(content, path)


def load_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the model weights of a checkpoint of this project, .pth with {"model": ...} or .safetensors, by name.

    Raises:
      WeightsError: for a file that is missing, damaged, or not of these formats.
    """
    return read_weights(path, remedy="Pass a checkpoint that training wrote, model_*.pth, or exported weights.")


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, which is how OpenAI publishes CLIP."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def file_sha256(path: str | Path) -> str:
    """The SHA-256 digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_sha256(path: str | Path, sha256: str, remedy: str = "delete it and fetch it again") -> None:
    """Check the SHA-256 digest of a file.

    Raises:
      WeightsError: if it is another one.
    """
    found = file_sha256(path)
    if found != sha256:
        raise WeightsError(f"{path}: the SHA-256 is {found}, not {sha256}; {remedy}")


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if is_torchscript(path):
        with zipfile.ZipFile(path) as archive:
            return _flatten(_ArchiveUnpickler(archive).load())
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _tensors_by_name(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {}
    if isinstance(content, dict):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds a {type(content).__name__} without tensors, not the weights of a model")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


class _ScriptObject:
    """Stands for an object of a class that the archive defines; keeps its attributes and none of its code."""

    def __setstate__(self, state: Any) -> None:
        self.attributes: dict[str, Any] = state if isinstance(state, dict) else {}


class _ArchiveUnpickler(pickle.Unpickler):
    """Reads the object tree of a TorchScript archive; of Python it knows tensors and ordered dicts, nothing else."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).split("/")[0]
        self._storages: dict[str, Tensor] = {}
        super().__init__(archive.open(f"{self._root}/data.pkl"))

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _ScriptObject
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if module == "torch.jit._pickle":
            return _first  # these calls only tell the element type of a list or dict
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weight file")

    def persistent_load(self, reference: tuple[str, torch.dtype, str, str, int]) -> Tensor:
        _, dtype, key, _, _ = reference
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _first(value: Any, *_: Any) -> Any:
    return value


def _flatten(script_object: Any, prefix: str = "") -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in getattr(script_object, "attributes", {}).items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _ScriptObject):
            tensors.update(_flatten(value, f"{prefix}{name}."))
    return tensors
