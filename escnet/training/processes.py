"""What the processes of one training have in common: weights and gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from detectron2.utils import comm
from torch import distributed, nn


def share_weights(model: nn.Module) -> None:
    """Give the model of each process the weights and buffers of the first one's."""
    if comm.get_world_size() > 1:
        for value in model.state_dict().values():
            distributed.broadcast(value, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; what one of them has not used counts as zero there."""
    processes = comm.get_world_size()
    if processes == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    used = torch.tensor([p.grad is not None for p in trained], dtype=torch.int32, device=trained[0].device)
    distributed.all_reduce(used, distributed.ReduceOp.MAX)
    pending = []
    for parameter, is_used in zip(trained, used.tolist(), strict=True):
        if is_used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= processes
            pending.append(distributed.all_reduce(parameter.grad, async_op=True))
    for work in pending:
        work.wait()
