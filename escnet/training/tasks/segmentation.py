"""Training of a segmenting model from a configuration, on the pixels of its training datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from torch import Tensor

from escnet.data.folder import FOLDER_PREFIX
from escnet.data.images import read_image
from escnet.data.label_scan import scan_labels
from escnet.data.label_spaces import label_spaces
from escnet.data.labelled import LabelledSplit, labelled_split
from escnet.data.mappers import TrainingMapper
from escnet.data.registration import dataset_records
from escnet.data.stream import build_training_loader
from escnet.training.tasks.configured import (
    NO_EVALUATION,
    ConfiguredTask,
    check_model,
    check_solver,
    check_test_sets,
    training_settings,
)
from escnet.training.trainer import Trainer

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
    return Trainer(SegmentationTask(cfg, labelled_split(cfg, records)), training_settings(cfg))


class SegmentationTask(ConfiguredTask):
    """A model that is called as Detectron2's are: the losses of a list of samples.

    A `SegmentingModel` is also asked for its learning parts, and to prepare its training.

    Args:
        cfg: the config.
        split: the images that it learns from, and those that are held out.
    """

    def __init__(self, cfg: CfgNode, split: LabelledSplit) -> None:
        super().__init__(cfg, split)
        self.records = split.training

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

    def start(self) -> None:
        if hasattr(self.model, "prepare_training"):
            self.model.prepare_training(self.cfg, self.images)

    def images(self, count: int) -> Iterator[Tensor]:
        """So many training images, raw (3, H, W) uint8, at equal distances in the list; all if it is shorter."""
        for record in self.records[:: max(1, len(self.records) // count)][:count]:
            yield torch.from_numpy(read_image(record["file_name"]).transpose(2, 0, 1).copy())

    def describe(self, batch: list[Sample]) -> list[str]:
        return [sample.get("file_name", "(no file name)") for sample in batch]


def check_config(cfg: CfgNode, training: bool) -> list[Record]:
    """Check, before anything takes long, what a config asks for.

    Returns:
        The records of all training images, which take long to read; for an evaluation, none.

    Raises:
        ValueError: a value cannot be used; DatasetError, which is one too: a dataset is not there, or a label map
            of a user's folder has an id without a name.
    """
    check_model(cfg)
    if training:
        check_solver(cfg)
    needed = "TRAIN" if training else "TEST"
    if not cfg.DATASETS[needed]:
        raise ValueError(f"DATASETS.{needed} is empty; name a --config-file, or a dataset")
    records = [record for name in cfg.DATASETS.TRAIN for record in dataset_records(name)] if training else []
    if training:
        own = [name for name in cfg.DATASETS.TRAIN if name.startswith(FOLDER_PREFIX)]
        scan_labels(records, label_spaces(own, cfg.INPUT.TEMPLATES, cfg.INPUT.CLASS_NAMES))
    check_test_sets(cfg, NO_EVALUATION if training else "")
    return records
