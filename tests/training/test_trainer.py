"""The trainer: one step against the same step by hand, resumption, evaluation, and its refusals."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from escnet.data.errors import DatasetError
from escnet.evaluation.loop import evaluate_datasets
from escnet.pretrained.files import WeightsError
from escnet.training.reproducibility import deterministic_if_cpu, seed_step
from escnet.training.tasks.configured import training_settings
from escnet.training.tasks.segmentation import segmentation_trainer
from escnet.training.trainer import Trainer, clip_gradients


def trainer_of(cfg: CfgNode, resume: bool = False) -> Trainer:
    trainer = segmentation_trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def final(folder: str | Path) -> dict[str, Any]:
    return torch.load(Path(folder) / "model_final.pth", weights_only=True)


def assert_same(a: Any, b: Any) -> None:
    """Equal bit for bit, tensors included."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("limit", [0.01, 1000.0])
def test_gradients_are_clipped_by_their_common_norm(cfg: CfgNode, limit: float) -> None:
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = limit
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    norm = torch.sqrt(sum((gradient**2).sum() for gradient in before))
    assert torch.allclose(clip_gradients(model.parameters(), training_settings(cfg)), norm)
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert torch.allclose(parameter.grad, gradient * min(1.0, limit / (norm + 1e-6)))
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    clipped = [parameter.grad.clone() for parameter in model.parameters()]
    clip_gradients(model.parameters(), training_settings(cfg))
    assert_same([parameter.grad for parameter in model.parameters()], clipped)


def test_one_step_equals_the_step_by_hand(cfg: CfgNode) -> None:
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WEIGHT_DECAY = 1, 0.1
    trainer = trainer_of(cfg)
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg).train()
    batch = next(trainer.task.batches(0))
    trainer.train()

    seed_step(cfg.SEED, 0)
    model(batch)["loss"].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = cfg.SOLVER.BASE_LR * (0.01 if name.startswith("clip_image") or "sam_block" in name else 1.0)
            is_matrix = parameter.ndim > 1 and "position_bias" not in name
            # AdamW from zero moments: decay, then the gradient over its own size.
            expected = parameter.detach() * (1 - rate * (0.1 if is_matrix else 0.0))
            expected -= rate * parameter.grad / (parameter.grad.abs() + 1e-8)
            assert torch.allclose(trainer.model.get_parameter(name), expected, atol=1e-7), name
        else:
            assert torch.equal(trainer.model.get_parameter(name), parameter)


@pytest.mark.parametrize("stopped_at", [1, 5, 6])
def test_a_stopped_run_ends_as_an_undisturbed_one(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    cfg.TEST.EVAL_PERIOD = 3
    trainer_of(cfg).train()
    undisturbed, cfg.OUTPUT_DIR = cfg.OUTPUT_DIR, str(tmp_path / "stopped")

    with monkeypatch.context() as patch:
        step = Trainer.run_step
        patch.setattr(Trainer, "run_step", lambda self: 1 / 0 if self.iter == stopped_at else step(self))
        with pytest.raises(ZeroDivisionError):
            trainer_of(cfg).train()
    assert not (tmp_path / "stopped/model_final.pth").exists()
    torch.manual_seed(99)
    np.random.seed(99)
    resumed = trainer_of(cfg, resume=True)
    assert resumed.start_iter == stopped_at // 2 * 2
    resumed.train()
    assert_same(final(cfg.OUTPUT_DIR), final(undisturbed))
    assert sorted(path.name for path in Path(cfg.OUTPUT_DIR).glob("model_*")) == [
        "model_0000003.pth",
        "model_0000005.pth",
        "model_0000007.pth",
        "model_final.pth",
    ]


def test_a_run_stopped_before_its_final_checkpoint(cfg: CfgNode) -> None:
    trainer_of(cfg).train()
    undisturbed, folder = final(cfg.OUTPUT_DIR), Path(cfg.OUTPUT_DIR)
    metrics = (folder / "metrics.json").read_text()
    (folder / "model_final.pth").write_bytes(b"of an earlier run")
    (folder / "last_checkpoint").write_text("model_0000007.pth")
    results = trainer_of(cfg, resume=True).train()
    assert_same(final(folder), undisturbed)
    assert results["camvid_val"]["sem_seg"]["mIoU"] >= 0
    lines = [json.loads(line) for line in metrics.splitlines()]
    assert [line["iteration"] for line in lines] == [7, 8]
    assert [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()] == lines


def test_metrics_and_results_are_written(cfg: CfgNode) -> None:
    cfg.TEST.EVAL_PERIOD = 4
    trainer = trainer_of(cfg)
    results = trainer.train()
    lines = [json.loads(line) for line in (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()]
    losses = next(line for line in lines if line["iteration"] == 7)
    assert {"total_loss", "grad_norm", "lr", "time", "data_time", "eta_seconds"} <= losses.keys()
    scores = [line for line in lines if "camvid_val/sem_seg/mIoU" in line]
    assert [line["iteration"] for line in scores] == [3, 8]
    assert scores[-1]["camvid_val/sem_seg/mIoU"] == pytest.approx(results["camvid_val"]["sem_seg"]["mIoU"])
    report = json.loads((Path(cfg.OUTPUT_DIR) / "inference/camvid_val/semantic_metrics.json").read_text())
    assert 100 * report["miou"] == pytest.approx(results["camvid_val"]["sem_seg"]["mIoU"])
    assert list(Path(cfg.OUTPUT_DIR).glob("events.out.tfevents.*"))
    assert trainer.model.training
    assert evaluate_datasets(cfg, trainer.model) == results


def test_the_schedule_starts_at_the_base_rate_and_ends_near_zero(cfg: CfgNode) -> None:
    trainer, rates = trainer_of(cfg), []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(max(group["lr"] for group in optimizer.param_groups))
    )
    trainer.train()
    expected = cfg.SOLVER.BASE_LR * 0.5 * (1 + np.cos(np.pi * np.arange(8) / 8))
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_on_the_cpu(cfg: CfgNode, precision: str) -> None:
    cfg.MODEL.PRECISION = precision
    trainer = trainer_of(cfg)
    before = trainer.model.head.weight.clone()
    trainer.train()
    assert trainer.model.head.weight.dtype == torch.float32
    assert trainer.model.head.weight.isfinite().all()
    assert not torch.equal(trainer.model.head.weight, before)
    scale = final(cfg.OUTPUT_DIR)["trainer"]["grad_scaler"]
    assert bool(scale) == (precision == "fp16")
    assert_same(trainer_of(cfg, resume=True).grad_scaler.state_dict(), scale)


def test_nan_loss_names_iteration_and_pictures(cfg: CfgNode, pictures: Path) -> None:
    trainer = trainer_of(cfg)
    trainer.model.head.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=rf"loss became nan at iteration 0.*{re.escape(str(pictures))}"):
        trainer.train()


