"""From a configuration to the trainer of the task that it names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from escnet.data.benchmarks import data_root
from escnet.data.shards.accounting import SampleCount
from escnet.data.shards.batches import image_batches, mask_batches
from escnet.data.shards.decoding import Augmentation
from escnet.data.shards.embeddings import check_embeddings
from escnet.data.shards.index import find_shards
from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.meta_arch.clip import ClassifyingClip
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.clip import build_clip
from escnet.pretrained.sam import build_sam, sam_size
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
    cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
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
    clip, _ = build_clip(cfg.MODEL.CLIP.NAME, "" if stored else cfg.MODEL.CLIP.WEIGHTS)
    stream = partial(
        _from,
        image_batches,
        _located(own.SHARDS, own.EMBEDDINGS, clip.visual.output_dim),
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
        size = (own.TEACHER_SIZE, own.TEACHER_SIZE)
        encoder = ClipImageEncoder(clip.visual, cfg.MODEL.CLIP.DENSE, cfg.MODEL.CLIP.DENSE_RESIDUAL)
        teacher = ClassifyingClip(encoder, None, clip.logit_scale.exp().item(), size)
        teacher = teacher.to(device).eval().requires_grad_(False)
    return ClipTeacher(
        stream,
        teacher,
        device,
        SampleCount(distill.BROKEN_SHARE),
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
    stream = partial(
        _from,
        mask_batches,
        _located(own.SHARDS),
        size=sam.input_size,
        batch_size=own.BATCH_SIZE,
        masks=own.MASKS,
        mask_size=sam.mask_size[0],
        **_sharing(cfg),
    )
    # SAM's own limit of a box's noise, as a share of its input.
    prompting = Prompting(rounds=own.ROUNDS, box_limit=20 / 1024 * sam.input_size, focal_weight=own.FOCAL_WEIGHT)
    return SamTeacher(
        stream,
        sam,
        SampleCount(distill.BROKEN_SHARE),
        tuple(own.SIZES),
        cfg.SEED,
        prompting,
        quality=own.QUALITY_WEIGHT,
        balance=distill.BALANCE,
        micro_batch=distill.MICRO_BATCH,
        statistics_images=distill.STATISTICS_IMAGES,
        weight=own.WEIGHT,
    )


def _located(sources: Sequence[str], embeddings: str = "", dim: int = 0) -> tuple[str, ...]:
    """Shards as the configuration names them: a path that is not absolute is below the folder of all datasets.

    Raises:
        ShardError: they are not there, or stored embeddings of them.
    """
    located = tuple(source if "://" in source else str(data_root() / source) for source in sources)
    shards = find_shards(located)
    if embeddings:
        check_embeddings(shards, embeddings, dim)
    return located


def _check_sizes(cfg: CfgNode, teacher: str) -> None:
    """Check the sides of the student's images.

    Raises:
        ValueError: there are none, or one that its patches do not divide.
    """
    patch, key = sam_size(cfg.MODEL.SAM.NAME).patch_size, f"DISTILL.{teacher}.SIZES"
    sizes = cfg.DISTILL[teacher].SIZES
    if not sizes or any(type(size) is not int or size < patch or size % patch for size in sizes):
        raise ValueError(f"{key} is {sizes!r}; it has to be some multiples of the student's patches, {patch} pixels")


def _sharing(cfg: CfgNode) -> dict[str, int]:
    return {
        "seed": cfg.SEED,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "rank": comm.get_rank(),
        "world_size": comm.get_world_size(),
    }


def _from(batches: Callable[..., object], sources: tuple[str, ...], start_iteration: int, **settings: object) -> object:
    return batches(sources, start_iteration=start_iteration, **settings)


TASKS: dict[str, Callable[[CfgNode], Trainer]] = {
    "segmentation": segmentation_trainer,
    "distillation": distillation_trainer,
}
TEACHERS: dict[str, Callable[[CfgNode], Teacher]] = {"CLIP": _clip_teacher, "SAM": _sam_teacher}
