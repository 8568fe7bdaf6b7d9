"""What the trainer asks of a task: streams and backward passes of its own, a state, and what checkpoints hold of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import Tensor, nn, optim

from escnet.data.registration import ensure_registered
from escnet.pretrained.files import WeightsError
from escnet.training.processes import average_gradients, share_weights
from escnet.training.tasks import segmentation
from escnet.training.tasks.interface import SequentialTask
from escnet.training.tasks.segmentation import segmentation_trainer
from escnet.training.trainer import Trainer, TrainingSettings


class TwoStreams(SequentialTask):
    """Two streams of numbers, each with a backward pass of its own."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(3, 1), random_seed=4)

    def batches(self, start_iteration: int) -> Iterator[dict[str, Tensor]]:
        while True:
            yield {name: torch.randn(2, 3, generator=self.generator) for name in ("left", "right")}

    def backward(self, batch: dict[str, Tensor], scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        losses = {}
        for name, numbers in batch.items():
            loss = self.model(numbers).square().mean()
            scale(loss).backward()
            losses[name] = loss.detach()
        return losses

    def optimizer(self) -> optim.Optimizer:
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        return optim.SGD([{"params": parameters, "names": list(names)}], lr=0.1)

    def schedule(self, optimizer: optim.Optimizer) -> optim.lr_scheduler.LRScheduler:
        return optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def describe(self, batch: dict[str, Tensor]) -> list[str]:
        return sorted(batch)


class Stateless(TwoStreams):
    def state_dict(self) -> dict[str, Any]:
        return {}


def trainer_of(task: SequentialTask, folder: Path, **settings: Any) -> Trainer:
    trainer = Trainer(task, TrainingSettings(str(folder), iterations=1, checkpoint_period=1, **settings))
    trainer.resume_or_load()
    return trainer


def test_gradients_of_all_backward_passes_are_one_step(tmp_path: Path) -> None:
    trainer = trainer_of(TwoStreams(), tmp_path)
    by_hand = TwoStreams()
    batch = next(by_hand.batches(0))
    sum(by_hand.model(numbers).square().mean() for numbers in batch.values()).backward()
    trainer.train()
    for trained, parameter in zip(trainer.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.allclose(trained, parameter - 0.1 * parameter.grad)


def test_the_common_norm_of_all_passes_is_clipped(tmp_path: Path) -> None:
    before = torch.cat([parameter.detach().flatten() for parameter in TwoStreams().model.parameters()])
    trainer = trainer_of(TwoStreams(), tmp_path, gradient_limit=0.01)
    trainer.train()
    after = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_names_what_the_task_tells(tmp_path: Path) -> None:
    trainer = trainer_of(TwoStreams(), tmp_path)
    nn.init.constant_(trainer.model.bias, math.inf)
    with pytest.raises(FloatingPointError, match=r"loss became inf.*\['left', 'right'\]; lower the learning rate"):
        trainer.train()
    assert trainer.model.weight.isfinite().all()


@pytest.mark.parametrize(("saved", "resumed"), [(Stateless, TwoStreams)])
def test_a_checkpoint_without_the_state_of_its_task_is_refused(saved: type, resumed: type, tmp_path: Path) -> None:
    trainer_of(saved(), tmp_path).train()
    with pytest.raises(WeightsError, match=r"model_final\.pth: its 'trainer' does not fit.*batches"):
        trainer_of(resumed(), tmp_path)


def test_a_segmentation_does_not_go_on_from_another_kind_of_task(cfg: CfgNode) -> None:
    trainer = segmentation_trainer(cfg)
    with pytest.raises(ValueError, match="its task had a state"):
        trainer.task.load_state_dict({"batches": torch.zeros(2)})


def test_checkpoints_from_before_there_were_tasks_are_resumed(cfg: CfgNode) -> None:
    trainer = segmentation_trainer(cfg)
    trainer.resume_or_load()
    trainer.train()
    path = Path(cfg.OUTPUT_DIR) / "model_0000005.pth"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["trainer"].pop("task") == {}
    torch.save(checkpoint, path)
    (path.parent / "last_checkpoint").write_text(path.name)
    resumed = segmentation_trainer(cfg)
    resumed.resume_or_load()
    assert resumed.start_iter == 6
    resumed.train()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_training_list_is_read_once(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DATASETS.TEST = ()
    ensure_registered("camvid_train")
    read, get = [], DatasetCatalog.get
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: read.append(name) or get(name))
    trainer = segmentation_trainer(cfg)
    trainer.task.model.prepare_training = lambda cfg, images: read.append([image.shape for image in images(3)])
    trainer.resume_or_load()
    trainer.train()
    assert read == ["camvid_train", [(3, 12, 16)] * 3]


def test_images_to_prepare_a_training_are_spread_over_the_list(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, read = segmentation_trainer(cfg), []
    image = segmentation.read_image(trainer.task.records[0]["file_name"])
    monkeypatch.setattr(segmentation, "read_image", lambda file: read.append(file) or image)
    trainer.task.records = [{"file_name": number} for number in range(10)]
    assert [(len(list(trainer.task.images(count))), count) for count in (3, 10, 99)] == [(3, 3), (10, 10), (10, 99)]
    assert read[:3] == [0, 3, 6]


def _process(rank: int, address: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = nn.ParameterList(nn.Parameter(torch.randn(3)) for _ in range(3))
    share_weights(model)
    # The first parameter is used by both, the second one by the first process alone, the third one by none.
    model[0].grad = torch.full((3,), 1.0 + 4 * rank)
    if rank == 0:
        model[1].grad = torch.full((3,), 8.0)
    average_gradients(model.parameters())
    gradients = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    torch.save((gradients, model.state_dict()), Path(folder) / f"{rank}.pth")


def test_processes_share_weights_and_average_gradients(tmp_path: Path) -> None:
    arguments = (f"file://{tmp_path}/address", str(tmp_path))
    torch.multiprocessing.start_processes(_process, arguments, nprocs=2, start_method="fork")
    (first, weights), (second, same) = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert first == second == [[3.0] * 3, [4.0] * 3, None]
    assert all(torch.equal(weights[name], same[name]) for name in weights)
