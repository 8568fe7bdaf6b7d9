"""The distance of a student's features from a teacher's, and maps of both on one grid."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F

from escnet.losses.distillation import (
    Standardisation,
    angular_dispersion,
    balanced_angle_loss,
    cosine_loss,
    standardised_loss,
)

BALANCES = ("none", "phi_s", "angle")


class FeatureLoss:
    """The distance of a student's features from a teacher's, (..., D) both, in one of the ways of `BALANCES`.

    none: 1 - cosine. phi_s: squared error of features that are standardised. angle: squared angle as a share of the
    teacher's dispersion. The last two have to see some of the teacher's features first.

    Args:
        balance: one of `BALANCES`.
    """

    def __init__(self, balance: str) -> None:
        self.balance = balance
        self.state: dict[str, Tensor] = {}

    @property
    def is_prepared(self) -> bool:
        """Whether it can be called."""
        return self.balance == "none" or bool(self.state)

    def prepare(self, features: Tensor) -> None:
        """Learn the spread of the teacher's features (n, D)."""
        if self.balance == "phi_s":
            self.state = dict(vars(Standardisation.fit(features)))
        elif self.balance == "angle":
            self.state = {"dispersion": angular_dispersion(features)}

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(...) losses."""
        if self.balance == "none":
            return cosine_loss(student, teacher)
        state = {name: value.to(student.device) for name, value in self.state.items()}
        if self.balance == "phi_s":
            return standardised_loss(student, teacher, Standardisation(**state))
        return balanced_angle_loss(student, teacher, state["dispersion"])


def prepare_together(distance: FeatureLoss, features: Callable[[], Tensor]) -> None:
    """Let a loss see features of the first process, so that all processes have the same."""
    if distance.is_prepared:
        return
    if comm.is_main_process():
        distance.prepare(features())
    distance.state = comm.all_gather(distance.state)[0]


def on_one_grid(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B,C,h,w) on the coarser of their grids."""
    grid = min(first.shape[-2:], second.shape[-2:], key=lambda side: side[0] * side[1])
    resized = (
        m if m.shape[-2:] == grid else F.interpolate(m, grid, mode="bilinear", align_corners=False, antialias=True)
        for m in (first, second)
    )
    return tuple(resized)


def cells(maps: Tensor) -> Tensor:
    """(B,C,h,w) -> (B,h,w,C)"""
    return maps.permute(0, 2, 3, 1)
