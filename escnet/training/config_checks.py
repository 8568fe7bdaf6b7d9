"""What a training asks of the processes and of the machine: checked before anything is started."""

from __future__ import annotations

import shutil
from pathlib import Path

from detectron2.config import CfgNode

SHARED_MEMORY = Path("/dev/shm")
# Less than this is soon filled by the images of an evaluation, whose sizes are not known beforehand.
SMALL_MEMORY = 256 << 20
# torch's DataLoader lets each of its processes prepare so many batches ahead.
PREFETCHED = 2
# Of a pixel of a training sample: uint8 RGB and an int64 id.
PIXEL_BYTES = 3 + 8
REMEDY = "set DATALOADER.NUM_WORKERS 0, or give the container more (docker run --shm-size=8g)"


def check_batch(cfg: CfgNode, processes: int) -> None:
    """Check that the processes of a run can share its batch.

    Args:
        cfg: a config; SOLVER.IMS_PER_BATCH is the total of all processes, or of SOLVER.REFERENCE_WORLD_SIZE of them.
        processes: of the run, on all machines.

    Raises:
        ValueError: they do not divide it.
    """
    images, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if images % (reference or processes):
        number = f"SOLVER.REFERENCE_WORLD_SIZE, {reference}" if reference else f"the number of processes, {processes}"
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH, {images}, is not a multiple of {number}; change it, or the number of processes "
            "(--num-gpus)"
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
    if not workers or not SHARED_MEMORY.is_dir() or not cfg.INPUT.CROP.ENABLED or cfg.INPUT.CROP.TYPE != "absolute":
        return
    height, width = cfg.INPUT.CROP.SIZE
    share = max(1, cfg.SOLVER.IMS_PER_BATCH // (cfg.SOLVER.REFERENCE_WORLD_SIZE or processes))
    needed = local_processes * workers * PREFETCHED * share * height * width * PIXEL_BYTES
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise ValueError(
            f"DATALOADER.NUM_WORKERS is {workers}, whose batches take up to {mebibytes(needed)}, but "
            f"{SHARED_MEMORY} has {mebibytes(free)} free; {REMEDY}"
        )


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
