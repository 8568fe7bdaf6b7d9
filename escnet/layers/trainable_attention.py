"""Which attention weights of a CLIP tower are trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

TRAINABLE = ("none", "attention", "qv", "all")


def trainable_attention_parameters(module: nn.Module, which: str) -> None:
    """Choose what of an open_clip tower, or of an encoder built on one, is trained.

    "qv" trains the query and value rows of the packed input projections: the key rows get a gradient of exactly zero,
    but a decoupled weight decay would still shrink them, so give these parameters none.

    Arguments:
      module: holds the tower; its residual blocks are found by open_clip's name for them.
      which: "none"; "attention", the input and output projections, biases included; "qv"; or "all".

    Raises:
      ValueError: for another `which`, or a module without residual attention blocks.
    """
    if which not in TRAINABLE:
        raise ValueError(f'which is "{which}", but must be one of {", ".join(TRAINABLE)}')
    attentions = list(_attention_modules(module))
    if not attentions:
        raise ValueError(f"{type(module).__name__} has no residual attention blocks of open_clip")
    module.requires_grad_(which == "all")
    for attention in attentions:
        if which == "attention":
            attention.requires_grad_(True)
        for parameter in (attention.in_proj_weight, attention.in_proj_bias):
            if which == "qv":
                _freeze_key_rows(parameter.requires_grad_(True))
            else:
                _release_key_rows(parameter)


def _attention_modules(module: nn.Module) -> Iterator[nn.Module]:
    for name, child in module.named_modules():
        if name.endswith(".attn") and "resblocks" in name:
            yield child


def _freeze_key_rows(parameter: nn.Parameter) -> None:
    # The handle lives on the parameter, so that it is lost in a copy together with the hook that it stands for.
    if not hasattr(parameter, "key_rows_hook"):
        parameter.key_rows_hook = parameter.register_hook(_without_key_rows)


def _release_key_rows(parameter: nn.Parameter) -> None:
    if hasattr(parameter, "key_rows_hook"):
        parameter.key_rows_hook.remove()
        del parameter.key_rows_hook


def _without_key_rows(gradient: Tensor) -> Tensor:
    rows = len(gradient) // 3
    return torch.cat([gradient[:rows], torch.zeros_like(gradient[:rows]), gradient[2 * rows :]])
