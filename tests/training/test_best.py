"""The weights of the best validation: kept, taken at the end, and the same whenever the run was stopped."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from escnet.data.errors import DatasetError
from escnet.data.labelled import labelled_split
from escnet.evaluation.loop import evaluate_datasets
from escnet.pretrained.files import WeightsError
from escnet.safe_files import DiskFullError
from escnet.training.best_weights import BestWeights
from escnet.training.checkpoint import SafeCheckpointer
from escnet.training.tasks.build import build_trainer
from escnet.training.tasks.configured import training_settings
from escnet.training.tasks.segmentation import SegmentationTask, segmentation_trainer
from escnet.training.trainer import Trainer
from tests.warm_process import WarmProcesses

Scores = dict[int, float | None]
# After iterations counted from 0; the two best are equal, and the last ones are not the best.
SCORES: Scores = {1: 10.0, 3: 40.0, 5: 40.0, 7: 30.0}


class Scripted(SegmentationTask):
    """A segmentation whose validations are written down beforehand."""

    def __init__(self, cfg: CfgNode, scores: Scores) -> None:
        super().__init__(cfg, labelled_split(cfg))
        self.scores = scores

    def seed(self, iteration: int) -> None:
        super().seed(iteration)
        self.iteration = iteration

    def validate(self) -> float | None:
        return self.scores[self.iteration]


@pytest.fixture
def cfg(cfg: CfgNode) -> CfgNode:
    """Two of the four training pictures are held out and looked at every 2 of 8 iterations; checkpoints every 3."""
    cfg.LABELLED.VALIDATION, cfg.LABELLED.PERIOD = 0.5, 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    return cfg


def scripted(cfg: CfgNode, scores: Scores = SCORES, resume: bool = False) -> Trainer:
    trainer = Trainer(Scripted(cfg, scores), training_settings(cfg))
    trainer.resume_or_load(resume=resume)
    return trainer


def trainer_of(cfg: CfgNode, resume: bool = False) -> Trainer:
    trainer = segmentation_trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def load(cfg: CfgNode, name: str) -> dict[str, Any]:
    return torch.load(Path(cfg.OUTPUT_DIR) / f"{name}.pth", weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, tensors included."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def validations(cfg: CfgNode) -> Scores:
    lines = [json.loads(line) for line in (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["validation"] for line in lines if "validation" in line}


def test_the_best_weights_are_the_final_ones(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    trainer = scripted(cfg)
    with caplog.at_level(logging.INFO, logger="escnet"):
        results = trainer.train()
    chosen, final, best = load(cfg, "model_0000003"), load(cfg, "model_final"), load(cfg, "model_best")
    last = load(cfg, "model_0000007")
    assert same(final["model"], chosen["model"]) and not same(final["model"], last["model"])
    assert best.keys() == {"model", "iteration", "validation"} and same(best["model"], chosen["model"])
    assert (best["iteration"], best["validation"]) == (3, 40.0)
    assert (final["iteration"], final["trainer"]["best"]["iteration"]) == (7, 3)
    assert same(dict(trainer.model.state_dict()), dict(chosen["model"]))
    assert results == evaluate_datasets(cfg, trainer.model)
    assert validations(cfg) == SCORES
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_final.pth"
    assert [line for line in caplog.messages if line.startswith("The final weights are those after iteration 3,")]
    # Frozen weights are the same in all, and in each checkpoint already.
    assert "frozen.weight" in best["model"] and "frozen.weight" not in last["trainer"]["best"]["weights"]


def test_validation_is_on_what_is_held_out(cfg: CfgNode) -> None:
    trainer = trainer_of(cfg)
    split = labelled_split(cfg)
    assert len(split.validation) == 2 and trainer.task.records == split.training and len(split.training) == 2
    trainer.train()
    found = validations(cfg)
    assert list(found) == [1, 3, 5, 7] and all(0 <= score <= 100 for score in found.values())
    # The model has the best weights now.
    assert trainer.task.validate() == max(found.values()) == load(cfg, "model_best")["validation"]


def test_the_last_iteration_is_validated_whatever_the_period(cfg: CfgNode) -> None:
    cfg.LABELLED.PERIOD = 5
    scripted(cfg, {4: 1.0, 7: 2.0}).train()
    assert validations(cfg) == {4: 1.0, 7: 2.0}
    assert load(cfg, "model_best")["iteration"] == 7


@pytest.mark.parametrize("stopped_at", range(1, 8))
def test_a_run_stopped_at_any_iteration_chooses_the_same(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    trainer_of(cfg).train()
    undisturbed = cfg.clone()
    cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        step = Trainer.run_step
        patch.setattr(Trainer, "run_step", lambda self: 1 / 0 if self.iter == stopped_at else step(self))
        with pytest.raises(ZeroDivisionError):
            trainer_of(cfg).train()
    trainer_of(cfg, resume=True).train()
    for name in ("model_final", "model_best"):
        assert same(load(cfg, name), load(undisturbed, name)), name
    assert validations(cfg).items() <= validations(undisturbed).items()


# What has just been done when the run is killed, and how often it had been done before.
KILLS = [
    *((BestWeights, "offer", times) for times in range(4)),
    *((SafeCheckpointer, "save_weights", times) for times in range(2)),
    *((SafeCheckpointer, "save", times) for times in range(3)),
    (BestWeights, "choose", 0),
    (Trainer, "_evaluate", 0),
]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("owner", "method", "times"), KILLS)
def test_a_run_killed_while_it_writes_chooses_the_same(
    cfg: CfgNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    times: int,
    before: bool,
) -> None:
    scripted(cfg).train()
    undisturbed = cfg.clone()
    cfg.OUTPUT_DIR = str(tmp_path / "killed")
    calls: list[int] = []

    def killed(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if before and len(calls) == times + 1:
                raise KeyboardInterrupt
            outcome = original(self, *args, **kwargs)
            if len(calls) == times + 1:
                raise KeyboardInterrupt
            return outcome

        return call

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, killed(getattr(owner, method)))
        with pytest.raises(KeyboardInterrupt):
            scripted(cfg).train()
    resumed = scripted(cfg, resume=True)
    resumed.train()
    assert resumed.best.iteration == 3
    for name in ("model_final", "model_best"):
        assert same(load(cfg, name), load(undisturbed, name)), name


def test_weights_from_beyond_the_checkpoint_are_not_taken(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA an iteration that is repeated is not the same bit for bit: what was the best may not be so again."""
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", lambda self, step=Trainer.run_step: 1 / 0 if self.iter == 4 else step(self))
        with pytest.raises(ZeroDivisionError):
            scripted(cfg).train()
    assert load(cfg, "model_best")["iteration"] == 3
    resumed = scripted(cfg, {3: 5.0, 5: 6.0, 7: 7.0}, resume=True)
    assert resumed.start_iter == 3
    assert load(cfg, "model_best")["iteration"] == 1
    resumed.train()
    final, best = load(cfg, "model_final"), load(cfg, "model_best")
    assert (final["trainer"]["best"]["iteration"], best["iteration"]) == (1, 1)
    assert same(final["model"], best["model"])


