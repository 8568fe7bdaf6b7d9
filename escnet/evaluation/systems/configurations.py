"""The configuration of a compared system: with its weights, to be judged; or with random ones, to be measured alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

import escnet.meta_arch  # noqa: F401  (registers the systems)
from escnet.config import ConfigError, check_device, load_config
from escnet.evaluation.systems.plan import PlanError, System
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.pretrained.random_weights import RANDOM, random_weights


def trained_configuration(system: System) -> CfgNode:
    """The configuration by which a system is judged.

    Raises:
        PlanError: the configuration cannot be used; or what the system has to learn would be random.
    """
    # In quotes, since a file may be called 1e5, which is a number as an option.
    cfg = _load(system, {"MODEL.WEIGHTS": repr(system.weights)} if system.weights else {})
    checkpoint, architecture = cfg.MODEL.WEIGHTS, cfg.MODEL.META_ARCHITECTURE
    remedy = f"give one in its entry or with --weights '{system.name}=PATH', or measure --costs-only"
    if not checkpoint and not META_ARCH_REGISTRY.get(architecture).is_training_free:
        raise PlanError(f"{system.name}: {architecture} has to be trained, and there is no checkpoint; {remedy}")
    if checkpoint and not Path(checkpoint).is_file():
        raise PlanError(f"{system.name}: there is no file {checkpoint}, its checkpoint; {remedy}")
    return cfg


def random_configuration(system: System) -> CfgNode:
    """The configuration by which a system is built with random weights; no file is read, its own need not exist.

    Raises:
        PlanError: the configuration cannot be used.
    """
    cfg = random_weights(_load(system, system.random_options))
    cfg.MODEL.WEIGHTS = RANDOM
    return cfg


def _load(system: System, more: Mapping[str, Any]) -> CfgNode:
    options = {**system.options, **more}
    try:
        cfg = load_config(system.config, [part for pair in options.items() for part in pair])
        check_device(cfg)
    except ConfigError as error:
        raise PlanError(f"{system.name}: {error}") from None
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY or not issubclass(META_ARCH_REGISTRY.get(name), SegmentingModel):
        raise PlanError(f"{system.name}: MODEL.META_ARCHITECTURE is {name}, which segments nothing by words")
    # Labels are all that is scored; N maps at image size would be made for nothing.
    cfg.TEST.FULL_SCORES = False
    return cfg
