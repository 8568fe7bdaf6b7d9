"""Models for evaluations that ask for an interface: a configuration's own, or one of the models it is merged from."""

from __future__ import annotations

from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from escnet.meta_arch.interfaces import ClassifyingModel, PromptableModel
from escnet.meta_arch.parents import build_parent
from escnet.meta_arch.representation import RepresentingModel
from escnet.predictor import Segmenter

Interface = TypeVar("Interface")
# What a model of an interface can do, and what to take instead of one that cannot.
_ABILITIES: dict[type, tuple[str, str]] = {
    ClassifyingModel: ("name whole images", "MODEL.META_ARCHITECTURE SamClip, or --system clip"),
    PromptableModel: ("draw masks from boxes", "MODEL.META_ARCHITECTURE SamClip, or --system sam"),
    RepresentingModel: ("show its hidden states", "MODEL.META_ARCHITECTURE SamClip, or --system clip or sam"),
}


def load_answering_model(
    cfg: CfgNode, interface: type[Interface], system: str | None = None, weights: str = ""
) -> Interface:
    """The model of a configuration in evaluation mode, on its device.

    Args:
        cfg: the configuration.
        interface: `ClassifyingModel`, `PromptableModel` or `RepresentingModel`.
        system: None for MODEL.META_ARCHITECTURE, or the parent to take instead: "clip" for MODEL.CLIP, "sam" for
            MODEL.SAM.
        weights: a checkpoint of the model, or a file of the parent's weights; "" for those of the configuration.

    Raises:
        ValueError: the model does not answer; told before any weights are read, where it is known by then.
        WeightsError: weights that are missing or do not fit.
    """
    if system is None:
        _require(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), interface)
        return Segmenter.from_config(cfg, weights or None).model
    model = build_parent(system, cfg, weights)
    _require(type(model), interface)
    return model


def _require(kind: Any, interface: type) -> None:
    if not issubclass(kind, interface):
        ability, instead = _ABILITIES[interface]
        raise ValueError(f"{kind.__name__} cannot {ability}; take {instead}")