def test_a_complete_run_goes_on_from_its_last_weights(cfg: CfgNode) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    scripted(cfg).train()
    final = load(cfg, "model_final")
    again = scripted(cfg, resume=True)
    assert again.start_iter == 8
    assert same(dict(again.model.state_dict()), dict(load(cfg, "model_0000007")["model"]))
    again.train()
    assert same(dict(again.model.state_dict()), dict(final["model"])) and same(load(cfg, "model_final"), final)
    cfg.SOLVER.MAX_ITER = 10
    prolonged = scripted(cfg, {9: 50.0}, resume=True)
    prolonged.train()
    final, last = load(cfg, "model_final"), load(cfg, "model_0000009")
    assert final["trainer"]["best"]["iteration"] == 9 and same(final["model"], last["model"])


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_what_is_no_score_chooses_nothing(cfg: CfgNode, score: float | None) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    scripted(cfg, dict.fromkeys(SCORES, score)).train()
    assert same(load(cfg, "model_final")["model"], load(cfg, "model_0000007")["model"])
    assert not (Path(cfg.OUTPUT_DIR) / "model_best.pth").exists() and validations(cfg) == {}


def test_checkpoints_of_earlier_versions_have_no_best_weights(cfg: CfgNode) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    scripted(cfg).train()
    path = Path(cfg.OUTPUT_DIR) / "model_0000003.pth"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["trainer"]["best"]
    torch.save(checkpoint, path)
    (path.parent / "last_checkpoint").write_text(path.name)
    resumed = scripted(cfg, resume=True)
    assert resumed.best.value is None and not (path.parent / "model_best.pth").exists()
    resumed.train()
    assert load(cfg, "model_best")["iteration"] == 5


