"""The configuration of a compared system: with its weights, to be judged; or with random ones, to be measured alone."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

import escnet.meta_arch  # noqa: F401  (registers the systems)
from escnet.config import ConfigError, check_device
from escnet.evaluation.systems.plan import PlanError, System
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.pretrained.files import WeightsError
from escnet.pretrained.random_weights import RANDOM, random_weights
from escnet.publishing.chosen_models import chosen_config, chosen_config_alone


def trained_configuration(system: System) -> CfgNode:
    """The configuration by which a system is judged.

    Raises:
        PlanError: the configuration cannot be used; or what the system has to learn would be random.
    """
    cfg = _load(system, with_weights=True)
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
    cfg = random_weights(_load(system, with_weights=False))
    cfg.MODEL.WEIGHTS = RANDOM
    return cfg


def _load(system: System, with_weights: bool) -> CfgNode:
    options = system.options if with_weights else {**system.options, **system.random_options}
    chosen = system.model or None, system.config, [part for pair in options.items() for part in pair]
    try:
        cfg = chosen_config(*chosen, system.weights or None) if with_weights else chosen_config_alone(*chosen)
        check_device(cfg)
    except (ConfigError, WeightsError) as error:
        raise PlanError(f"{system.name}: {error}") from None
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY or not issubclass(META_ARCH_REGISTRY.get(name), SegmentingModel):
        raise PlanError(f"{system.name}: MODEL.META_ARCHITECTURE is {name}, which segments nothing by words")
    # Labels are all that is scored; N maps at image size would be made for nothing.
    cfg.TEST.FULL_SCORES = False
    return cfg
