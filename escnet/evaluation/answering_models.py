"""Models for evaluations that ask for an interface: a configuration's own, or one of the models it is merged from."""

from __future__ import annotations

from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from escnet.meta_arch.interfaces import ClassifyingModel, PromptableModel
from escnet.meta_arch.parents import PARENTS, build_parent
from escnet.meta_arch.representation import RepresentingModel
from escnet.predictor import Segmenter

Interface = TypeVar("Interface")
_ABILITIES: dict[type, str] = {
    ClassifyingModel: "name whole images",
    PromptableModel: "draw masks from boxes",
    RepresentingModel: "show its hidden states",
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
        ValueError: the model does not answer, told before any weights are read where it is known by then; or the
            parent of a trained model has no weights.
        WeightsError: weights that are missing or do not fit.
    """
    if system is None:
        _require(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), interface)
        return Segmenter.from_config(cfg, weights or None).model
    if cfg.MODEL.WEIGHTS and not (weights or cfg.MODEL[system.upper()].WEIGHTS):
        raise ValueError(
            f"MODEL.{system.upper()}.WEIGHTS is empty, since the model brings what it needs of it; --system {system} "
            "would be random: set that key, or give --weights without --model"
        )
    model = build_parent(system, cfg, weights)
    _require(type(model), interface)
    return model


def _require(kind: Any, interface: type) -> None:
    if not issubclass(kind, interface):
        systems = " or ".join(name for name, system in META_ARCH_REGISTRY if issubclass(system, interface))
        parents = " or ".join(name for name, parent in PARENTS.items() if issubclass(parent.kind, interface))
        raise ValueError(
            f"{kind.__name__} cannot {_ABILITIES[interface]}; "
            f"take MODEL.META_ARCHITECTURE {systems}, or --system {parents}"
        )
