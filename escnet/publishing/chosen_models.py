"""The model that a command names, published or by its configuration, as one configuration whose weights are a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from escnet.config import ConfigError, load_config
from escnet.pretrained.deltas import tensors_sha256
from escnet.pretrained.files import WeightsError
from escnet.pretrained.hub import is_hub_reference
from escnet.pretrained.public import weights_directory
from escnet.pretrained.reading import read_weights
from escnet.pretrained.shipped import resolve_shipped
from escnet.pretrained.writing import write_weights
from escnet.publishing.found_models import find_model, find_model_config
from escnet.publishing.model_folder import ModelFolder

# In `weights_directory()`: the complete models of deltas, by the digests of their tensors.
RESTORED = "restored"


def chosen_config(
    model: str | None,
    config: str | os.PathLike | CfgNode | None = None,
    opts: Sequence[Any] = (),
    weights: str | os.PathLike | None = None,
) -> CfgNode:
    """The configuration of the model to use, whose MODEL.WEIGHTS is the file of all of its weights, or "".

    Args:
        model: the name of a published one, as for `find_model`; None for that of `config`.
        config: as for `load_config`.
        opts: KEY, VALUE, KEY, VALUE ... to set in the configuration.
        weights: of `config`: a checkpoint, or a published model, whose own configuration is left aside; else its
            MODEL.WEIGHTS, which may name the same.

    Raises:
        ConfigError: the configuration cannot be used, or MODEL.WEIGHTS is set for a published model.
        WeightsError: there is no such model, it cannot be fetched, or it is damaged.
    """
    if model is None:
        cfg = load_config(config, opts)
        cfg.MODEL.WEIGHTS = weights_file(cfg.MODEL.WEIGHTS if weights is None else weights)
        return cfg
    refuse_weights(opts)
    found = find_model(model)
    cfg = load_config(found.cfg, opts)
    cfg.MODEL.WEIGHTS = str(complete_weights(found, cfg))
    return cfg


def chosen_config_alone(
    model: str | None, config: str | os.PathLike | CfgNode | None = None, opts: Sequence[Any] = ()
) -> CfgNode:
    """The same for a command that needs no weights: none are fetched.

    Raises:
        ConfigError, WeightsError: as `chosen_config` of what is not of the weights.
    """
    if model is None:
        return load_config(config, opts)
    refuse_weights(opts)
    return load_config(find_model_config(model), opts)


def weights_file(weights: str | os.PathLike) -> str:
    """The file of weights: of a published model ("hub:owner/name", a folder) its complete weights, else as it is.

    Raises:
        WeightsError: of a published model, as `find_model` and `complete_weights`.
    """
    name = os.fspath(weights)
    if is_hub_reference(name) or (name and Path(name).expanduser().is_dir()):
        return str(complete_weights(find_model(name)))
    return resolve_shipped(name)


def complete_weights(found: ModelFolder, cfg: CfgNode | None = None) -> Path:
    """The file of all weights of a model: its own or, of a delta, one that is restored once and kept.

    Args:
        found: the model.
        cfg: the configuration in use, which may say where on this machine the bases of a delta are; else its own.

    Raises:
        WeightsError: a delta cannot be restored.
        DiskFullError, OSError: what is restored cannot be written.
    """
    if not found.bases:
        return found.weights
    path = weights_directory() / RESTORED / f"{found.model_sha256}.safetensors"
    if not _holds(path, found.model_sha256):
        tensors = found.tensors(cfg)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weights(path, tensors)
    return path


def _holds(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and tensors_sha256(read_weights(path)) == sha256
    except WeightsError:
        return False


def refuse_weights(opts: Sequence[Any]) -> None:
    """See that KEY, VALUE options for a published model leave its weights alone.

    Raises:
        ConfigError: they set MODEL.WEIGHTS.
    """
    if "MODEL.WEIGHTS" in opts[::2]:
        raise ConfigError("a published model brings its weights; leave MODEL.WEIGHTS out, or take a configuration")
