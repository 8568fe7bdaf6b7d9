"""What the trainings of the small CLIP and SAM share: drawing, arithmetic, weight decay, their folder and end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from escnet.safe_files import replacing
from escnet.training.failures import run_or_refuse
from escnet.training.tasks.interface import TrainingTask
from escnet.training.trainer import Trainer, TrainingSettings
from escnet.worker_pool import worker_pool

Drawn = TypeVar("Drawn")
_CHUNK = 500
CHECKPOINT_PERIOD = 250


def pretrain_or_refuse(program: str, work: Callable[[], object], output: Path, folder: Path) -> int:
    """Run a pretraining, and end it in one line where it cannot be done; returns the exit code.

    Args:
        program: its name.
        work: trains, and writes the weights.
        output: where these go.
        folder: of checkpoints, which are named after Ctrl-C.
    """
    stopped = f"stopped; {output} was not written, the same command goes on from the last checkpoint in {folder}"
    return run_or_refuse(program, work, (ValueError, FloatingPointError), stopped, code=1)


def draw_chunks(draw: Callable[[tuple[int, int]], Drawn], count: int) -> list[Drawn]:
    """Call `draw` with (first, end) of each few hundred of `count` pictures, in worker processes; results in order."""
    chunks = [(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with worker_pool(min(os.cpu_count() or 1, len(chunks)), preload=__name__) as pool:
        return list((pool.map if pool else map)(draw, chunks))


@contextmanager
def fast_arithmetic() -> Iterator[None]:
    """bf16 autocast on the CPU, without the fused attention, whose backward pass is slow there in bf16."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: matrices decay; biases, norms and scalars do not."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = {name: p for name, p in trained.items() if p.ndim >= 2}
    others = {name: p for name, p in trained.items() if p.ndim < 2}
    return [
        {"params": list(group.values()), "names": list(group), "weight_decay": decay}
        for group, decay in ((matrices, weight_decay), (others, 0.0))
    ]


def recipe_trainer(task: TrainingTask, recipe: Any, folder: Path) -> Trainer:
    """The trainer of a recipe, with the common norm of all gradients clipped to 1.

    Args:
        task: what is trained.
        recipe: a dataclass with `steps`; it is written to the folder.
        folder: of checkpoints and metrics; a training that was stopped there goes on.

    Raises:
        ValueError: the folder is of another recipe.
    """
    file, text = folder / "recipe.json", json.dumps(asdict(recipe), indent=1)
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise ValueError(f"{file} is of another recipe; delete the folder, or name another one")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Trainer(
        task, TrainingSettings(str(folder), recipe.steps, min(CHECKPOINT_PERIOD, recipe.steps), gradient_limit=1.0)
    )
