"""What the trainer runs: a task knows its model, its batches, its losses and its optimizer; the trainer knows none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.evaluation.testing import flatten_results_dict
from torch import Tensor, nn

from escnet.training.reproducibility import seed_step

Results = dict[str, dict[str, dict[str, float]]]


class TrainingTask(ABC):
    """What is trained.

    Args:
        model: on its device.
        random_seed: of the training.

    Attributes:
        remedy: what to do about a loss that is not finite, for the message.
    """

    remedy: ClassVar[str] = "lower the learning rate"

    def __init__(self, model: nn.Module, random_seed: int) -> None:
        self.model = model
        self.random_seed = random_seed

    @abstractmethod
    def batches(self, start_iteration: int) -> Iterator[Any]:
        """The batches of this process from an iteration on, without end; a batch is whatever `backward` takes."""

    @abstractmethod
    def backward(self, batch: Any, scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Add the gradients of a batch to the parameters', in one backward pass or several.

        Args:
            batch: from `batches`.
            scale: is applied to each loss before its backward pass.

        Returns:
            The losses () by name, detached and not scaled; what is minimised is their sum.
        """

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer; each of its groups lists the names of its parameters under "names"."""

    @abstractmethod
    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """The learning rates of an optimizer, by iteration."""

    def start(self) -> None:  # noqa: B027  not every task has anything to do
        """What is done once before a training that does not go on from a checkpoint."""

    def check_resumed(self) -> None:  # noqa: B027
        """Look whether the run in the folder, which is about to go on, was of the same data; in all processes.

        Raises:
            ValueError: it was not.
        """

    def begin_output(self) -> None:  # noqa: B027
        """What a run that begins writes into its folder, for `check_resumed`; in the first process alone."""

    def seed(self, iteration: int) -> None:
        """Make the random numbers of an iteration its own: by default a function of the seed and of its number."""
        seed_step(self.random_seed, iteration)

    def after_step(self) -> None:  # noqa: B027
        """What follows each update of the parameters."""

    def evaluate(self) -> Results:
        """Judge the model as it is: {dataset: {kind: {metric: value}}}."""
        return {}

    def validate(self) -> float | None:
        """Judge the model as it is on what is held out of the training, to choose among its weights: more is better.

        All processes are asked; of several, the first one's answer counts.

        Returns:
            The score; None where nothing is held out.
        """
        return None

    def summary(self, results: Results) -> dict[str, float]:
        """What of an evaluation is written beside the losses, by name; JSON has no NaN."""
        return {key: value for key, value in flatten_results_dict(results).items() if np.isfinite(value)}

    def describe(self, batch: Any) -> list[str]:
        """The files of a batch, or what else tells where it is from."""
        return []

    def counts(self) -> dict[str, int]:
        """What is written beside the losses of an iteration: numbers counted since the training began, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside model, optimizer and schedule."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError, KeyError: the state is of another kind of task.
        """
        if state:
            raise ValueError(f"its task had a state ({', '.join(state)}), and {type(self).__name__} has none")


class SequentialTask(TrainingTask):
    """A task whose random numbers are drawn one after the other from the beginning of the training on.

    A checkpoint holds the state of the generators, so that a resumed training draws what an undisturbed one would have.

    Attributes:
        generator: of the batches; what the model itself draws comes from PyTorch's global generators.
    """

    def __init__(self, model: nn.Module, random_seed: int) -> None:
        super().__init__(model, random_seed)
        self.generator = torch.Generator().manual_seed(random_seed)

    def seed(self, iteration: int) -> None:
        """Nothing: an iteration goes on where the one before has stopped drawing."""

    def state_dict(self) -> dict[str, Any]:
        state = {"batches": self.generator.get_state(), "model": torch.get_rng_state()}
        device = next(self.model.parameters()).device
        return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the generators.

        Raises:
            KeyError: the checkpoint is of a task that does not draw in sequence, or of another kind of device.
        """
        self.generator.set_state(state["batches"])
        torch.set_rng_state(state["model"])
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)
