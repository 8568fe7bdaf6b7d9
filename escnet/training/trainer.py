"""The trainer: Detectron2's loop and hooks around one resumable training step, and the evaluation of a model."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from torch import Tensor, nn

from escnet.config_ranges import check_ranges
from escnet.data.benchmarks import dataset_folder_name
from escnet.data.errors import DatasetError
from escnet.data.mappers import EvaluationMapper, TrainingMapper
from escnet.data.registration import dataset_records
from escnet.data.stream import build_evaluation_loader, build_training_loader
from escnet.evaluation.semantic import SemanticEvaluator
from escnet.meta_arch.alignment import align_from_config
from escnet.training.checkpoint import LAST_CHECKPOINT, SafeCheckpointer
from escnet.training.optimizer import build_optimizer, group_table, parameter_groups
from escnet.training.reproducibility import deterministic_if_cpu, seed_step
from escnet.training.writers import TimedWriter, repair_metrics

logger = logging.getLogger(__name__)

MAX_CHECKPOINTS = 3
Results = dict[str, dict[str, dict[str, float]]]


class EscTrainer(TrainerBase):
    """Trains the model of a config, with checkpoints, evaluation and metrics as in Detectron2's DefaultTrainer.

    A run that is stopped at any moment, by `kill -9` too, and resumed with the same config ends with the weights of a
    run that was left alone. On a CPU they are equal bit for bit, given the same number of threads and processes. On
    CUDA the data, the random numbers and the schedule are the same, but some backward kernels add in varying order.
    Smoothed values in the log are not restored: their windows begin anew.

    Args:
        cfg: the config; with several processes, SOLVER.IMS_PER_BATCH is the total of all.

    Raises:
        ValueError: the config has a value that cannot be trained with, or lacks a dataset.
        WeightsError: public weights are missing.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        check_config(cfg, training=True)
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        torch.manual_seed(cfg.SEED)
        model = build_model(cfg)
        self.device = next(model.parameters()).device
        logger.info(f"Parameter groups of {type(model).__name__}:\n{group_table(parameter_groups(model, cfg), model)}")
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=cfg.MODEL.PRECISION == "fp16")
        self.checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, trainer=self)
        self.model = create_ddp_model(
            model,
            device_ids=None if self.device.type == "cpu" else [comm.get_local_rank()],
            broadcast_buffers=False,
        )
        self.model.train()
        self.register_hooks(self._build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on with the run in OUTPUT_DIR if there is one and `resume` is set; else begin with MODEL.WEIGHTS, if any.

        Raises:
            WeightsError: the checkpoint cannot be used. Never is another one taken in its place.
        """
        is_resumed = resume and self.checkpointer.has_checkpoint()
        if is_resumed:
            self.checkpointer.resume_or_load("", resume=True)
            self.start_iter = self.iter + 1
        else:
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            align_from_config(self.cfg, self.checkpointer.model, self._training_records())
            self.model.train()
        comm.synchronize()
        if comm.is_main_process():
            self.checkpointer.remove_leftovers()
            self._prepare_output(is_resumed)

    def train(self) -> Results:
        """Train to SOLVER.MAX_ITER and evaluate on DATASETS.TEST; returns the results of the evaluation."""
        if comm.is_main_process():
            if self.start_iter >= self.max_iter:
                self._save_final()
            self.register_hooks([TimedWriter(self._build_writers())])
        self._batches = iter(self._build_loader())
        with deterministic_if_cpu(self.device):
            super().train(self.start_iter, self.max_iter)
        return self._results

    def run_step(self) -> None:
        """One iteration: batch, losses, gradients, clipping, update, metrics."""
        seed_step(self.cfg.SEED, self.iter)
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        losses = self.model(batch)
        total = sum(losses.values())
        self._refuse_nonfinite("loss", total, losses, batch)

        self.optimizer.zero_grad(set_to_none=True)
        self.grad_scaler.scale(total).backward()
        self.grad_scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.model.parameters(), self.cfg.SOLVER.CLIP_GRADIENTS)
        if not self.grad_scaler.is_enabled():  # which skips such a step and lowers its scale
            self._refuse_nonfinite("gradient", norm, losses, batch)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

        SimpleTrainer.write_metrics(losses, data_time, self.iter)
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
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the iteration, the schedule, the optimizer and the gradient scaler.

        Raises:
            ValueError: the optimizer had other parameters, or other groups of them.
        """
        saved = [group["names"] for group in state_dict["optimizer"]["param_groups"]]
        if saved != [group["names"] for group in self.optimizer.param_groups]:
            raise ValueError("it trains other parameters, or groups them in another way")
        configured = [group["initial_lr"] for group in self.optimizer.param_groups]
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        resumed = [group["initial_lr"] for group in self.optimizer.param_groups]
        if resumed != configured:
            logger.warning(f"The run goes on with its own learning rates {resumed}, not those configured, {configured}")

    def _build_hooks(self) -> list[hooks.HookBase]:
        rotation = []
        if comm.is_main_process():
            rotation = [
                hooks.PeriodicCheckpointer(
                    self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=MAX_CHECKPOINTS
                )
            ]
            self._recent_checkpoints = rotation[0].recent_checkpoints
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            *rotation,
            _Evaluation(self.cfg.TEST.EVAL_PERIOD, self._evaluate),
        ]

    def _build_writers(self) -> list[Any]:
        folder = self.cfg.OUTPUT_DIR
        os.makedirs(folder, exist_ok=True)
        # TensorBoard shows nothing of what the stopped run wrote after its last checkpoint.
        purge = {"purge_step": self.start_iter} if self.start_iter else {}
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(os.path.join(folder, "metrics.json")),
            TensorboardXWriter(folder, **purge),
        ]

    def _training_records(self) -> list[dict[str, Any]]:
        return [record for name in self.cfg.DATASETS.TRAIN for record in dataset_records(name)]

    def _build_loader(self) -> Any:
        return build_training_loader(
            self._training_records(),
            TrainingMapper(self.cfg),
            batch_size=self.cfg.SOLVER.IMS_PER_BATCH,
            seed=self.cfg.SEED,
            start_iteration=self.start_iter,
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
            rank=comm.get_rank(),
            world_size=comm.get_world_size(),
        )

    def _prepare_output(self, is_resumed: bool) -> None:
        """Make the folder fit the run that begins: its metrics whole, and no checkpoint of an earlier run tagged."""
        repair_metrics(Path(self.cfg.OUTPUT_DIR) / "metrics.json", self.start_iter if is_resumed else None)
        if is_resumed:
            # The rotation of checkpoints goes on with those that are there.
            self._recent_checkpoints += self.checkpointer.periodic_checkpoints()
            return
        tag = Path(self.cfg.OUTPUT_DIR) / LAST_CHECKPOINT
        if tag.exists():
            logger.warning(f"A new run begins in {tag.parent}; --resume will no longer continue the earlier one there")
            tag.unlink()

    def _save_final(self) -> None:
        """Write model_final.pth if the run was stopped after its last periodic checkpoint and before this one."""
        if os.path.basename(self.checkpointer.get_checkpoint_file()) != "model_final.pth":
            self.checkpointer.save("model_final", iteration=self.iter)

    def _evaluate(self) -> dict[str, float]:
        self._results = evaluate(self.cfg, self.checkpointer.model)
        flat = flatten_results_dict(self._results)
        # Scores of single classes stay in their own file; JSON has no NaN.
        return {key: value for key, value in flat.items() if "/IoU-" not in key and np.isfinite(value)}

    def _refuse_nonfinite(self, what: str, value: Tensor, losses: dict[str, Tensor], batch: Sequence[Any]) -> None:
        if not value.isfinite():
            values = {name: loss.item() for name, loss in losses.items()}
            files = [sample.get("file_name", "(no file name)") for sample in batch]
            raise FloatingPointError(
                f"the {what} became {value.item()} at iteration {self.iter}: losses {values}, images {files}; lower "
                "SOLVER.BASE_LR, or set MODEL.PRECISION to fp32, and --resume"
            )


