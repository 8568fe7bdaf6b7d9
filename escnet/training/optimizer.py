"""The optimizer: which parameters train, at which learning rate and weight decay (ESC-Net, training details)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
# Tables of one learned value per position: neither matrices nor biases, and never decayed.
_TABLES = ("position_bias", "positional_embedding")


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters of one part of the model and of one kind, which share learning rate and weight decay.

    Attributes:
        name: part and kind, such as "CLIP image, weights".
        lr: learning rate before the schedule.
        weight_decay: AdamW's decoupled weight decay.
        parameters: (name in the model, parameter) of each.
    """

    name: str
    lr: float
    weight_decay: float
    parameters: tuple[tuple[str, nn.Parameter], ...]


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[ParameterGroup]:
    """Sort the trainable parameters of a model into groups, each parameter into exactly one.

    CLIP (below `clip_image` and `clip_text`) learns at BASE_LR·CLIP_MULTIPLIER, a pretrained SAM block (below
    `sam_block`) at BASE_LR·SAM_MULTIPLIER, the rest, and a SAM block from random weights, at BASE_LR.
    """
    members: dict[tuple[str, str], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, module, parameter in _trainable_parameters(model):
        part = _part(name)
        members[part, _kind(name, module, parameter, part, cfg)].append((name, parameter))
    return [
        ParameterGroup(f"{part}, {kind}", _learning_rate(part, cfg), _weight_decay(kind, cfg), tuple(parameters))
        for (part, kind), parameters in sorted(members.items())
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.AdamW:
    """AdamW over the parameter groups of a model, merged by learning rate and weight decay.

    Each of its groups lists the names of its parameters under "names", which are saved with its state.

    Raises:
        ValueError: the model has no trainable parameter.
    """
    merged: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for group in parameter_groups(model, cfg):
        merged[group.lr, group.weight_decay] += group.parameters
    if not merged:
        raise ValueError(
            f"{type(model).__name__} has no trainable parameter; use it with --eval-only, or let MODEL.CLIP.TRAIN or "
            "MODEL.SAM.TRAIN train some"
        )
    return torch.optim.AdamW(
        [
            {
                "params": [parameter for _, parameter in parameters],
                "names": [name for name, _ in parameters],
                "lr": lr,
                "weight_decay": weight_decay,
            }
            for (lr, weight_decay), parameters in merged.items()
        ],
        lr=cfg.SOLVER.BASE_LR,
        fused=True,
    )


def group_table(groups: Sequence[ParameterGroup], model: nn.Module) -> str:
    """The groups as a text table, with what is frozen and the total of the model in the last rows."""
    rows = [
        (group.name, len(group.parameters), sum(p.numel() for _, p in group.parameters), group.lr, group.weight_decay)
        for group in groups
    ]
    frozen = [p.numel() for p in model.parameters() if not p.requires_grad]
    rows.append(("frozen", len(frozen), sum(frozen), None, None))
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows), None, None))
    headers = ("group", "tensors", "parameters", "learning rate", "weight decay")
    return tabulate(rows, headers, tablefmt="pipe", floatfmt="g", intfmt=",")


def _trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """The name, the owning module and the parameter, each parameter once even where modules share it."""
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield f"{module_name}.{own_name}" if module_name else own_name, module, parameter


def _part(name: str) -> str:
    modules = name.split(".")
    if modules[0] in ("clip_image", "clip_text"):
        return modules[0].replace("clip_", "CLIP ")
    return "SAM blocks" if "sam_block" in modules else "other"


def _kind(name: str, module: nn.Module, parameter: nn.Parameter, part: str, cfg: CfgNode) -> str:
    own_name = name.rpartition(".")[2]
    if own_name in _TABLES:
        return "tables"
    # Their key rows are frozen by a gradient of zero, which a decay would not respect.
    if part.startswith("CLIP") and cfg.MODEL.CLIP.TRAIN == "qv" and own_name.startswith("in_proj_"):
        return "query and value rows"
    if isinstance(module, _NORMS):
        return "norms"
    return "biases" if parameter.ndim < 2 else "weights"


def _learning_rate(part: str, cfg: CfgNode) -> float:
    if part.startswith("CLIP"):
        return cfg.SOLVER.BASE_LR * cfg.SOLVER.CLIP_MULTIPLIER
    if part == "SAM blocks" and cfg.MODEL.SAM.INIT == "pretrained":
        return cfg.SOLVER.BASE_LR * cfg.SOLVER.SAM_MULTIPLIER
    return cfg.SOLVER.BASE_LR


def _weight_decay(kind: str, cfg: CfgNode) -> float:
    decays: dict[str, Any] = {
        "weights": cfg.SOLVER.WEIGHT_DECAY,
        "norms": cfg.SOLVER.WEIGHT_DECAY_NORM,
        "biases": cfg.SOLVER.WEIGHT_DECAY_BIAS,
    }
    decay = decays.get(kind, 0.0)
    # Detectron2's meaning of None.
    return cfg.SOLVER.WEIGHT_DECAY if decay is None else decay
