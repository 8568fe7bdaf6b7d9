"""The optimizer: which parameters train, at which learning rate and weight decay."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn

from escnet.meta_arch.interfaces import LearningPart

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
# Tables of one learned value per position: neither matrices nor biases, and never decayed.
_TABLES = ("position_bias", "positional_embedding", "pos_embed", "rel_pos_h", "rel_pos_w")


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters of one part of the model and of one kind, which share learning rate and weight decay.

    Attributes:
        name: part and kind, such as "other, weights".
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

    The parts are those that a model states (`SegmentingModel.learning_parts`); what is in none of them, and all of a
    model that states none, is "other" and learns at the base rate.
    """
    parts = model.learning_parts(cfg) if hasattr(model, "learning_parts") else []
    factors = {part.name: part.rate for part in parts}
    members: dict[tuple[str, str], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, module, parameter in _trainable_parameters(model):
        members[_part(name, parts), _kind(name, module, parameter)].append((name, parameter))
    return [
        ParameterGroup(
            f"{part}, {kind}", cfg.SOLVER.BASE_LR * factors.get(part, 1.0), _weight_decay(kind, cfg), tuple(parameters)
        )
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
            f"{type(model).__name__} has no trainable parameter; use it with --eval-only, or let the keys TRAIN of its "
            "configuration train some"
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


def _part(name: str, parts: Sequence[LearningPart]) -> str:
    return next((part.name for part in parts if re.match(part.pattern, name)), "other")


def _kind(name: str, module: nn.Module, parameter: nn.Parameter) -> str:
    if name.rpartition(".")[2] in _TABLES:
        return "tables"
    # Their key rows are frozen by a gradient of zero (layers/trainable_attention), which a decay would not respect.
    if hasattr(parameter, "key_rows_hook"):
        return "query and value rows"
    if isinstance(module, _NORMS):
        return "norms"
    return "biases" if parameter.ndim < 2 else "weights"


def _weight_decay(kind: str, cfg: CfgNode) -> float:
    decays: dict[str, Any] = {
        "weights": cfg.SOLVER.WEIGHT_DECAY,
        "norms": cfg.SOLVER.WEIGHT_DECAY_NORM,
        "biases": cfg.SOLVER.WEIGHT_DECAY_BIAS,
    }
    decay = decays.get(kind, 0.0)
    # Detectron2's meaning of None.
    return cfg.SOLVER.WEIGHT_DECAY if decay is None else decay
