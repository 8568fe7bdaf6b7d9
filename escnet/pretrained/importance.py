"""How much a loss depends on each weight of a model: squared gradients, the diagonal of the Fisher information."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def squared_gradients(
    model: nn.Module, batches: Iterable[Any], losses: Callable[[nn.Module, Any], Tensor]
) -> dict[str, Tensor]:
    """The mean over samples of the squared gradient of a sample's loss, for each parameter that requires gradients.

    Of a negative log-likelihood with labels drawn from the model's own prediction this is the diagonal of the Fisher
    information, with the labels of the data the empirical one (Kirkpatrick et al., "Overcoming catastrophic
    forgetting", sec. 2). The model is run in evaluation mode; its gradients are left as they were.

    Args:
        model: on its device.
        batches: of samples, as `losses` takes them.
        losses: the loss of each sample of a batch, (B,), from the model and the batch.

    Returns:
        fp32 tensors on the CPU, by the names of the parameters; 0 where no gradient arrives.

    Raises:
        ValueError: no sample, losses of another shape, or a gradient that is not finite.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    was_training, samples = model.training, 0
    model.eval()
    try:
        for batch in batches:
            found = losses(model, batch)
            if found.ndim != 1:
                raise ValueError(f"the losses have shape {tuple(found.shape)}; one for each sample is needed, (B,)")
            for loss in found:
                # The gradient of a mean would not tell the squares of its parts.
                gradients = torch.autograd.grad(loss, parameters.values(), retain_graph=True, allow_unused=True)
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    if gradient is not None:
                        total += gradient.detach().float().square()
                samples += 1
    finally:
        model.train(was_training)
    if not samples:
        raise ValueError("there is no sample to take gradients of")
    importance = {name: (total / samples).cpu() for name, total in sums.items()}
    for name, value in importance.items():
        if not value.isfinite().all():
            raise ValueError(f"the gradient of {name} is not finite")
    return importance
