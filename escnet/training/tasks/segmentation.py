"""Training of a segmenting model from a configuration, on the pixels of its training datasets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from torch import Tensor

from escnet.config_ranges import check_ranges
from escnet.data.errors import DatasetError
from escnet.data.images import read_image
from escnet.data.mappers import TrainingMapper
from escnet.data.registration import dataset_records
from escnet.data.stream import build_training_loader
from escnet.evaluation.loop import evaluate_datasets
from escnet.training.optimizer import build_optimizer, group_table, parameter_groups
from escnet.training.tasks.interface import Results, TrainingTask
from escnet.training.trainer import Trainer, TrainingSettings

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Sample = dict[str, Any]


def segmentation_trainer(cfg: CfgNode) -> Trainer:
    """The trainer of a configuration; with several processes, SOLVER.IMS_PER_BATCH is the total of all.

    Raises:
        ValueError: the config has a value that cannot be trained with, or lacks a dataset.
        WeightsError: public weights are missing.
    """
    records = check_config(cfg, training=True)
    cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    return Trainer(SegmentationTask(cfg, records), training_settings(cfg))


def training_settings(cfg: CfgNode) -> TrainingSettings:
    """What a configuration says of a training beside its task."""
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    return TrainingSettings(
        output_dir=cfg.OUTPUT_DIR,
        iterations=cfg.SOLVER.MAX_ITER,
        checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
        evaluation_period=cfg.TEST.EVAL_PERIOD,
        weights=cfg.MODEL.WEIGHTS,
        gradient_limit=clipping.CLIP_VALUE if clipping.ENABLED else float("inf"),
        norm_type=clipping.NORM_TYPE,
        scales_gradients=cfg.MODEL.PRECISION == "fp16",
    )


class SegmentationTask(TrainingTask):
    """A model that is called as Detectron2's are: the losses of a list of samples.

    A `SegmentingModel` is also asked for its learning parts, and to prepare its training.

    Args:
        cfg: the config.
        records: of all training images.
    """

    remedy: ClassVar[str] = "lower SOLVER.BASE_LR, or set MODEL.PRECISION to fp32, and --resume"

    def __init__(self, cfg: CfgNode, records: list[Record]) -> None:
        torch.manual_seed(cfg.SEED)
        super().__init__(build_model(cfg), cfg.SEED)
        self.cfg = cfg
        self.records = records

    def batches(self, start_iteration: int) -> Iterator[list[Sample]]:
        """Lists of this process's samples; each depends on the seed and the iteration alone."""
        loader = build_training_loader(
            self.records,
            TrainingMapper(self.cfg),
            batch_size=self.cfg.SOLVER.IMS_PER_BATCH,
            seed=self.cfg.SEED,
            start_iteration=start_iteration,
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
            rank=comm.get_rank(),
            world_size=comm.get_world_size(),
        )
        return iter(loader)

    def backward(self, batch: list[Sample], scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        losses = self.model(batch)
        scale(sum(losses.values())).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def optimizer(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self.model, self.cfg)
        logger.info(f"Parameter groups of {type(self.model).__name__}:\n{group_table(groups, self.model)}")
        return build_optimizer(self.cfg, self.model)

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(self.cfg, optimizer)

    def start(self) -> None:
        if hasattr(self.model, "prepare_training"):
            self.model.prepare_training(self.cfg, self.images)

    def images(self, count: int) -> Iterator[Tensor]:
        """So many training images, raw (3, H, W) uint8, at equal distances in the list; all if it is shorter."""
        for record in self.records[:: max(1, len(self.records) // count)][:count]:
            yield torch.from_numpy(read_image(record["file_name"]).transpose(2, 0, 1).copy())

    def evaluate(self) -> Results:
        return evaluate_datasets(self.cfg, self.model)

    def summary(self, results: Results) -> dict[str, float]:
        # Scores of single classes stay in their own file.
        return {key: value for key, value in super().summary(results).items() if "/IoU-" not in key}

    def describe(self, batch: list[Sample]) -> list[str]:
        return [sample.get("file_name", "(no file name)") for sample in batch]


def check_config(cfg: CfgNode, training: bool) -> list[Record]:
    """Check, before anything takes long, what a config asks for.

    Returns:
        The records of all training images, which take long to read; for an evaluation, none.

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
    records = [record for name in cfg.DATASETS.TRAIN for record in dataset_records(name)] if training else []
    for name in cfg.DATASETS.TEST:
        try:
            dataset_records(name)
        except DatasetError as error:
            remedy = '; to train without evaluation, set DATASETS.TEST "()"' if training else ""
            raise DatasetError(f"{error}{remedy}") from error
    return records


def _check_training(cfg: CfgNode) -> None:
    """Refuse values of Detectron2's own keys that would otherwise be ignored without a word."""
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if cfg.SOLVER.AMP.ENABLED:
        raise ValueError("SOLVER.AMP.ENABLED is True; set MODEL.PRECISION to bf16 or fp16 instead")
    if clipping.ENABLED and clipping.CLIP_TYPE != "full_model":
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clipping.CLIP_TYPE}'; only full_model is supported")
    if cfg.SEED < 0:
        raise ValueError(f"SEED is {cfg.SEED}; a run that can be resumed needs one that is not negative")
