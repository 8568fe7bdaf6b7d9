"""The trainer: Detectron2's loop and hooks around one resumable step of whatever task it is given."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import SimpleTrainer, TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from torch import Tensor, nn

from escnet.training.best_weights import BestWeights, Validation
from escnet.training.checkpoint import LAST_CHECKPOINT, SafeCheckpointer
from escnet.training.processes import average_gradients, share_weights
from escnet.training.reproducibility import deterministic_if_cpu
from escnet.training.tasks.interface import Results, TrainingTask
from escnet.training.writers import TimedWriter, repair_metrics

logger = logging.getLogger(__name__)

MAX_CHECKPOINTS = 3
FINAL = "model_final"


@dataclass(frozen=True)
class TrainingSettings:
    """What a training is beside its task.

    Attributes:
        output_dir: folder of checkpoints and metrics.
        iterations: how many.
        checkpoint_period: iterations between two checkpoints.
        evaluation_period: iterations between two evaluations, 0 for one at the end alone.
        validation_period: iterations between two validations, of which the best chooses the final weights; 0 for none,
            the last weights are final.
        patience: the training ends once so many validations in a row have found nothing better; 0 for no such end.
        keeps_start: the weights at the start are validated too, and may be the best.
        weights: a file to begin with, or "".
        gradient_limit: to which the common norm of all gradients is clipped.
        norm_type: which norm that is.
        scales_gradients: for fp16, in which small gradients would vanish.
    """

    output_dir: str
    iterations: int
    checkpoint_period: int
    evaluation_period: int = 0
    validation_period: int = 0
    patience: int = 0
    keeps_start: bool = False
    weights: str = ""
    gradient_limit: float = float("inf")
    norm_type: float = 2.0
    scales_gradients: bool = False


class Trainer(TrainerBase):
    """Trains a task, with checkpoints, evaluation and metrics as in Detectron2's DefaultTrainer.

    A run that is stopped at any moment, by `kill -9` too, and resumed with the same settings ends with the weights of a
    run that was left alone. On a CPU they are equal bit for bit, given the same number of threads and processes. On
    CUDA the data, the random numbers and the schedule are the same, but some backward kernels add in varying order.
    Smoothed values in the log are not restored: their windows begin anew.

    Where the task holds something out, the weights of the best validation are those that are evaluated at the end and
    written as model_final.pth; meanwhile they are in model_best.pth, and in each checkpoint.

    With several processes, each runs the task on its own share of a batch, and gradients are averaged over all.

    Args:
        task: what is trained.
        settings: how long, and where to.
    """

    def __init__(self, task: TrainingTask, settings: TrainingSettings) -> None:
        super().__init__()
        self.task, self.settings = task, settings
        self.start_iter, self.max_iter = 0, settings.iterations
        self.model = task.model
        self.device = next(self.model.parameters()).device
        self.optimizer = task.optimizer()
        self.scheduler = task.schedule(self.optimizer)
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=settings.scales_gradients)
        self.checkpointer = SafeCheckpointer(self.model, settings.output_dir, trainer=self)
        self.best = BestWeights(self.checkpointer)
        self.model.train()
        self.register_hooks(self._build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on with the run in the folder if there is one and `resume` is set; else begin, with the weights if any.

        Raises:
            WeightsError: the checkpoint cannot be used. Never is another one taken in its place.
            ValueError: the run in the folder was of other data.
        """
        is_resumed = resume and self.checkpointer.has_checkpoint()
        if is_resumed:
            self.task.check_resumed()
            self.checkpointer.resume_or_load("", resume=True)
            self.start_iter = self.iter + 1
            if self.best.is_old(self.iter, self.settings.patience * self.settings.validation_period):
                self.max_iter = self.start_iter
        else:
            self.checkpointer.load(self.settings.weights, checkpointables=[])
            self.task.start()
            self.model.train()
        share_weights(self.model)
        comm.synchronize()
        if comm.is_main_process():
            self.checkpointer.remove_leftovers()
            self._prepare_output(is_resumed)

    def train(self) -> Results:
        """Train to the last iteration and evaluate; returns the results of the evaluation."""
        if self.start_iter >= self.max_iter:
            # Stopped after its last periodic checkpoint; or complete, and then model_final.pth is the last one.
            is_complete = os.path.basename(self.checkpointer.get_checkpoint_file()) == f"{FINAL}.pth"
            self._finish(is_saved=is_complete)
        if comm.is_main_process():
            writers = self._build_writers()
            self.register_hooks([TimedWriter(writers, validation_period=self.settings.validation_period)])
        self.register_hooks([_End()])
        self._batches = self.task.batches(self.start_iter)
        with deterministic_if_cpu(self.device), suppress(_EndedEarly):
            super().train(self.start_iter, self.max_iter)
        return self._results

    def run_step(self) -> None:
        """One iteration: batch, gradients, clipping, update, metrics."""
        self.task.seed(self.iter)
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad(set_to_none=True)
        losses = self.task.backward(batch, self.grad_scaler.scale)
        self._refuse_nonfinite("loss", sum(losses.values()), losses, batch)
        average_gradients(self.model.parameters())
        self.grad_scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.model.parameters(), self.settings)
        if not self.grad_scaler.is_enabled():  # which skips such a step and lowers its scale
            self._refuse_nonfinite("gradient", norm, losses, batch)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.task.after_step()

        SimpleTrainer.write_metrics(losses, data_time, self.iter)
        self.storage.put_scalars(**self.task.counts(), smoothing_hint=False)
        if norm.isfinite():
            self.storage.put_scalar("grad_norm", norm.item())

    def after_train(self) -> None:
        # A run that was complete when it was resumed has no iteration, and Detectron2's loop counts one.
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
            "task": self.task.state_dict(),
            **({"best": best} if (best := self.best.state_dict()) else {}),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the iteration, the schedule, the optimizer, the gradient scaler, the task and the best weights.

        A model that holds the chosen weights, as of model_final.pth, is given those of its last iteration.

        Raises:
            ValueError: the optimizer had other parameters, or other groups of them; or nothing is held out any more.
        """
        best = state_dict.get("best", {})
        if best and not self.settings.validation_period:
            raise ValueError("its final weights are to be those of the best validation, and now nothing is held out")
        saved = [group["names"] for group in state_dict["optimizer"]["param_groups"]]
        if saved != [group["names"] for group in self.optimizer.param_groups]:
            raise ValueError("it trains other parameters, or groups them in another way")
        configured = [group["initial_lr"] for group in self.optimizer.param_groups]
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        # Checkpoints of earlier versions have none, and the tasks of that time had no state.
        self.task.load_state_dict(state_dict.get("task", {}))
        self.best.load_state_dict(best)
        resumed = [group["initial_lr"] for group in self.optimizer.param_groups]
        if resumed != configured:
            logger.warning(f"The run goes on with its own learning rates {resumed}, not those configured, {configured}")

    def _build_hooks(self) -> list[hooks.HookBase]:
        settings, validation, rotation = self.settings, [], []
        if settings.validation_period:
            validation = [
                Validation(
                    settings.validation_period,
                    self.task.validate,
                    self.best,
                    settings.patience,
                    settings.keeps_start,
                )
            ]
        if comm.is_main_process():
            rotation = [_Rotation(self.checkpointer, settings.checkpoint_period, max_to_keep=MAX_CHECKPOINTS)]
            self._recent_checkpoints = rotation[0].recent_checkpoints
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            # Before the checkpoint of its iteration, which holds its outcome.
            *validation,
            *rotation,
            _Finish(),
            _Evaluation(settings.evaluation_period, self._evaluate),
        ]

    def _build_writers(self) -> list[Any]:
        folder = self.settings.output_dir
        os.makedirs(folder, exist_ok=True)
        # TensorBoard shows nothing of what the stopped run wrote after its last checkpoint.
        purge = {"purge_step": self.start_iter} if self.start_iter else {}
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(os.path.join(folder, "metrics.json")),
            TensorboardXWriter(folder, **purge),
        ]

    def _prepare_output(self, is_resumed: bool) -> None:
        """Make the folder fit the run that begins: its metrics whole, and no checkpoint of an earlier run tagged."""
        folder = Path(self.settings.output_dir)
        repair_metrics(folder / "metrics.json", self.start_iter if is_resumed else None)
        if self.settings.validation_period:
            self.best.restore_file()
        if is_resumed:
            # The rotation of checkpoints goes on with those that are there.
            self._recent_checkpoints += self.checkpointer.periodic_checkpoints()
            return
        tag = folder / LAST_CHECKPOINT
        if tag.exists():
            logger.warning(f"A new run begins in {tag.parent}; --resume will no longer continue the earlier one there")
            tag.unlink()
        # Only now: as long as its checkpoint is tagged, the earlier run may go on, and looks for what it wrote.
        self.task.begin_output()

    def _finish(self, is_saved: bool = False) -> None:
        """Put the final weights into the model of each process, and write them unless that has been done."""
        self.best.choose()
        if not is_saved:
            self.checkpointer.save(FINAL, iteration=self.iter)

    def _evaluate(self) -> dict[str, float]:
        self._results = self.task.evaluate()
        return self.task.summary(self._results)

    def _refuse_nonfinite(self, what: str, value: Tensor, losses: dict[str, Tensor], batch: Any) -> None:
        if not value.isfinite():
            values = {name: loss.item() for name, loss in losses.items()}
            files = self.task.describe(batch)
            raise FloatingPointError(
                f"the {what} became {value.item()} at iteration {self.iter}: losses {values}"
                f"{f', images {files}' if files else ''}; {self.task.remedy}"
            )


class _EndedEarly(BaseException):
    """Ends Detectron2's loop, which counts to the iterations that it was started with, and logs an Exception."""


class _End(hooks.HookBase):
    """The last hook: what a training that ends early has to do, the others have done."""

    def before_train(self) -> None:
        self._planned = self.trainer.max_iter

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.trainer.max_iter < self._planned:
            self.trainer.iter += 1
            raise _EndedEarly


class _Rotation(hooks.PeriodicCheckpointer):
    def before_train(self) -> None:
        """Nothing: Detectron2's would learn here which iteration is the last, and write model_final.pth itself."""


class _Finish(hooks.HookBase):
    def after_step(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self.trainer._finish()


class _Evaluation(hooks.EvalHook):
    def after_train(self) -> None:
        # Detectron2's evaluates also after a failure in the last iteration.
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


def clip_gradients(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> Tensor:
    """Scale all gradients so that their common norm is at most the limit; returns the norm () before."""
    return nn.utils.clip_grad_norm_(parameters, settings.gradient_limit, norm_type=settings.norm_type)
