"""Averages of the weights of two models, the baselines of merging by distillation (SAM-CLIP, sec. B)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from escnet.pretrained.files import WeightsError
from escnet.pretrained.loading import list_keys

Tensors = Mapping[str, Tensor]


def interpolate(a: Tensors, b: Tensors, alpha: float) -> dict[str, Tensor]:
    """(1 - α) θ_a + α θ_b of each tensor (Wortsman et al., "Robust fine-tuning of zero-shot models": Wise-FT).

    Computed in fp32 and given in the wider of the two types; α = 0 is `a`, α = 1 is `b`.

    Args:
        a, b: tensors by name. What is not of a float type has to be equal in both.
        alpha: α, 0 to 1.

    Raises:
        ValueError: α is out of its range.
        WeightsError: the two differ in names, shapes, or tensors that are no floats.
    """
    _check_alpha(alpha)
    _check_partners(a, b)
    return {name: _mix(value, b[name], alpha) for name, value in a.items()}


def weighted_average(
    a: Tensors, b: Tensors, importance_a: Tensors, importance_b: Tensors, alpha: float = 0.5
) -> dict[str, Tensor]:
    """(F_a θ_a + F_b θ_b) / (F_a + F_b), each weight by its importance (Matena & Raffel, "Merging models with ...").

    F_a is (1 - α) times the importance in `a`, F_b is α times that in `b`. Where both are 0, nothing is known, and the
    two are interpolated by α. A tensor that has no importance, such as a buffer, has to be equal in both.

    Args:
        a, b: tensors by name, as for `interpolate`.
        importance_a, importance_b: of the same shapes, not negative; of the diagonal Fisher information, for example.
        alpha: α, 0 to 1.

    Raises:
        ValueError: α is out of its range.
        WeightsError: as `interpolate`; or an importance is missing, misshapen, negative or not finite.
    """
    _check_alpha(alpha)
    _check_partners(a, b)
    _check_importance(a, importance_a, "first")
    _check_importance(b, importance_b, "second")
    merged = {}
    for name, value in a.items():
        if name in importance_a and name in importance_b:
            ours, theirs = (1 - alpha) * importance_a[name].float(), alpha * importance_b[name].float()
            total = ours + theirs
            share = torch.where(total > 0, theirs / total, torch.full_like(total, alpha))
            merged[name] = _mix(value, b[name], share)
        elif torch.equal(value, b[name]):
            merged[name] = value
        else:
            raise WeightsError(f"{name} differs between the two models, and has no importance in both of them")
    return merged


def unit_mean(importance: Tensors) -> dict[str, Tensor]:
    """An importance scaled so that its mean over all weights is 1, to be weighed against that of another loss.

    Raises:
        WeightsError: all of it is 0, or there is none.
    """
    total = sum(value.double().sum().item() for value in importance.values())
    count = sum(value.numel() for value in importance.values())
    if not total > 0:
        raise WeightsError("the importance of all weights is 0, so there is nothing to weigh by")
    return {name: value.float() * (count / total) for name, value in importance.items()}


def _mix(a: Tensor, b: Tensor, alpha: float | Tensor) -> Tensor:
    if not a.is_floating_point():
        return a
    return ((1 - alpha) * a.float() + alpha * b.float()).to(torch.promote_types(a.dtype, b.dtype))


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha:g}; it has to be between 0, the first model alone, and 1, the second")


def _check_partners(a: Tensors, b: Tensors) -> None:
    """Refuse two sets of tensors that are not of one architecture."""
    problems = {
        "only in the first": [name for name in a if name not in b],
        "only in the second": [name for name in b if name not in a],
        "of different shapes": [
            f"{name} {tuple(value.shape)} and {tuple(b[name].shape)}"
            for name, value in a.items()
            if name in b and value.shape != b[name].shape
        ],
        "no floats, and different": [
            name for name, value in a.items() if name in b and value.shape == b[name].shape and _is_torn(value, b[name])
        ],
    }
    found = [f"{kind}: {list_keys(names)}" for kind, names in problems.items() if names]
    if found:
        raise WeightsError(f"the two models cannot be averaged; {'; '.join(found)}")


def _is_torn(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors cannot be averaged, since one of them is no float and they are not equal."""
    if a.is_floating_point() and b.is_floating_point():
        return False
    return a.dtype != b.dtype or not torch.equal(a, b)


def _check_importance(weights: Tensors, importance: Tensors, which: str) -> None:
    problems = {
        "unknown": [name for name in importance if name not in weights],
        "misshapen": [
            f"{name} {tuple(value.shape)} for {tuple(weights[name].shape)}"
            for name, value in importance.items()
            if name in weights and value.shape != weights[name].shape
        ],
        "negative or not finite": [
            name for name, value in importance.items() if not bool(((value >= 0) & value.isfinite()).all())
        ],
    }
    found = [f"{kind}: {list_keys(names)}" for kind, names in problems.items() if names]
    if found:
        raise WeightsError(f"the importance does not fit the {which} model; {'; '.join(found)}")
