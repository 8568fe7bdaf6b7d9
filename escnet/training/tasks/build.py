"""From a configuration to the trainer of the task that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from escnet.data.benchmarks import data_root
from escnet.data.labelled import uses_labelled
from escnet.data.shards.accounting import SampleCount, ShardError
from escnet.data.shards.batches import image_batches, mask_batches
from escnet.data.shards.decoding import Augmentation
from escnet.data.shards.embeddings import check_embeddings, told
from escnet.data.shards.index import Shard, find_shards
from escnet.data.shards.schedule import BatchSchedule
from escnet.data.simulated_prompts import BOX_LIMIT
from escnet.evaluation.runs.conditions import weights_sha256
from escnet.meta_arch.clip import ClassifyingClip, clip_image_encoder
from escnet.meta_arch.image_size import fitting_size
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.clip import build_clip
from escnet.pretrained.sam import build_sam, sam_size
from escnet.training.config_checks import check_batch
from escnet.training.tasks.configured import (
    NO_EVALUATION,
    check_model,
    check_solver,
    check_test_sets,
    training_settings,
)
from escnet.training.tasks.distillation import DistillationTask, Teacher
from escnet.training.tasks.promptable import Prompting
from escnet.training.tasks.segmentation import segmentation_trainer
from escnet.training.tasks.word_masks import word_mask_trainer
from escnet.training.teachers.clip import ClipTeacher
from escnet.training.teachers.feature_loss import BALANCES
from escnet.training.teachers.sam import SamTeacher
from escnet.training.trainer import Trainer


def build_trainer(cfg: CfgNode) -> Trainer:
    """The trainer of TASK.

    Raises:
        ValueError: there is no such task, or the configuration has a value that cannot be trained with.
        WeightsError: public weights are missing.
    """
    if cfg.TASK not in TASKS:
        raise ValueError(f"TASK is {cfg.TASK!r}; it has to be one of {', '.join(TASKS)}")
    return TASKS[cfg.TASK](cfg)


def distillation_trainer(cfg: CfgNode) -> Trainer:
    """The trainer of a student and the teachers that have shards; batch sizes are totals of all processes.

    Raises:
        ValueError: no teacher has shards, or a value cannot be used; ShardError, which is one too: shards are missing.
        WeightsError: public weights are missing.
    """
    check_model(cfg)
    check_solver(cfg)
    check_test_sets(cfg, NO_EVALUATION)
    check_batch(cfg, comm.get_world_size())
    if uses_labelled(cfg):
        raise ValueError(
            "LABELLED chooses among the labelled images of DATASETS.TRAIN, and a distillation reads none of them: set "
            "LABELLED.IMAGES and LABELLED.VALIDATION to 0"
        )
    teachers = build_teachers(cfg)
    return Trainer(DistillationTask(cfg, teachers), training_settings(cfg))


def build_teachers(cfg: CfgNode) -> list[Teacher]:
    """CLIP and SAM, of those that have shards.

    Raises:
        ValueError: neither has, or the balance is unknown.
    """
    distill = cfg.DISTILL
    if distill.BALANCE not in BALANCES:
        raise ValueError(f"DISTILL.BALANCE is {distill.BALANCE!r}; it has to be one of {', '.join(BALANCES)}")
    wanted = [key for key in TEACHERS if distill[key].SHARDS]
    if not wanted:
        raise ValueError("no teacher has images: set DISTILL.CLIP.SHARDS, DISTILL.SAM.SHARDS or both")
    for key in wanted:
        _check_sizes(cfg, key)
    return [TEACHERS[key](cfg) for key in wanted]


def _clip_teacher(cfg: CfgNode) -> ClipTeacher:
    distill, own = cfg.DISTILL, cfg.DISTILL.CLIP
    stored = bool(own.EMBEDDINGS)
    if stored and own.DENSE_WEIGHT:
        raise ValueError(
            "DISTILL.CLIP.EMBEDDINGS are of whole images; dense features (DISTILL.CLIP.DENSE_WEIGHT) need the teacher "
            "itself: turn one of them off"
        )
    if stored and own.AUGMENT:
        raise ValueError(
            "DISTILL.CLIP.EMBEDDINGS are of whole images, and DISTILL.CLIP.AUGMENT cuts and mirrors them at random: "
            "set DISTILL.CLIP.AUGMENT to False, or leave DISTILL.CLIP.EMBEDDINGS empty"
        )
    clip, _ = build_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.WEIGHTS)
    encoder = clip_image_encoder(clip.visual, cfg)
    size = fitting_size("DISTILL.CLIP.TEACHER_SIZE", (own.TEACHER_SIZE, own.TEACHER_SIZE), encoder.patch_size)
    images = _Images.of(cfg, "CLIP", ("SIZES", "BATCH_SIZE", "AUGMENT", "EMBEDDINGS"))
    if stored:
        _check_stored(cfg, images, clip)
    stream = partial(
        _from,
        image_batches,
        images.sources,
        sizes=tuple(own.SIZES),
        batch_size=own.BATCH_SIZE,
        augmentation=Augmentation() if own.AUGMENT else None,
        embeddings=own.EMBEDDINGS,
        embedding_dim=clip.visual.output_dim,
        **_sharing(cfg),
    )
    device = torch.device(cfg.MODEL.DEVICE)
    teacher = None
    if not stored:
        teacher = ClassifyingClip(encoder, None, clip.logit_scale.exp().item(), size)
        teacher = teacher.to(device).eval().requires_grad_(False)
    return ClipTeacher(
        stream,
        teacher,
        device,
        SampleCount(distill.BROKEN_SHARE, images.count),
        order=images.order,
        balance=distill.BALANCE,
        micro_batch=distill.MICRO_BATCH,
        statistics_images=distill.STATISTICS_IMAGES,
        weight=own.WEIGHT,
        dense_weight=own.DENSE_WEIGHT,
    )


def _sam_teacher(cfg: CfgNode) -> SamTeacher:
    distill, own = cfg.DISTILL, cfg.DISTILL.SAM
    sam = PromptableSam(build_sam(cfg.MODEL.SAM.NAME, cfg.MODEL.SAM.WEIGHTS))
    sam = sam.to(cfg.MODEL.DEVICE).eval().requires_grad_(False)
    images = _Images.of(cfg, "SAM", ("SIZES", "BATCH_SIZE", "MASKS"))
    stream = partial(
        _from,
        mask_batches,
        images.sources,
        size=sam.input_size,
        batch_size=own.BATCH_SIZE,
        masks=own.MASKS,
        mask_size=sam.mask_size[0],
        **_sharing(cfg),
    )
    prompting = Prompting(rounds=own.ROUNDS, box_limit=BOX_LIMIT * sam.input_size, focal_weight=own.FOCAL_WEIGHT)
    return SamTeacher(
        stream,
        sam,
        SampleCount(distill.BROKEN_SHARE, images.count),
        tuple(own.SIZES),
        cfg.SEED,
        prompting,
        order=images.order,
        quality=own.QUALITY_WEIGHT,
        balance=distill.BALANCE,
        micro_batch=own.MICRO_BATCH or distill.MICRO_BATCH,
        statistics_images=distill.STATISTICS_IMAGES,
        weight=own.WEIGHT,
    )


class _Images(NamedTuple):
    """The shards of a teacher.

    Attributes:
        sources: as the configuration names them, a path that is not absolute below the folder of all datasets.
        shards: what they stand for.
        order: what their order depends on, beside the numbers of processes and workers.
    """

    sources: tuple[str, ...]
    shards: list[Shard]
    order: dict[str, str]

    @classmethod
    def of(cls, cfg: CfgNode, teacher: str, keys: Sequence[str]) -> _Images:
        """Find those of a teacher, whose order depends on some keys of its own.

        Raises:
            ShardError: they are not there.
        """
        own = cfg.DISTILL[teacher]
        sources = tuple(source if "://" in source else str(data_root() / source) for source in own.SHARDS)
        try:
            shards = find_shards(sources)
        except ShardError as error:
            below = f"paths that are not absolute are below DETECTRON2_DATASETS, {data_root().absolute()}"
            raise ShardError(f"DISTILL.{teacher}.SHARDS ({below}): {error}") from None
        listed = json.dumps([(shard.url.rpartition("/")[2], shard.samples) for shard in shards])
        order = {f"DISTILL.{teacher}.{key}": str(own[key]) for key in keys}
        digest = hashlib.sha256(listed.encode()).hexdigest()[:12]
        return cls(sources, shards, order | {"SEED": str(cfg.SEED), f"digest of DISTILL.{teacher}.SHARDS": digest})

    @property
    def count(self) -> int:
        """How many images they have."""
        return sum(shard.samples for shard in self.shards)


def _check_stored(cfg: CfgNode, images: _Images, clip: nn.Module) -> None:
    """Check that stored embeddings are of the teacher, and at its size.

    Raises:
        ShardError: some are missing, or of another model, other weights or another size.
    """
    own = cfg.DISTILL.CLIP
    found = check_embeddings(images.shards, own.EMBEDDINGS, clip.visual.output_dim)
    # Without weights the teacher is another one with each seed.
    expected = weights_sha256(clip.visual) if cfg.MODEL.CLIP.WEIGHTS else found.weights_sha256
    if (found.weights_sha256, found.image_size) != (expected, own.TEACHER_SIZE):
        raise ShardError(
            f"the embeddings beside {images.shards[0].url} were made by {told(found)}, and the teacher is "
            f"{cfg.MODEL.CLIP.NAME} (weights {expected[:12]}, {own.TEACHER_SIZE} px): set MODEL.CLIP.WEIGHTS and "
            "DISTILL.CLIP.TEACHER_SIZE as they were, or embed anew with tools/embed_teacher.py --config-file"
        )


def _check_sizes(cfg: CfgNode, teacher: str) -> None:
    """Check the sides of the student's images, and that the processes can share a batch.

    Raises:
        ValueError: there are none, one is there twice, or one that its patches do not divide; or they cannot.
    """
    patch, key = sam_size(cfg.MODEL.SAM.NAME).patch_size, f"DISTILL.{teacher}.SIZES"
    sizes = cfg.DISTILL[teacher].SIZES
    if not sizes or any(type(size) is not int or size < patch or size % patch for size in sizes):
        raise ValueError(f"{key} is {sizes!r}; it has to be some multiples of the student's patches, {patch} pixels")
    try:
        BatchSchedule(sizes, cfg.DISTILL[teacher].BATCH_SIZE, comm.get_world_size(), cfg.SEED)
    except ValueError as error:
        raise ValueError(f"DISTILL.{teacher}: {error}") from error


def _sharing(cfg: CfgNode) -> dict[str, int]:
    return {
        "seed": cfg.SEED,
        "least_side": sam_size(cfg.MODEL.SAM.NAME).patch_size,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "rank": comm.get_rank(),
        "world_size": comm.get_world_size(),
    }


def _from(batches: Callable[..., object], sources: tuple[str, ...], start_iteration: int, **settings: object) -> object:
    return batches(sources, start_iteration=start_iteration, **settings)


TASKS: dict[str, Callable[[CfgNode], Trainer]] = {
    "segmentation": segmentation_trainer,
    "promptable": word_mask_trainer,
    "distillation": distillation_trainer,
}
TEACHERS: dict[str, Callable[[CfgNode], Teacher]] = {"CLIP": _clip_teacher, "SAM": _sam_teacher}
