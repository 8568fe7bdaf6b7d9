"""A task whose model, optimizer, schedule and evaluation a configuration names."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler

from escnet.config_ranges import check_ranges
from escnet.data.errors import DatasetError
from escnet.data.labelled import LabelledSplit, check_labelled, write_labelled
from escnet.data.registration import dataset_records
from escnet.evaluation.held_out import held_out_miou
from escnet.evaluation.loop import evaluate_datasets
from escnet.precision import precision_of
from escnet.training.optimizer import build_optimizer, group_table, parameter_groups
from escnet.training.tasks.interface import Results, TrainingTask
from escnet.training.trainer import TrainingSettings

logger = logging.getLogger(__name__)
NO_EVALUATION = '; to train without evaluation, set DATASETS.TEST "()"'


class ConfiguredTask(TrainingTask):
    """What tasks on a Detectron2 model have in common.

    Args:
        cfg: the config; SEED decides the first weights.
        split: the labelled images, for a task that learns from such.
    """

    remedy = "lower SOLVER.BASE_LR, or set MODEL.PRECISION to fp32, and --resume"

    def __init__(self, cfg: CfgNode, split: LabelledSplit | None = None) -> None:
        torch.manual_seed(cfg.SEED)
        super().__init__(build_model(cfg), cfg.SEED)
        self.cfg = cfg
        self.split = split

    def check_resumed(self) -> None:
        if self.split is not None:
            check_labelled(self.cfg, self.split)

    def begin_output(self) -> None:
        if self.split is not None:
            write_labelled(self.cfg, self.split)

    def optimizer(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self.model, self.cfg)
        logger.info(f"Parameter groups of {type(self.model).__name__}:\n{group_table(groups, self.model)}")
        return build_optimizer(self.cfg, self.model)

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(self.cfg, optimizer)

    def evaluate(self) -> Results:
        return evaluate_datasets(self.cfg, self.model)

    def validate(self) -> float | None:
        """The mIoU of the model on the held-out images, in percent, as `held_out_miou` says; None without such."""
        if self.split is None or not self.split.validation:
            return None
        return held_out_miou(self.cfg, self.model, self.split.validation)

    def summary(self, results: Results) -> dict[str, float]:
        # Scores of single classes stay in their own file.
        return {key: value for key, value in super().summary(results).items() if "/IoU-" not in key}


def training_settings(cfg: CfgNode) -> TrainingSettings:
    """What a configuration says of a training beside its task."""
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    return TrainingSettings(
        output_dir=cfg.OUTPUT_DIR,
        iterations=cfg.SOLVER.MAX_ITER,
        checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
        evaluation_period=cfg.TEST.EVAL_PERIOD,
        validation_period=cfg.LABELLED.PERIOD if cfg.LABELLED.VALIDATION else 0,
        patience=cfg.LABELLED.PATIENCE if cfg.LABELLED.VALIDATION else 0,
        keeps_start=cfg.LABELLED.KEEP_START,
        weights=cfg.MODEL.WEIGHTS,
        gradient_limit=clipping.CLIP_VALUE if clipping.ENABLED else float("inf"),
        norm_type=clipping.NORM_TYPE,
        scales_gradients=precision_of(cfg) == "fp16",
    )


def check_model(cfg: CfgNode) -> None:
    """Check the values of a config, and that it names a model.

    Raises:
        ValueError: a value cannot be used.
    """
    if cfg.MODEL.META_ARCHITECTURE not in META_ARCH_REGISTRY:
        raise ValueError(f"MODEL.META_ARCHITECTURE '{cfg.MODEL.META_ARCHITECTURE}' is not registered")
    check_ranges(cfg)


def check_solver(cfg: CfgNode) -> None:
    """Refuse values of Detectron2's own keys that would otherwise be ignored without a word.

    Raises:
        ValueError: there is one.
    """
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if cfg.SOLVER.AMP.ENABLED:
        raise ValueError("SOLVER.AMP.ENABLED is True; set MODEL.PRECISION to bf16 or fp16 instead")
    if clipping.ENABLED and clipping.CLIP_TYPE != "full_model":
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clipping.CLIP_TYPE}'; only full_model is supported")
    if cfg.SEED < 0:
        raise ValueError(f"SEED is {cfg.SEED}; a run that can be resumed needs one that is not negative")


def check_test_sets(cfg: CfgNode, remedy: str = "") -> None:
    """Look up the datasets of an evaluation.

    Raises:
        DatasetError: one is not there; its message ends with `remedy`.
    """
    for name in cfg.DATASETS.TEST:
        try:
            dataset_records(name)
        except DatasetError as error:
            raise DatasetError(f"{error}{remedy}") from error
