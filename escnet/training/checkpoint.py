"""Checkpoints that are never half-written, run no code when they are read, and fit the model exactly or are refused."""

from __future__ import annotations

import copy
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from detectron2.checkpoint import DetectionCheckpointer

from escnet.pretrained.files import WeightsError
from escnet.safe_files import replacing

LAST_CHECKPOINT = "last_checkpoint"
_ITERATION = re.compile(r"model_(\d+)\.pth")
_SHOWN_KEYS = 10


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with the same files and names, but safe.

    A file is written under a temporary name, flushed to the disk and renamed, so that whoever reads it, at any moment
    and after any kill, finds the old or the new content. Files are read as plain tensors: .pth by torch's restricted
    unpickler, and .safetensors; no other format. Weights that do not fit the model are an error.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` with the model, all checkpointables and `kwargs`, and tag it as the last."""
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()})
        content.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        _write(path, lambda file: torch.save(content, file))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note in the file `last_checkpoint` which checkpoint is the last."""
        _write(Path(self.save_dir) / LAST_CHECKPOINT, lambda file: file.write(last_filename_basename.encode()))

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model and some checkpointables (default: all) from a file or a URL; an empty path loads nothing.

        Returns:
            What else the file holds.

        Raises:
            WeightsError: the file is missing, damaged, of another format, lacks a checkpointable, or does not fit the
                model; the message says what to do.
        """
        if not path:
            self.logger.info("No checkpoint is loaded: the model stays as it was built")
            return {}
        self.logger.info(f"Loading checkpoint {path}")
        file = self.path_manager.get_local_path(path)
        if not os.path.isfile(file):
            raise WeightsError(f"{path}: there is no such checkpoint. {self._other_checkpoints(path)}")
        checkpoint = self._load_file(file)
        self._refuse_misfits(self._load_model(checkpoint), path)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in checkpoint:
                raise WeightsError(
                    f"{path}: holds no '{key}', so training cannot go on from it; to start a new training from its "
                    "weights, pass it as MODEL.WEIGHTS, without --resume"
                )
            try:
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
            except (KeyError, ValueError) as error:
                raise WeightsError(
                    f"{path}: its '{key}' does not fit this configuration ({error}); resume with the configuration "
                    "of the run (config.yaml in its folder), or start a new one with this file as MODEL.WEIGHTS"
                ) from error
        return checkpoint

    def remove_leftovers(self) -> list[str]:
        """Delete the temporary files that a killed run left in `save_dir`; returns their names."""
        leftovers = []
        for pattern in (".*.pth.*.tmp", f".{LAST_CHECKPOINT}.*.tmp"):
            leftovers += sorted(Path(self.save_dir).glob(pattern))
        for leftover in leftovers:
            leftover.unlink()
            self.logger.info(f"Removed {leftover}, the unfinished file of a run that was stopped while writing it")
        return [leftover.name for leftover in leftovers]

    def periodic_checkpoints(self) -> list[str]:
        """The paths of the checkpoints `model_<iteration>.pth` in `save_dir`, oldest iteration first."""
        matches = [_ITERATION.fullmatch(path.name) for path in Path(self.save_dir).glob("model_*.pth")]
        ordered = sorted((int(match[1]), match[0]) for match in matches if match)
        return [os.path.join(self.save_dir, name) for _, name in ordered]

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a local file as {"model": state dict, ...}; tensors of the model may be mapped from the file."""
        try:
            content = _read(filename)
        except WeightsError:
            raise
        except Exception as error:  # a damaged file makes the readers raise nearly anything
            reason = f"{type(error).__name__}: {str(error).partition(os.linesep)[0]}"
            raise WeightsError(
                f"{filename}: cannot be read as a checkpoint, {os.path.getsize(filename)} bytes ({reason}). It is "
                f"damaged, or holds more than tensors: delete it. {self._other_checkpoints(filename)}"
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            content = {"model": content}
        weights = content["model"]
        if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
            raise WeightsError(f"{filename}: holds a {type(weights).__name__}, not the weights of a model by name")
        return content

    def _refuse_misfits(self, incompatible: Any, path: str) -> None:
        shapes = [f"{key} {tuple(there)}, not {tuple(here)}" for key, there, here in incompatible.incorrect_shapes]
        misshapen = {key for key, _, _ in incompatible.incorrect_shapes}
        kinds = {
            "missing": sorted(set(incompatible.missing_keys) - misshapen),
            "unknown to the model": sorted(incompatible.unexpected_keys),
            "of another shape": sorted(shapes),
        }
        problems = [f"{len(keys)} {kind}: {_shorten(keys)}" for kind, keys in kinds.items() if keys]
        if problems:
            raise WeightsError(
                f"{path}: does not fit the model {type(self.model).__name__}. Keys {'. Keys '.join(problems)}. "
                "Use the configuration with which it was trained (config.yaml in its folder)"
            )

    def _other_checkpoints(self, path: str) -> str:
        """What can be done instead of loading `path`, when it is the checkpoint to resume from."""
        if not self.save_dir or os.path.abspath(self.save_dir) != os.path.abspath(os.path.dirname(path)):
            return "Pass another file as MODEL.WEIGHTS"
        names = [os.path.basename(file) for file in self.periodic_checkpoints()]
        others = [name for name in names if name != os.path.basename(path)]
        tag = os.path.join(self.save_dir, LAST_CHECKPOINT)
        if not others:
            return f"There is no other checkpoint beside it: delete {tag} as well and start again"
        return f"To resume from the one before: echo {others[-1]} > {tag}"


def _read(filename: str) -> Any:
    suffix = os.path.splitext(filename)[1]
    if suffix == ".safetensors":
        return safetensors.torch.load_file(filename)
    if suffix != ".pth":
        raise WeightsError(
            f"{filename}: only .pth and .safetensors are read, not '{suffix}', which could run code when it is opened; "
            "convert it, for example with torch.save of its tensors by name"
        )
    content = torch.load(filename, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(filename))
    if isinstance(content, dict) and "model" in content:
        # The weights are copied into the model; all else is kept, and must not depend on a file that may be deleted.
        return {key: value if key == "model" else copy.deepcopy(value) for key, value in content.items()}
    return content


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write` with a file that becomes `path` when all of it is on the disk."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _shorten(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN_KEYS]) + (f", ... ({len(keys)} in all)" if len(keys) > _SHOWN_KEYS else "")