class _Evaluation(hooks.EvalHook):
    def after_train(self) -> None:
        # Detectron2's evaluates also after a failure in the last iteration.
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


def evaluate(cfg: CfgNode, model: nn.Module) -> Results:
    """Evaluate a model on each of DATASETS.TEST; writes OUTPUT_DIR/inference/<dataset>/semantic_metrics.json.

    Returns:
        {dataset: {"sem_seg": {metric: percent}}}; empty inner dicts in all processes but the first.
    """
    mapper = EvaluationMapper(cfg)
    results = {}
    for name in cfg.DATASETS.TEST:
        loader = build_evaluation_loader(dataset_records(name), mapper, cfg.DATALOADER.NUM_WORKERS)
        evaluator = SemanticEvaluator(
            name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_folder_name(name))
        )
        results[name] = inference_on_dataset(model, loader, evaluator)
        if comm.is_main_process():
            print_csv_format(results[name])
    return results


def check_config(cfg: CfgNode, training: bool) -> None:
    """Check, before anything takes long, what a config asks for.

    Raises:
        ValueError: a value cannot be used; DatasetError, which is one too: a dataset is not there.
    """
    if cfg.MODEL.META_ARCHITECTURE not in META_ARCH_REGISTRY:
        raise ValueError(f"MODEL.META_ARCHITECTURE '{cfg.MODEL.META_ARCHITECTURE}' is not registered")
    check_ranges(cfg)
    if training:
        _check_training(cfg)
    needed = "TRAIN" if training else "TEST"
    if not cfg.DATASETS[needed]:
        raise ValueError(f"DATASETS.{needed} is empty; name a --config-file, or a dataset")
    for name in cfg.DATASETS.TRAIN if training else ():
        dataset_records(name)
    for name in cfg.DATASETS.TEST:
        try:
            dataset_records(name)
        except DatasetError as error:
            remedy = '; to train without evaluation, set DATASETS.TEST "()"' if training else ""
            raise DatasetError(f"{error}{remedy}") from error


def _check_training(cfg: CfgNode) -> None:
    """Refuse values of Detectron2's own keys that would otherwise be ignored without a word."""
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if cfg.SOLVER.AMP.ENABLED:
        raise ValueError("SOLVER.AMP.ENABLED is True; set MODEL.PRECISION to bf16 or fp16 instead")
    if clipping.ENABLED and clipping.CLIP_TYPE != "full_model":
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clipping.CLIP_TYPE}'; only full_model is supported")
    if cfg.MODEL.SAM.ALIGN_IMAGES < 0:
        raise ValueError(f"MODEL.SAM.ALIGN_IMAGES is {cfg.MODEL.SAM.ALIGN_IMAGES}; 0 is off, any more are images")
    if cfg.SEED < 0:
        raise ValueError(f"SEED is {cfg.SEED}; a run that can be resumed needs one that is not negative")


def clip_gradients(parameters: Iterator[nn.Parameter], clipping: CfgNode) -> Tensor:
    """Scale all gradients so that their common norm is at most CLIP_VALUE, if enabled; returns the norm before."""
    limit = clipping.CLIP_VALUE if clipping.ENABLED else float("inf")
    return nn.utils.clip_grad_norm_(parameters, limit, norm_type=clipping.NORM_TYPE)