def test_nothing_changes_without_validation(cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.LABELLED.VALIDATION = 0.0
    monkeypatch.setattr(SegmentationTask, "validate", lambda self: pytest.fail("nothing is held out"))
    trainer_of(cfg).train()
    assert sorted(path.name for path in Path(cfg.OUTPUT_DIR).glob("*") if "events" not in path.name) == [
        "inference",
        "last_checkpoint",
        "metrics.json",
        "model_0000002.pth",
        "model_0000005.pth",
        "model_final.pth",
    ]
    assert validations(cfg) == {}
    assert load(cfg, "model_final")["trainer"].keys() == {"iteration", "hooks", "optimizer", "grad_scaler", "task"}


def test_a_run_goes_on_with_its_own_images(cfg: CfgNode) -> None:
    trainer_of(cfg).train()
    file = Path(cfg.OUTPUT_DIR) / "labelled.json"
    before = file.read_text()
    other = cfg.clone()
    other.LABELLED.SEED = 1
    everything = cfg.clone()
    everything.LABELLED.VALIDATION = 0.0
    for changed in (other, everything):
        with pytest.raises(DatasetError, match=r"labelled\.json: the run in this folder has other labelled images"):
            trainer_of(changed, resume=True)
    assert file.read_text() == before
    file.unlink()
    with pytest.raises(DatasetError, match="begun on all images"):
        trainer_of(cfg, resume=True)
    # A new run may choose as it likes, and leaves nothing of the earlier one to be mistaken for its own.
    trainer_of(other)
    assert json.loads(file.read_text())["seed"] == 1 and not (file.parent / "model_best.pth").exists()
    trainer_of(everything)
    assert not file.exists()


def test_a_run_that_held_something_out_does_not_go_on_without(cfg: CfgNode) -> None:
    scripted(cfg).train()
    cfg.LABELLED.VALIDATION = 0.0
    trainer = Trainer(Scripted(cfg, SCORES), training_settings(cfg))
    trainer.task.check_resumed = lambda: None
    with pytest.raises(WeightsError, match="now nothing is held out"):
        trainer.resume_or_load()


def test_a_full_disk_leaves_the_last_checkpoint(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = scripted(cfg)
    save = torch.save

    def fail(content: dict[str, Any], file: Any) -> None:
        if content.get("validation") == 40.0:
            raise OSError(28, "No space left on device")
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(DiskFullError, match=r"model_best\.pth: not written.*model_0000002\.pth, stands"):
            trainer.train()
    assert load(cfg, "model_best")["iteration"] == 1
    scripted(cfg, resume=True).train()
    assert load(cfg, "model_final")["trainer"]["best"]["iteration"] == 3


def test_a_distillation_has_no_labelled_images(cfg: CfgNode) -> None:
    cfg.TASK = "distillation"
    with pytest.raises(ValueError, match=r"LABELLED\.IMAGES and LABELLED\.VALIDATION to 0"):
        build_trainer(cfg)


class FirstKnows(Scripted):
    """Of several processes, the first alone has the scores; the others would decide otherwise."""

    def validate(self) -> float | None:
        score = super().validate()
        return score if comm.is_main_process() else -score


def _process(rank: int, address: str, cfg: CfgNode, folder: str) -> None:
    import tests.training.conftest  # noqa: F401  registers the model: pytest, which does it else, is not here

    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    trainer = Trainer(FirstKnows(cfg, SCORES), training_settings(cfg))
    trainer.resume_or_load(resume=False)
    trainer.train()
    torch.save(trainer.model.state_dict(), Path(folder) / f"{rank}.pth")


def test_all_processes_end_with_the_chosen_weights(cfg: CfgNode, tmp_path: Path, warm: WarmProcesses) -> None:
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    program, config = tmp_path / "program.py", tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    program.write_text(
        "import sys\nfrom detectron2.config import get_cfg\nfrom escnet.config import add_escnet_config\n"
        "from tests.training.test_best import _process\ncfg = get_cfg()\nadd_escnet_config(cfg)\n"
        "cfg.merge_from_file(sys.argv[3])\n_process(int(sys.argv[1]), sys.argv[2], cfg, sys.argv[4])\n"
    )
    # No copies of this process: where there is a CUDA device, or a fake one was made, autograd has threads here that
    # a copy does not have.
    arguments = (f"file://{tmp_path}/address", str(config), str(tmp_path))
    logs = [tmp_path / f"{rank}.log" for rank in (0, 1)]
    both = [warm.start(log, program, str(rank), *arguments) for rank, log in enumerate(logs)]
    assert [process.wait() for process in both] == [0, 0], [log.read_text()[-3000:] for log in logs]
    chosen = dict(load(cfg, "model_0000003")["model"])
    assert all(same(dict(torch.load(tmp_path / f"{rank}.pth")), chosen) for rank in (0, 1))
    assert same(dict(load(cfg, "model_final")["model"]), chosen)


@pytest.mark.parametrize(("patience", "done"), [(0, 8), (1, 6), (2, 8)])
def test_a_training_ends_where_nothing_better_is_found(cfg: CfgNode, patience: int, done: int) -> None:
    cfg.LABELLED.PATIENCE = patience
    trainer = scripted(cfg)
    trainer.train()
    assert trainer.iter == trainer.max_iter == done
    final, best = load(cfg, "model_final"), load(cfg, "model_best")
    assert same(final["model"], best["model"]) and final["iteration"] == done - 1 and best["iteration"] == 3
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    validations = {line["iteration"]: line["validation"] for line in map(json.loads, lines) if "validation" in line}
    assert validations == {iteration: score for iteration, score in SCORES.items() if iteration < done}


def test_a_training_that_ended_early_goes_on_only_with_more_patience(cfg: CfgNode) -> None:
    cfg.LABELLED.PATIENCE = 1
    trainer = scripted(cfg)
    trainer.train()
    again = scripted(cfg, resume=True)
    again.train()
    assert again.start_iter == again.max_iter == 6
    assert same(again.model.state_dict(), trainer.model.state_dict())
    cfg.LABELLED.PATIENCE = 0
    longer = scripted(cfg, resume=True)
    longer.train()
    assert longer.iter == 8
    undisturbed = cfg.clone()
    undisturbed.OUTPUT_DIR = f"{cfg.OUTPUT_DIR}_undisturbed"
    calm = scripted(undisturbed)
    calm.train()
    assert same(longer.model.state_dict(), calm.model.state_dict())


@pytest.mark.parametrize(("at_start", "chosen"), [(50.0, -1), (20.0, 3)])
def test_the_weights_at_the_start_may_be_the_best(cfg: CfgNode, at_start: float, chosen: int) -> None:
    cfg.LABELLED.KEEP_START = True
    trainer = scripted(cfg, SCORES | {-1: at_start})
    trainer.task.iteration = -1  # no step has been seeded yet
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert trainer.best.iteration == chosen
    assert same(trainer.model.state_dict(), start) == (chosen < 0)
    # It goes on from a checkpoint as it was, and looks at the start no second time.
    again = scripted(cfg, SCORES, resume=True)
    again.train()
    assert same(again.model.state_dict(), trainer.model.state_dict()) and again.best.iteration == chosen
