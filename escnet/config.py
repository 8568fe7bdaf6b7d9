"""Configurations: found, read, checked. What their keys mean is in `config_keys`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from escnet.command_line import one_line
from escnet.config_keys import add_escnet_config
from escnet.config_ranges import check_ranges
from escnet.config_values import ConfigError, merge_file, merge_options
from escnet.devices import existing_device
from escnet.pretrained.files import WeightsError
from escnet.pretrained.shipped import resolve_shipped

# The folder configs/ of the source tree, which travels with the package.
SHIPPED_CONFIGS = Path(__file__).parent / "configs"


def load_config(config: str | os.PathLike | CN, opts: Sequence[Any] = ()) -> CN:
    """A copy of a config, or the contents of a .yaml file over escnet's defaults, with KEY VALUE pairs set in it.

    A file that does not set MODEL.DEVICE gets `cuda` where there is one, else `cpu`. Weights that ship with the package
    ("shipped:clip") become the path of their file.

    Args:
        config: the path of a file, as for `find_config`, or a Detectron2 config that has escnet's keys.
        opts: KEY, VALUE, KEY, VALUE ..., each value as such or spelled.

    Raises:
        ConfigError: for a missing file, an unknown key, a value of the wrong kind or out of its range; for weights that
            do not ship with the package, or whose file was changed.
    """
    if isinstance(config, CN):
        cfg, source = config.clone(), "config"
        cfg.defrost()
    else:
        source = str(find_config(config))
        cfg = get_cfg()
        add_escnet_config(cfg)
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if not isinstance(config, CN):
            merge_file(cfg, source)
        source = "KEY VALUE options"
        merge_options(cfg, opts)
    # What faulty keys, values and files raise; an AssertionError or TypeError is Detectron2's, of a faulty _BASE_.
    except (AssertionError, KeyError, ValueError, TypeError, AttributeError, OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{source}: {one_line(error)}") from error
    try:
        check_ranges(cfg)
        for node in (cfg.MODEL, cfg.MODEL.CLIP, cfg.MODEL.SAM, cfg.MODEL.SAM_CLIP):
            node.WEIGHTS = resolve_shipped(node.WEIGHTS)
    except (ValueError, WeightsError) as error:
        raise ConfigError(str(error)) from error
    return cfg


def find_config(path: str | os.PathLike) -> Path:
    """The file of a configuration: `path` itself or, where there is none, the one that ships with the package.

    Args:
        path: of a .yaml file; of those that ship "configs/escnet/vitb16.yaml", with or without "configs/".

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(path)
    if path.is_file():
        return path
    name = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    shipped = sorted(file.relative_to(SHIPPED_CONFIGS) for file in SHIPPED_CONFIGS.rglob("*.yaml"))
    if name in shipped:
        return SHIPPED_CONFIGS / name
    raise ConfigError(f"'{path}': there is no such file; with escnet come {', '.join(map(str, shipped))}")


def load_usable_config(config: str | os.PathLike | CN, opts: Sequence[Any] = ()) -> CN:
    """`load_config` for a tool that runs a model: the device is there, and nothing is changed any more.

    Raises:
        ConfigError: as `load_config` and `check_device`.
    """
    cfg = load_config(config, opts)
    check_device(cfg)
    cfg.freeze()
    return cfg


def check_device(cfg: CN) -> None:
    """Refuse a configuration whose MODEL.DEVICE is not there.

    Raises:
        ConfigError: the device is not there, or is none; the message lists those that are.
    """
    existing_device(cfg.MODEL.DEVICE, f"MODEL.DEVICE is {cfg.MODEL.DEVICE}")


__all__ = ["ConfigError", "add_escnet_config", "check_device", "find_config", "load_config", "load_usable_config"]
