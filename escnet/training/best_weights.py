"""The best weights of a training by what is held out of it: found on the way, taken at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.engine.hooks import HookBase
from detectron2.utils import comm
from torch import Tensor

from escnet.training.checkpoint import SafeCheckpointer

logger = logging.getLogger(__name__)

BEST = "model_best"


class BestWeights:
    """The weights of the iteration whose validation was the best, and of equal ones of the first.

    They are part of each checkpoint, so that whichever one a training goes on from, it has the best weights up to
    there; model_best.pth is a copy for others, which no training reads. Frozen parameters are not kept. Each process
    has a copy of its own, which is the same in all.

    Args:
        checkpointer: of the model.

    Attributes:
        value: of the best validation; None before the first one.
        iteration: after which it was made, counted from 0; -1 for the start.
    """

    def __init__(self, checkpointer: SafeCheckpointer) -> None:
        self._checkpointer = checkpointer
        self._model = checkpointer.model
        self.value: float | None = None
        self.iteration: int | None = None
        # The best, on the CPU; while the model has these, those of its last iteration.
        self._weights: dict[str, Tensor] = {}
        self._is_chosen = False

    def offer(self, value: float, iteration: int) -> bool:
        """Take the model's weights as the best, and write model_best.pth, if they are; returns whether.

        Args:
            value: of their validation; what is not finite is never the best.
            iteration: after which it was made.

        Raises:
            DiskFullError: there is no space left for the file.
        """
        if not math.isfinite(value) or (self.value is not None and value <= self.value):
            return False
        self.value, self.iteration, self._weights = value, iteration, self._trained()
        self._write()
        return True

    def is_old(self, iteration: int, limit: int) -> bool:
        """Whether at least `limit` iterations up to `iteration` have found nothing better; 0 is no limit."""
        return bool(limit) and self.iteration is not None and iteration - self.iteration >= limit

    def choose(self) -> None:
        """Put the best weights into the model, and keep those of its last iteration, for a run that is prolonged."""
        if self.value is None or self._is_chosen:
            return
        self._exchange()
        self._is_chosen = True
        which = f"after iteration {self.iteration}" if self.iteration >= 0 else "at the start"
        logger.info(f"The final weights are those {which}, validated best: {self.value:.3f}")

    def restore_file(self) -> None:
        """Make model_best.pth what is known here: a run that was killed may have written that of a later iteration."""
        if self.value is None:
            (Path(self._checkpointer.save_dir) / f"{BEST}.pth").unlink(missing_ok=True)
        else:
            self._write()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold of them; nothing before the first validation."""
        if self.value is None:
            return {}
        return {
            "value": self.value,
            "iteration": self.iteration,
            "weights": self._weights,
            "is_chosen": self._is_chosen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, once the model has the weights of the same checkpoint.

        A model that has the best weights is given those of its last iteration.
        """
        if not state:
            return
        self.value, self.iteration, self._weights = state["value"], state["iteration"], state["weights"]
        if state["is_chosen"]:
            self._exchange()

    def _trained(self) -> dict[str, Tensor]:
        """Copies of the model's weights but for those that are frozen, which are the same in all iterations."""
        frozen = {name for name, parameter in self._model.named_parameters() if not parameter.requires_grad}
        weights = self._model.state_dict()
        return {name: value.to("cpu", copy=True) for name, value in weights.items() if name not in frozen}

    def _exchange(self) -> None:
        others = {name: value.to("cpu", copy=True) for name, value in self._model.state_dict().items()}
        self._model.load_state_dict(others | self._weights)
        self._weights = {name: others[name] for name in self._weights}

    def _write(self) -> None:
        weights = self._model.state_dict() | self._weights
        self._checkpointer.save_weights(BEST, weights, iteration=self.iteration, validation=self.value)


class Validation(HookBase):
    """Validates the model every so many iterations and after the last one, which comes early where it no longer helps.

    Args:
        period: iterations between two validations.
        validate: gives the score of the model as it is, more is better; None where nothing is held out. Of several
            processes, the first one's counts.
        best: is offered each score.
        patience: the training ends once so many validations in a row have found nothing better; 0 for no such end.
        keeps_start: validate before the first iteration too.
    """

    def __init__(
        self,
        period: int,
        validate: Callable[[], float | None],
        best: BestWeights,
        patience: int = 0,
        keeps_start: bool = False,
    ) -> None:
        self._period = period
        self._validate = validate
        self._best = best
        self._limit = patience * period
        self._keeps_start = keeps_start

    def before_train(self) -> None:
        if self._keeps_start and self.trainer.start_iter == 0:
            self._look(-1)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period and done < self.trainer.max_iter:
            return
        value = self._look(self.trainer.iter)
        if value is not None and math.isfinite(value):  # JSON has no NaN
            self.trainer.storage.put_scalar("validation", value, smoothing_hint=False)
        if self._best.is_old(self.trainer.iter, self._limit) and done < self.trainer.max_iter:
            logger.info(f"Nothing better for {self._limit} iterations: the training ends")
            self.trainer.max_iter = done

    def _look(self, iteration: int) -> float | None:
        """Validate, and offer the weights, after an iteration or, for -1, before the first."""
        # All take the same decision, or the processes would end with different weights.
        value = comm.all_gather(self._validate())[0]
        if value is not None:
            is_best = self._best.offer(value, iteration)
            when = f"after iteration {iteration}" if iteration >= 0 else "before the first iteration"
            logger.info(f"Validation {when}: {value:.3f}{', the best so far' * is_best}")
        return value
