"""Parameter groups and the optimizer built of them."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from escnet.layers.trainable_attention import _freeze_key_rows
from escnet.meta_arch.interfaces import LearningPart
from escnet.training.optimizer import build_optimizer, group_table, parameter_groups


class Attention(nn.Module):
    """Holds CLIP-like parameters: a packed attention projection, a token and its positions."""

    def learning_parts(self, cfg: CfgNode) -> list[LearningPart]:
        clip = cfg.SOLVER.CLIP_MULTIPLIER
        return [LearningPart("CLIP image", "clip_image", clip), LearningPart("CLIP text", "clip_text", clip)]

    def __init__(self) -> None:
        super().__init__()
        self.clip_text = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2)})
        self.clip_text.positional_embedding = nn.Parameter(torch.ones(3, 4))
        self.clip_image = nn.Module()
        self.clip_image.class_embedding = nn.Parameter(torch.ones(4))
        self.other = nn.Linear(4, 4)
        self.shared = self.other


def rates(model: nn.Module, cfg: CfgNode) -> dict[str, tuple[float, float]]:
    return {
        name: (group.lr, group.weight_decay) for group in parameter_groups(model, cfg) for name, _ in group.parameters
    }


def test_rates_and_decays(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR, cfg.SOLVER.CLIP_MULTIPLIER, cfg.SOLVER.SAM_MULTIPLIER = 1.0, 0.5, 0.25
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.1, 0.2, 0.3
    assert rates(build_model(cfg), cfg) == {
        "clip_image.0.weight": (0.5, 0.1),
        "clip_image.0.bias": (0.5, 0.3),
        "clip_image.1.weight": (0.5, 0.2),
        "clip_image.1.bias": (0.5, 0.2),
        "blocks.0.sam_block.weight": (0.25, 0.1),
        "blocks.0.sam_block.bias": (0.25, 0.3),
        "blocks.0.position_bias": (1.0, 0.0),
        "blocks.0.norm.weight": (1.0, 0.2),
        "blocks.0.norm.bias": (1.0, 0.2),
        "head.weight": (1.0, 0.1),
        "head.bias": (1.0, 0.3),
    }
    cfg.MODEL.SAM.INIT = "random"
    assert rates(build_model(cfg), cfg)["blocks.0.sam_block.weight"] == (1.0, 0.1)


def test_key_rows_are_not_decayed(cfg: CfgNode) -> None:
    name = "clip_text.attn.in_proj_weight"
    lr = cfg.SOLVER.BASE_LR * cfg.SOLVER.CLIP_MULTIPLIER
    assert rates(Attention(), cfg)[name] == (lr, cfg.SOLVER.WEIGHT_DECAY)
    model = Attention()
    _freeze_key_rows(model.get_parameter(name))
    found = rates(model, cfg)
    assert found[name] == (lr, 0.0)
    assert found["clip_text.attn.out_proj.weight"] == (lr, cfg.SOLVER.WEIGHT_DECAY)
    assert found["clip_text.positional_embedding"] == (lr, 0.0)
    assert [group.name for group in parameter_groups(model, cfg) if name in dict(group.parameters)] == [
        "CLIP text, query and value rows"
    ]


@pytest.mark.parametrize("has_frozen_rows", [False, True])
def test_every_trainable_parameter_is_in_one_group(cfg: CfgNode, has_frozen_rows: bool) -> None:
    attention = Attention()
    if has_frozen_rows:
        _freeze_key_rows(attention.clip_text.attn.in_proj_weight)
    for model in (build_model(cfg), attention):
        trainable = sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        grouped = [name for group in parameter_groups(model, cfg) for name, _ in group.parameters]
        assert sorted(grouped) == trainable
        optimizer = build_optimizer(cfg, model)
        in_optimizer = [name for group in optimizer.param_groups for name in group["names"]]
        assert sorted(in_optimizer) == trainable
        by_name = dict(model.named_parameters())
        for group in optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                assert parameter is by_name[name]
                assert (group["lr"], group["weight_decay"]) == rates(model, cfg)[name]


def test_groups_of_the_optimizer_are_few(cfg: CfgNode) -> None:
    keys = [(group["lr"], group["weight_decay"]) for group in build_optimizer(cfg, build_model(cfg)).param_groups]
    assert len(keys) == len(set(keys)) == 4


def test_table(cfg: CfgNode) -> None:
    model = build_model(cfg)
    rows = {}
    for line in group_table(parameter_groups(model, cfg), model).splitlines()[2:]:
        name, *numbers = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = numbers
    assert rows["CLIP image, weights"] == ["1", "108", "0.0001", "0.0001"]
    assert rows["SAM blocks, biases"] == ["1", "4", "0.0001", "0"]
    assert rows["other, tables"] == ["1", "8", "0.01", "0"]
    assert rows["frozen"] == ["2", "18", "", ""]
    assert rows["total"][1] == str(sum(parameter.numel() for parameter in model.parameters()))


def test_a_model_that_states_no_parts_learns_at_the_base_rate(cfg: CfgNode) -> None:
    groups = parameter_groups(nn.Linear(2, 2), cfg)
    assert [(group.name, group.lr) for group in groups] == [
        ("other, biases", cfg.SOLVER.BASE_LR), ("other, weights", cfg.SOLVER.BASE_LR),
    ]  # fmt: skip


def test_nothing_to_train_is_an_error(cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(cfg, nn.Linear(2, 2).requires_grad_(False))