def test_infinite_gradient_does_not_reach_the_weights(cfg: CfgNode) -> None:
    trainer = trainer_of(cfg)
    trainer.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match="gradient became"):
        trainer.train()
    assert trainer.model.head.weight.isfinite().all()


def test_a_new_run_in_an_old_folder_is_not_mixed_with_it(cfg: CfgNode) -> None:
    trainer_of(cfg).train()
    folder = Path(cfg.OUTPUT_DIR)
    (folder / ".model_0000009.pth.0a.tmp").touch()
    trainer = trainer_of(cfg)
    assert trainer.start_iter == 0
    assert not (folder / "last_checkpoint").exists()
    assert not list(folder.glob(".*"))
    assert (folder / "model_0000003.pth").exists()
    assert trainer_of(cfg, resume=True).start_iter == 0


def test_weights_begin_a_training_but_do_not_resume_one(cfg: CfgNode, tmp_path: Path) -> None:
    trainer_of(cfg).train()
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), str(tmp_path / "second")
    trainer = trainer_of(cfg, resume=True)
    assert trainer.start_iter == 0
    assert_same(dict(trainer.model.state_dict()), dict(final(tmp_path / "run")["model"]))
    assert not trainer.optimizer.state


def test_resuming_with_other_parameters_is_refused(cfg: CfgNode) -> None:
    trainer_of(cfg).train()
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.5
    with pytest.raises(WeightsError, match=r"model_final\.pth.*groups them in another way"):
        trainer_of(cfg, resume=True)


def test_a_missing_dataset_is_found_before_the_training(cfg: CfgNode) -> None:
    cfg.DATASETS.TEST = ("ade20k_150_val",)
    with pytest.raises(DatasetError, match=r"ade20k_150_val.*DATASETS\.TEST \"\(\)\""):
        segmentation_trainer(cfg)
    cfg.DATASETS.TEST = ()
    assert trainer_of(cfg).train() == {}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.AMP.ENABLED", True, "MODEL.PRECISION"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "full_model"),
        ("SEED", -1, "SEED is -1"),
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
        ("MODEL.META_ARCHITECTURE", "Nothing", "'Nothing' is not registered"),
    ],
)
def test_what_cannot_be_trained_is_refused(cfg: CfgNode, key: str, value: Any, message: str) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=re.escape(message)):
        segmentation_trainer(cfg)


def test_random_numbers_of_a_step_depend_on_seed_and_iteration_alone() -> None:
    def draw(seed: int, iteration: int) -> tuple[float, float, float]:
        seed_step(seed, iteration)
        return torch.rand(()).item(), np.random.rand(), random.random()

    first = draw(0, 5)
    assert len({first, draw(0, 6), draw(1, 5), draw(5, 0)}) == 4
    assert draw(0, 5) == first


def test_gradients_of_indexing_are_added_in_a_fixed_order() -> None:
    table = torch.zeros(529, requires_grad=True)
    index = torch.randint(0, 529, (400_000,), generator=torch.Generator().manual_seed(0))
    values = torch.randn(400_000, generator=torch.Generator().manual_seed(1))

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(table[index], table, values)[0]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with deterministic_if_cpu(torch.device("cpu")):
            first = gradient()
            assert all(torch.equal(gradient(), first) for _ in range(10))
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
