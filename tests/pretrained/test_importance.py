"""Squared gradients: by hand, against the Fisher information of a logistic regression, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.pretrained.importance import squared_gradients


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return 0.5 * (model(batch[0])[:, 0] - batch[1]).square()


def test_by_hand() -> None:
    model = nn.Linear(2, 1)
    model.unused = nn.Parameter(torch.ones(3))
    model.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.fill_(0.5)
    model.weight.grad = torch.full((1, 2), 9.0)
    inputs, targets = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]), torch.tensor([0.5, 5.5, 7.5])
    model.train()
    # Errors 1, -1, -1; gradients error · x, and the error itself for the bias.
    batches = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])]
    found = squared_gradients(model, batches, squared_error)
    torch.testing.assert_close(found["weight"], torch.tensor([[5.0, 10.0]]) / 3)
    torch.testing.assert_close(found["bias"], torch.tensor([1.0]))
    assert found["unused"].tolist() == [0, 0, 0] and "frozen" not in found
    assert model.weight.grad.tolist() == [[9.0, 9.0]] and model.training


def test_fisher_information_of_a_logistic_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    inputs = torch.randn(50, 3, generator=generator)

    def losses(model: nn.Module, inputs: Tensor) -> Tensor:
        """Labels drawn from the prediction."""
        logits = model(inputs)
        labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator)[:, 0]
        return F.cross_entropy(logits, labels, reduction="none")

    found = squared_gradients(model, [inputs] * 30, losses)["weight"]
    p = model(inputs).softmax(dim=1).detach()
    # E over labels of (1[y=k] - p_k)² x² = p_k (1 - p_k) x².
    exact = torch.einsum("nk,nd->kd", p * (1 - p), inputs.square()) / len(inputs)
    torch.testing.assert_close(found, exact, rtol=0.15, atol=0.0)


def test_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1))
    batch = (torch.randn(4, 2), torch.randn(4))
    first, second = (squared_gradients(model, [batch], squared_error) for _ in range(2))
    assert torch.equal(first["1.weight"], second["1.weight"])


def test_what_cannot_be_summed_is_refused() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="no sample"):
        squared_gradients(model, [], squared_error)
    with pytest.raises(ValueError, match=r"shape \(\); one for each sample"):
        squared_gradients(model, [0], lambda model, _: model.weight.sum())
    with pytest.raises(ValueError, match="gradient of weight is not finite"):
        squared_gradients(model, [0], lambda model, _: (model.weight * float("inf")).sum()[None])
