"""A model as a folder: escnet.json says what is in it, config.yaml how it is built, one file has its weights."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from escnet.config_values import ConfigError
from escnet.pretrained.deltas import difference, restored, tensors_sha256
from escnet.pretrained.files import WeightsError, file_sha256, verify_sha256
from escnet.pretrained.reading import read_weights
from escnet.pretrained.writing import write_weights
from escnet.publishing.bases import Base, base_tensors, check_bases, find_bases
from escnet.publishing.model_card import check_card, model_card
from escnet.publishing.portable_config import MOST_BYTES, portable_yaml, read_portable_config
from escnet.safe_files import new_folder

MANIFEST, CONFIG, README = "escnet.json", "config.yaml", "README.md"
WHOLE, DELTA = "model.safetensors", "delta.safetensors"
FORMAT = 1
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelFolder:
    """The files of a model, of which hash and configuration were checked.

    Attributes:
        source: for messages and reports: a path, "hub:owner/name@COMMIT".
        cfg: how it is built.
        weights: the weight file.
        sha256: its digest.
        bases: of a delta, what it stands upon; () of a complete model.
        model_sha256: the digest of the tensors of the complete model, by which a restored one is checked.
    """

    source: str
    cfg: CfgNode
    weights: Path
    sha256: str
    bases: tuple[Base, ...]
    model_sha256: str

    def tensors(self, cfg: CfgNode | None = None) -> dict[str, Tensor]:
        """The weights of the complete model, on the CPU.

        Args:
            cfg: the configuration in use, which may say where on this machine the bases of a delta are; else `cfg`.

        Raises:
            WeightsError: the file cannot be read; or, of a delta, its bases cannot be had or are others than it names.
        """
        remedy = "Save or fetch the model again"
        if not self.bases:
            return read_weights(self.weights, remedy)
        start = base_tensors(self.cfg if cfg is None else cfg)
        check_bases(self.bases, start, str(self.weights))
        own = {name: start[name] for base in self.bases for name in base.tensors}
        tuned = restored(own, read_weights(self.weights, remedy), str(self.weights))
        if tensors_sha256(tuned) != self.model_sha256:
            raise WeightsError(f"{self.weights}: does not restore the model that it was made of. {remedy}")
        return tuned


def write_model_folder(
    folder: str | os.PathLike,
    cfg: CfgNode,
    weights: Mapping[str, Tensor],
    card: Mapping[str, Any] | None = None,
    delta: bool = False,
    overwrite: bool = False,
    address: str = "",
) -> None:
    """Write a model as a folder, which appears complete or not at all.

    Args:
        folder: its path; that of a model is replaced with `overwrite`, any other one that holds anything never.
        cfg: of the model.
        weights: of the whole model, by name.
        card: what the publisher says of it, see `escnet.publishing.model_card.KEYS`.
        delta: write the exact difference to the public CLIP and SAM of the configuration.
        overwrite: replace the folder of a model.
        address: by which README.md says that it is loaded; else the name of the folder.

    Raises:
        ConfigError: the configuration holds a path of this machine.
        CardError: the card cannot be used.
        WeightsError: a delta is asked for, and there is no public base.
        FileExistsError: there is such a folder.
        DiskFullError, OSError: it cannot be written; nothing is left.
    """
    card, config = check_card(card), portable_yaml(cfg)
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with new_folder(folder, replaces=overwrite and is_model_folder(folder)) as temporary:
        (temporary / CONFIG).write_text(config, encoding="utf-8")
        bases: list[Base] = []
        if delta:
            bases, own = find_bases(cfg)
            write_weights(temporary / DELTA, difference(own, tensors))
        else:
            write_weights(temporary / WHOLE, tensors, {"format": "pt"})
        manifest = {
            "format": FORMAT,
            "system": cfg.MODEL.META_ARCHITECTURE,
            "files": {name: file_sha256(temporary / name) for name in (CONFIG, DELTA if delta else WHOLE)},
            "model_sha256": tensors_sha256(tensors),
            "bases": [base.as_dict() for base in bases],
            "versions": _versions(),
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (temporary / README).write_text(model_card(manifest, card, address or folder.name), encoding="utf-8")
        if delta:
            # A delta that cannot be taken back is worth nothing, and what it was made of may be deleted.
            read_model_folder(temporary).tensors()


def read_model_folder(folder: str | os.PathLike, source: str = "") -> ModelFolder:
    """Read a folder that `write_model_folder` wrote, or that someone else made: nothing in it is run.

    Args:
        folder: its path.
        source: what it is called in messages and reports; else its path.

    Raises:
        WeightsError: it is no such folder, or a file is not the one that escnet.json describes.
        ConfigError: see `read_portable_config`.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder / MANIFEST)
    for name in manifest["files"]:
        _verify(folder, manifest, name)
    weights = weight_file(manifest)
    cfg = read_portable_config(folder / CONFIG)
    return ModelFolder(
        source or str(folder),
        cfg,
        folder / weights,
        manifest["files"][weights],
        tuple(Base(**{**base, "tensors": tuple(base["tensors"])}) for base in manifest["bases"]),
        manifest["model_sha256"],
    )


