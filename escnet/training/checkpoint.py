"""Checkpoints that are never half-written, run no code when they are read, and fit the model exactly or are refused."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor

from escnet.pretrained.files import WeightsError
from escnet.pretrained.loading import load_exactly
from escnet.pretrained.reading import Checkpoint, read_checkpoint
from escnet.pretrained.shipped import resolve_shipped
from escnet.safe_files import DiskFullError, replacing

LAST_CHECKPOINT = "last_checkpoint"
_ITERATION = re.compile(r"model_(\d+)\.pth")
SUFFIXES = (".pth", ".safetensors", ".pt", ".bin")


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with the same files and names, but safe.

    A file is written under a temporary name, flushed to the disk and renamed, so that whoever reads it, at any moment
    and after any kill, finds the old or the new content. Files are read by `escnet.pretrained.reading`, which runs no
    code from them. Weights that do not fit the model are an error.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` with the model, all checkpointables and `kwargs`, and tag it as the last.

        Raises:
            DiskFullError: there is no space left; the message names the last checkpoint, which stands.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()})
        content.update(kwargs)
        self._save(name, content, is_tagged=True)

    def save_weights(self, name: str, weights: Mapping[str, Tensor], **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` with weights and `kwargs` alone; what training goes on from stays as it was.

        Args:
            name: of the file.
            weights: of the model, all of them.

        Raises:
            DiskFullError: there is no space left; the message names the last checkpoint, which stands.
        """
        if self.save_dir and self.save_to_disk:
            self._save(name, {"model": dict(weights)} | kwargs, is_tagged=False)

    def _save(self, name: str, content: dict[str, Any], is_tagged: bool) -> None:
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving {'checkpoint' if is_tagged else 'weights'} to {path}")
        try:
            _write(path, lambda file: torch.save(content, file))
            if is_tagged:
                self.tag_last_checkpoint(path.name)
        except DiskFullError as error:
            raise DiskFullError(f"{path}: not written, No space left on device. {self._what_stands()}") from error

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
        weights, rest = self._read(path)
        load_exactly(
            self.model, weights, path, "Use the configuration with which it was trained (config.yaml in its folder)"
        )
        # Its tensors may be mapped from a file that may be deleted.
        checkpoint = copy.deepcopy(rest)
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

    def _read(self, path: str) -> Checkpoint:
        others = self._other_checkpoints(path)
        file = Path(resolve_shipped(self.path_manager.get_local_path(path))).expanduser()
        if not file.is_file():
            raise WeightsError(f"{path}: there is no such checkpoint. {others}")
        if file.suffix not in SUFFIXES:
            raise WeightsError(
                f"{path}: only .pth and .safetensors are read, and what torch.save wrote as .pt or .bin, not "
                f"'{file.suffix}'; convert it, for example with torch.save of its tensors by name"
            )
        return read_checkpoint(file, f"If it is damaged, delete it. {others}")

    def _what_stands(self) -> str:
        """What is left after a checkpoint could not be written, and how to go on."""
        tag = Path(self.save_dir) / LAST_CHECKPOINT
        if not tag.is_file():
            return "There is no earlier checkpoint: free some space and start again"
        last = tag.read_text(encoding="utf-8")
        return f"The last checkpoint, {last}, stands: free some space, then go on from it with --resume"

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
