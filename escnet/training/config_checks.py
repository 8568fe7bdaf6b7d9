"""What a training asks of the processes and of the machine: checked before anything is started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode

from escnet.pretrained.sam import sam_size

SHARED_MEMORY = Path("/dev/shm")
# Less than this is soon filled by the images of an evaluation, whose sizes are not known beforehand.
SMALL_MEMORY = 256 << 20
# torch's DataLoader lets each of its processes prepare so many batches ahead.
PREFETCHED = 2
# Of a pixel of a training sample: uint8 RGB and an int64 id.
PIXEL_BYTES = 3 + 8
REMEDY = "set DATALOADER.NUM_WORKERS 0, or give the container more (docker run --shm-size=8g)"


def check_batch(cfg: CfgNode, processes: int) -> None:
    """Check that the processes of a run can share its batches.

    Args:
        cfg: a config; its batch sizes are totals of all processes, SOLVER.IMS_PER_BATCH of
            SOLVER.REFERENCE_WORLD_SIZE of them where that is set.
        processes: of the run, on all machines.

    Raises:
        ValueError: they do not divide one, or a distillation has a reference size.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if cfg.TASK != "distillation":
        batches = {"SOLVER.IMS_PER_BATCH": cfg.SOLVER.IMS_PER_BATCH}
    elif reference:
        raise ValueError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, but the batches of a distillation are totals, whatever the "
            "number of processes: set it to 0"
        )
    else:
        batches = {f"DISTILL.{name}.BATCH_SIZE": teacher.BATCH_SIZE for name, teacher in _teachers(cfg)}
    for key, images in batches.items():
        if images % (reference or processes):
            number = (
                f"SOLVER.REFERENCE_WORLD_SIZE, {reference}" if reference else f"the number of processes, {processes}"
            )
            raise ValueError(
                f"{key}, {images}, is not a multiple of {number}; change it, or the number of processes (--num-gpus)"
            )


def check_shared_memory(cfg: CfgNode, processes: int, local_processes: int) -> None:
    """Check that the training batches which the loaders prepare ahead fit into shared memory, as in a small container.

    Another sharing strategy of PyTorch would not help: all of them keep their tensors there.

    Args:
        cfg: a config.
        processes: of the run, on all machines; `local_processes` of them on this one.

    Raises:
        ValueError: they do not fit.
    """
    workers = cfg.DATALOADER.NUM_WORKERS
    if not workers or not SHARED_MEMORY.is_dir():
        return
    share = _batch_bytes(cfg) / (cfg.SOLVER.REFERENCE_WORLD_SIZE or processes)
    needed = local_processes * workers * PREFETCHED * share
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise ValueError(
            f"DATALOADER.NUM_WORKERS is {workers}, whose batches take up to {mebibytes(needed)}, but "
            f"{SHARED_MEMORY} has {mebibytes(free)} free; {REMEDY}"
        )


def _batch_bytes(cfg: CfgNode) -> float:
    """What a batch of all processes takes; 0 where its images are of any size."""
    if cfg.TASK != "distillation":
        if not cfg.INPUT.CROP.ENABLED or cfg.INPUT.CROP.TYPE != "absolute":
            return 0
        height, width = cfg.INPUT.CROP.SIZE
        return cfg.SOLVER.IMS_PER_BATCH * height * width * PIXEL_BYTES
    total = 0
    for name, teacher in _teachers(cfg):
        if name == "SAM":
            side = sam_size(cfg.MODEL.SAM.NAME).image_size
            # Masks of a quarter of the side, a byte a pixel.
            total += teacher.BATCH_SIZE * side**2 * (3 + teacher.MASKS / 16)
        else:
            # Larger images come in smaller batches, at the same cost.
            total += teacher.BATCH_SIZE * min(teacher.SIZES, default=0) ** 2 * 3
    return total


def _teachers(cfg: CfgNode) -> Iterator[tuple[str, CfgNode]]:
    """The teachers of a distillation that have images."""
    yield from ((name, cfg.DISTILL[name]) for name in ("CLIP", "SAM") if cfg.DISTILL[name].SHARDS)


def small_memory_warning(cfg: CfgNode) -> str | None:
    """What to tell a user whose evaluation may wait forever for images that do not fit into shared memory; else None.

    PyTorch drops a tensor that its loader's process cannot hand over, and then waits for it.
    """
    if not cfg.DATALOADER.NUM_WORKERS or not SHARED_MEMORY.is_dir():
        return None
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= SMALL_MEMORY:
        return None
    return (
        f"{SHARED_MEMORY} has {mebibytes(free)} free, and an evaluation whose images do not fit stands still; in that "
        f"case {REMEDY}"
    )


def mebibytes(size: float) -> str:
    """Bytes as a text, "64 MiB"."""
    return f"{size / 2**20:.0f} MiB"
