"""Losses against teachers: by hand, against the usual forms for hard targets, and where each of them is least."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from escnet.losses.distillation import (
    Standardisation,
    angular_dispersion,
    balanced_angle_loss,
    cosine_loss,
    hadamard,
    mask_distillation_loss,
    soft_dice_loss,
    soft_focal_loss,
    standardised_loss,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_cosine_loss_by_hand() -> None:
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [5.0, 0.0], [1.0, 0.0]])
    assert torch.allclose(cosine_loss(student, teacher), torch.tensor([0.4, 0.0, 2.0]))


def test_with_hard_targets_the_focal_loss_is_the_usual_one() -> None:
    logits, targets = random(3, 2, 5, 6), (random(3, 2, 5, 6, seed=1) > 0).float()
    usual = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2.0).mean(dim=(-2, -1))
    assert torch.allclose(soft_focal_loss(logits, targets), usual, atol=1e-6)


@pytest.mark.parametrize("loss", [soft_focal_loss, soft_dice_loss])
def test_mask_losses_are_least_where_student_and_teacher_agree(loss) -> None:
    teacher = 2 * random(4, 6)
    logits = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, teacher.sigmoid()), logits)
    assert gradient.abs().max() < 1e-6
    at_teacher = loss(teacher, teacher.sigmoid())
    for seed in range(5):
        assert loss(teacher + 0.3 * random(4, 6, seed=seed + 1), teacher.sigmoid()) > at_teacher


def test_the_dice_loss_by_hand() -> None:
    # p = 1/2 everywhere, t = (1, 0): overlap 1/2, squares 1/2 + 1.
    assert soft_dice_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item() == pytest.approx(1 - 2 / 2.5)
    assert soft_dice_loss(torch.full((4, 4), -30.0), torch.zeros(4, 4)).item() == pytest.approx(0.0)


def test_the_mask_loss_is_the_weighted_sum() -> None:
    student, teacher = random(2, 4, 4), random(2, 4, 4, seed=1)
    expected = 20 * soft_focal_loss(student, teacher.sigmoid()) + soft_dice_loss(student, teacher.sigmoid())
    assert torch.allclose(mask_distillation_loss(student, teacher, 20.0), expected)


def test_the_dispersion_of_two_directions_at_a_right_angle_is_that_of_half_of_it() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 7.0]])
    assert angular_dispersion(features).item() == pytest.approx((math.pi / 4) ** 2, rel=1e-5)


def test_the_angle_loss_is_1_for_a_student_that_is_as_far_off_as_the_teachers_own_features() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    loss = balanced_angle_loss(student, features, angular_dispersion(features))
    assert torch.allclose(loss, torch.ones(2), atol=1e-4)


def test_the_angle_loss_has_a_finite_gradient_where_the_angle_is_0_or_pi() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = balanced_angle_loss(student, torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor(0.5))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 24, 64, 96, 128, 192, 256, 768, 1024, 1280])
def test_hadamard_matrices_are_orthogonal_with_entries_of_one_magnitude(size: int) -> None:
    matrix = hadamard(size)
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.double), atol=1e-10)
    assert torch.allclose(matrix.abs(), torch.full_like(matrix, size**-0.5))


@pytest.mark.parametrize("size", [3, 7, 36, 100])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=str(size)):
        hadamard(size)


def test_standardised_features_vary_alike_in_every_dimension() -> None:
    features = random(500, 12) * torch.linspace(0.01, 3, 12) @ random(12, 12, seed=1) + 5
    standard = Standardisation.fit(features)
    result = standard(features)
    assert torch.allclose(result.mean(dim=0), torch.zeros(12), atol=1e-4)
    assert torch.allclose(result.var(dim=0), torch.ones(12), atol=1e-3)
    assert torch.allclose(standard.inverse(result), features, atol=1e-3)


def test_standardising_keeps_ratios_of_distances() -> None:
    features = random(50, 4) * torch.tensor([3.0, 1.0, 0.1, 2.0])
    result = Standardisation.fit(features)(features)
    ratio = torch.pdist(result) / torch.pdist(features)
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-4)


def test_the_standardised_loss_of_the_mean_is_1() -> None:
    features = random(400, 8)
    standard = Standardisation.fit(features)
    loss = standardised_loss(standard.mean.expand_as(features), features, standard).mean()
    assert loss.item() == pytest.approx(1.0, abs=0.01)


def test_the_standardised_loss_is_that_of_its_definition_also_in_bf16() -> None:
    features = random(400, 8)
    standard = Standardisation.fit(features)
    student, teacher = features[:50] + 0.01 * random(50, 8, seed=1), features[:50]
    expected = (standard(student) - standard(teacher)).square().mean(dim=-1)
    torch.testing.assert_close(standardised_loss(student, teacher, standard), expected, rtol=1e-4, atol=1e-9)
    with torch.autocast("cpu", torch.bfloat16):
        loss = standardised_loss(student, teacher, standard)
    assert loss.dtype == torch.float
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-9)


def test_features_without_spread_are_refused() -> None:
    with pytest.raises(ValueError, match="more images"):
        Standardisation.fit(random(1, 4))
    with pytest.raises(ValueError, match="all the same"):
        Standardisation.fit(torch.ones(5, 4))


def test_the_cosine_loss_has_the_gradient_of_its_definition() -> None:
    student, teacher = random(3, 5).double().requires_grad_(), random(3, 5, seed=1).double()
    assert torch.autograd.gradcheck(lambda s: cosine_loss(s, teacher), student)
    assert torch.allclose(
        cosine_loss(student, teacher), 1 - (F.normalize(student, dim=1) * F.normalize(teacher, dim=1)).sum(dim=1)
    )