def read_model_config(folder: Path) -> CfgNode:
    """The configuration of a folder as `read_model_folder` reads it, whose weights need not be there.

    Raises:
        WeightsError, ConfigError: as `read_model_folder` of the other files.
    """
    _verify(folder, read_manifest(folder / MANIFEST), CONFIG)
    return read_portable_config(folder / CONFIG)


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a model and nothing else, so that it may be replaced by another."""
    ours = {MANIFEST, CONFIG, README, WHOLE, DELTA}
    return folder.is_dir() and MANIFEST in (names := {path.name for path in folder.iterdir()}) and names <= ours


def read_manifest(path: Path) -> dict[str, Any]:
    """Read escnet.json.

    Raises:
        WeightsError: it is not there, or not what is written as such; it names no files but those of a model.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path.parent}: there is no {MANIFEST}, so it is no model that save_pretrained wrote. Check the path; a "
            "checkpoint goes with --config-file and --weights, or Segmenter.from_config"
        )
    try:
        with open(path, "rb") as file:
            manifest = json.loads(file.read(16 * MOST_BYTES))
        _check_manifest(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: is not as save_pretrained writes it ({error}). Fetch the model again") from None
    return manifest


def weight_file(manifest: Mapping[str, Any]) -> str:
    """The name of the weight file that a manifest describes."""
    return DELTA if DELTA in manifest["files"] else WHOLE


def _verify(folder: Path, manifest: Mapping[str, Any], name: str) -> None:
    if not (folder / name).is_file():
        raise WeightsError(f"{folder / name}: there is no such file. Save or fetch the model again")
    sha256 = manifest["files"][name]
    verify_sha256(folder / name, sha256, "it was changed or is damaged: save or fetch the model again")


def _check_manifest(manifest: Any) -> None:
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"format {manifest['format']!r:.20}, but this escnet reads format {FORMAT}: install a newer one"
        )
    files, bases = manifest["files"], manifest["bases"]
    if set(files) not in ({CONFIG, WHOLE}, {CONFIG, DELTA}) or bool(bases) != (DELTA in files):
        raise ValueError("its files are not those of a model")
    texts = [*files.values(), manifest["model_sha256"]]
    for base in bases:
        texts += [*base["tensors"], *(value for key, value in base.items() if key != "tensors")]
        Base(**base)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a hash or a name is no text")
    # A restored model is kept under its hash, which someone else may have written.
    if not all(_SHA256.fullmatch(text) for text in (*files.values(), manifest["model_sha256"])):
        raise ValueError("a hash is none")


def _versions() -> dict[str, str]:
    from escnet import __version__

    return {"escnet": __version__, "torch": torch.__version__, "python": platform.python_version()}


__all__ = ["ConfigError", "ModelFolder", "is_model_folder", "read_model_folder", "write_model_folder"]
