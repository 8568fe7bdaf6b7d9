"""Weight files of our own, in the two forms that everything here reads; never half-written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from escnet.pretrained.files import WeightsError
from escnet.safe_files import replacing, write_safetensors

WRITTEN = (".safetensors", ".pth")


def check_suffix(path: Path) -> None:
    """Refuse a name for a weight file that says of no form how it is to be written.

    Raises:
      WeightsError: as said.
    """
    if path.suffix not in WRITTEN:
        raise WeightsError(f"{path}: weights are written as {' or '.join(WRITTEN)}, not {path.suffix or 'without one'}")


def write_weights(path: Path, weights: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write tensors by name; a reader sees the old file or all of the new one.

    Arguments:
      path: ending in .safetensors or .pth.
      weights: of any device and type.
      notes: what else is worth knowing; kept in the header of .safetensors, and left out of .pth.

    Raises:
      WeightsError: for another ending.
      DiskFullError: there is no space left.
      OSError: the file cannot be written for another reason.
    """
    check_suffix(path)
    # Copied, since tensors that share memory, or are parts of others, cannot be written.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        write_safetensors(path, tensors, notes or {})
        return
    # Opened by Python, which says why a file cannot be written.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())
