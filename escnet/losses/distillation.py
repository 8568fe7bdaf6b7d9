"""Losses of a student against teachers: of features, of soft masks, and balanced between teachers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Nearer to 0 or π the derivative of an angle by its cosine has no bound.
_COSINE_LIMIT = 1 - 1e-6


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine similarity of features (..., D), over their last dimension: (...) (SAM-CLIP, sec. 3.2, L_CLIP)."""
    return 1 - F.cosine_similarity(student, teacher, dim=-1)


def soft_focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss against soft targets: |t - p|^γ times the binary cross entropy of p = sigmoid(logit) and t.

    Least where p = t, which the usual form is not; for t in {0, 1} it is the usual one without weights of the classes
    (Lin et al., "Focal Loss"; Li et al., "Generalized Focal Loss", eq. 4).

    Args:
        logits: (..., H, W) of the student.
        targets: (..., H, W) probabilities of the teacher.
        gamma: how much less a pixel counts that is nearly right.

    Returns:
        (...) means over the pixels.
    """
    distance = (targets - logits.sigmoid()).abs() ** gamma
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (distance * entropy).mean(dim=(-2, -1))


def soft_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss against soft targets, with squares in the denominator: 0 where sigmoid(logit) = t, and only there.

    Args:
        logits: (..., H, W) of the student.
        targets: (..., H, W) probabilities of the teacher.

    Returns:
        (...) in 0..1; one pixel is added to both sides of the fraction, so that two empty masks agree
        (Milletari et al., "V-Net", sec. 3).
    """
    p = logits.sigmoid()
    overlap = (p * targets).sum(dim=(-2, -1))
    areas = (p * p).sum(dim=(-2, -1)) + (targets * targets).sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (areas + 1)


def mask_distillation_loss(logits: Tensor, teacher: Tensor, focal_weight: float) -> Tensor:
    """Soft focal and soft Dice loss of mask logits against a teacher's, (..., H, W) each: (...) (SAM-CLIP, L_SAM)."""
    targets = teacher.sigmoid()
    return focal_weight * soft_focal_loss(logits, targets) + soft_dice_loss(logits, targets)


def angles(first: Tensor, second: Tensor) -> Tensor:
    """The angle between features (..., D), over their last dimension, in radians: (...)."""
    return F.cosine_similarity(first, second, dim=-1).clamp(-_COSINE_LIMIT, _COSINE_LIMIT).acos()


def angular_dispersion(features: Tensor) -> Tensor:
    """The mean squared angle between features (n, D) of a teacher and the mean of their directions: ()."""
    directions = F.normalize(features, dim=-1)
    return angles(directions, directions.mean(dim=0).expand_as(directions)).square().mean()


def balanced_angle_loss(student: Tensor, teacher: Tensor, dispersion: Tensor) -> Tensor:
    """Squared angle of features (..., D), as a share of the teacher's dispersion: (...) (C-RADIOv4, summary loss).

    A teacher whose features all point in nearly one direction would otherwise hardly be heard.
    """
    return angles(student, teacher).square() / dispersion


@dataclass(frozen=True)
class Standardisation:
    """PHI-S: makes a teacher's features vary alike in each dimension, without bending their space.

    A feature is centred, turned to the principal axes, turned again by a Hadamard matrix, which spreads the variance of
    each axis evenly over all dimensions, and divided by one number (Ranzinger et al., "PHI-S", sec. 3.3).

    Attributes:
        mean: (D,) of the features.
        rotation: (D, D) orthogonal, applied from the right.
        scale: () root of the mean variance of the principal axes.
    """

    mean: Tensor
    rotation: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Standardisation:
        """Of features (n, D), D a number for which `hadamard` knows a matrix.

        Raises:
            ValueError: fewer than two features, or features without any variance.
        """
        if len(features) < 2:
            raise ValueError(
                f"the spread of a teacher's features cannot be told from {len(features)} of them; give it more images"
            )
        wide = features.double()
        mean = wide.mean(dim=0)
        centred = wide - mean
        variances, axes = torch.linalg.eigh(centred.T @ centred / (len(wide) - 1))
        scale = variances.clamp(min=0).mean().sqrt()
        if scale <= 0:
            raise ValueError("the teacher's features are all the same; is it trained?")
        rotation = axes @ hadamard(wide.shape[1]).to(axes).T
        return cls(mean.to(features), rotation.to(features), scale.to(features))

    def __call__(self, features: Tensor) -> Tensor:
        """(..., D) standardised."""
        return (features - self.mean) @ self.rotation / self.scale

    def inverse(self, features: Tensor) -> Tensor:
        """(..., D) standardised features as they were."""
        return features * self.scale @ self.rotation.T + self.mean


def standardised_loss(student: Tensor, teacher: Tensor, standardisation: Standardisation) -> Tensor:
    """Squared error of features (..., D) in the standardised space, the mean over dimensions: (...).

    The centre and the rotation are the same for both and change no distance, so that neither is computed: of features
    in the teacher's own space, PHI-S asks for one scale.
    """
    return ((student.float() - teacher.float()) / standardisation.scale).square().mean(dim=-1)


def hadamard(size: int) -> Tensor:
    """An orthogonal matrix (size, size) in fp64 whose entries all have the magnitude 1/√size.

    By Sylvester's doubling of 1, or of one of Paley's matrices of order q + 1, q a prime with q % 4 == 3 (12, 20 ...).

    Raises:
        ValueError: none is known of this size.
    """
    doublings = 0
    core = size
    while core >= 1:
        matrix = torch.ones(1, 1, dtype=torch.double) if core == 1 else _paley(core)
        if matrix is not None:
            for _ in range(doublings):
                matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
            return matrix / math.sqrt(size)
        if core % 2:
            break
        core, doublings = core // 2, doublings + 1
    raise ValueError(f"no Hadamard matrix of size {size} is known here: PHI-S needs features of another dimension")


def _paley(order: int) -> Tensor | None:
    """Paley's first construction, of a matrix with entries ±1; None where the order is none of his."""
    q = order - 1
    if q < 3 or q % 4 != 3 or any(q % divisor == 0 for divisor in range(2, math.isqrt(q) + 1)):
        return None
    residues = {x * x % q for x in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if x in residues else -1.0 for x in range(1, q)], dtype=torch.double)
    index = torch.arange(q)
    jacobsthal = character[(index[:, None] - index[None]) % q]
    skew = torch.zeros(order, order, dtype=torch.double)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal
    return skew + torch.eye(order, dtype=torch.double)
