"""What the system of a configuration can be asked for, before it is built."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY

from escnet.meta_arch.interfaces import SegmentingModel


def configured_system(cfg: Any) -> type[SegmentingModel]:
    """The class of the system that a configuration names.

    Raises:
        ValueError: there is none of this name.
    """
    name, systems = cfg.MODEL.META_ARCHITECTURE, _systems()
    if name not in systems:
        raise ValueError(f"MODEL.META_ARCHITECTURE is {name}; there are {', '.join(systems)}")
    return systems[name]


def require_key(cfg: Any, key: str, option: str) -> None:
    """Refuse an option whose key no prediction of the configured system depends on.

    Args:
        cfg: the configuration.
        key: that the option sets, with its sections.
        option: its name, for the message.

    Raises:
        ValueError: so it is; the message names the systems that have the key.
    """
    if key not in configured_system(cfg).prediction_keys:
        able = " or ".join(name for name, system in _systems().items() if key in system.prediction_keys)
        raise ValueError(
            f"{option} sets {key}, which {cfg.MODEL.META_ARCHITECTURE} does not have; leave it out, or take a "
            f"configuration of {able}"
        )


def _systems() -> dict[str, type[SegmentingModel]]:
    # Detectron2's own models are registered too.
    return {name: system for name, system in META_ARCH_REGISTRY if issubclass(system, SegmentingModel)}
