"""What a training needs of the processes and of the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.config import CfgNode

from escnet.training import config_checks
from escnet.training.config_checks import check_batch, check_shared_memory, small_memory_warning
from escnet.training.failures import explain_failure


@pytest.mark.parametrize(("images", "processes", "reference"), [(8, 4, 0), (8, 8, 0), (8, 3, 4), (3, 1, 0)])
def test_a_batch_that_can_be_shared(cfg: CfgNode, images: int, processes: int, reference: int) -> None:
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE = images, reference
    check_batch(cfg, processes)


@pytest.mark.parametrize(("images", "processes", "reference"), [(8, 3, 0), (2, 4, 0), (8, 2, 3)])
def test_a_batch_that_cannot(cfg: CfgNode, images: int, processes: int, reference: int) -> None:
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE = images, reference
    with pytest.raises(ValueError, match=rf"SOLVER\.IMS_PER_BATCH, {images}, .*{reference or processes}; change it"):
        check_batch(cfg, processes)


def test_each_teachers_batch_is_shared(cfg: CfgNode) -> None:
    cfg.TASK, cfg.SOLVER.IMS_PER_BATCH = "distillation", 3
    cfg.DISTILL.CLIP.SHARDS = cfg.DISTILL.SAM.SHARDS = ("somewhere",)
    cfg.DISTILL.CLIP.BATCH_SIZE, cfg.DISTILL.SAM.BATCH_SIZE = 2048, 32
    check_batch(cfg, 32)
    with pytest.raises(ValueError, match=r"DISTILL\.SAM\.BATCH_SIZE, 32, .*64; change it"):
        check_batch(cfg, 64)
    cfg.DISTILL.SAM.SHARDS = ()
    check_batch(cfg, 64)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    with pytest.raises(ValueError, match=r"SOLVER\.REFERENCE_WORLD_SIZE is 8.*set it to 0"):
        check_batch(cfg, 8)


def test_the_batches_of_teachers_take_shared_memory(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg.TASK, cfg.DATALOADER.NUM_WORKERS = "distillation", 2
    cfg.DISTILL.CLIP.SHARDS = cfg.DISTILL.SAM.SHARDS = ("somewhere",)
    cfg.DISTILL.CLIP.BATCH_SIZE, cfg.DISTILL.CLIP.SIZES = 64, (224, 448)
    cfg.DISTILL.SAM.BATCH_SIZE, cfg.DISTILL.SAM.MASKS, cfg.MODEL.SAM.NAME = 4, 32, "vit_b"
    # One of two processes is here: 2 workers hold 2 batches of half the images, and of masks of 256 by 256 bytes.
    needed = 2 * 2 * (32 * 224 * 224 * 3 + 2 * (1024 * 1024 * 3 + 32 * 256 * 256))
    memory = SimpleNamespace(free=needed)
    monkeypatch.setattr(config_checks, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(config_checks.shutil, "disk_usage", lambda path: memory)
    check_shared_memory(cfg, processes=2, local_processes=1)
    memory.free = needed - 1
    with pytest.raises(ValueError, match=r"set DATALOADER\.NUM_WORKERS 0"):
        check_shared_memory(cfg, processes=2, local_processes=1)


def test_small_shared_memory_is_refused_unless_no_process_reads(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # 2 processes here, each with 3 workers that hold 2 batches of 8 / 4 samples.
    needed = 2 * 3 * 2 * 2 * 100 * 200 * 11
    memory = SimpleNamespace(free=needed)
    monkeypatch.setattr(config_checks, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(config_checks.shutil, "disk_usage", lambda path: memory)
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.CROP.SIZE = 8, 3, (100, 200)
    check_shared_memory(cfg, processes=4, local_processes=2)
    memory.free = needed - 1
    with pytest.raises(ValueError, match=r"set DATALOADER\.NUM_WORKERS 0"):
        check_shared_memory(cfg, processes=4, local_processes=2)
    cfg.DATALOADER.NUM_WORKERS = 0
    check_shared_memory(cfg, processes=4, local_processes=2)


def test_an_evaluation_that_may_stand_still_is_warned_of(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(free=64 << 20)
    monkeypatch.setattr(config_checks, "SHARED_MEMORY", Path.cwd())
    monkeypatch.setattr(config_checks.shutil, "disk_usage", lambda path: memory)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert "64 MiB free" in small_memory_warning(cfg) and "NUM_WORKERS 0" in small_memory_warning(cfg)
    memory.free = 1 << 30
    assert small_memory_warning(cfg) is None
    memory.free, cfg.DATALOADER.NUM_WORKERS = 0, 0
    assert small_memory_warning(cfg) is None


def test_only_what_is_no_fault_of_the_program_is_explained() -> None:
    shared = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
    assert "DATALOADER.NUM_WORKERS 0" in explain_failure(RuntimeError(shared))
    assert explain_failure(OSError(28, "No space left\non device")) == "[Errno 28] No space left on device"
    assert explain_failure(RuntimeError("shapes differ")) is None
    assert explain_failure(ValueError("unexpected")) is None
