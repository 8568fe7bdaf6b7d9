"""Fine-tuning: the data are looked through, the model is judged, trained until it gets no better, and judged again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from detectron2.config import CfgNode

from escnet.data.errors import DatasetError
from escnet.data.inspection import inspect_dataset
from escnet.data.labelled import LabelledSplit, labelled_split
from escnet.data.registration import dataset_records
from escnet.evaluation.protocols import ORDINARY, Column
from escnet.evaluation.report.html_report import write_report
from escnet.evaluation.report.result_table import measured_row, write_table
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.runs.run_folder import Run, read_json
from escnet.evaluation.zero_shot import evaluate_model
from escnet.safe_files import replacing
from escnet.training.tasks.build import build_trainer

TRAINING, EVALUATION, SETTINGS, WEIGHTS = "training", "evaluation", "tuning.json", "model_final.pth"
BEFORE, AFTER = "before", "after"
_SHOWN_FAULTS = 5


class TuningError(ValueError):
    """What was asked for cannot be done; the message says what to change."""


@dataclass(frozen=True)
class TuningTask:
    """What is to be done.

    Attributes:
        data: the labelled images, `folder:PATH` or any dataset's name.
        output: folder of everything.
        test: labelled images that judge the model before and after; "" for those that are held out of `data`, on which
            it then looks better than it is, since they have chosen its weights.
        images: how many of the labelled images; below 1 a share, 0 for all.
        validation: share of them that is held out.
        iterations: the most.
        period: iterations between two looks at what is held out.
        patience: so many looks in a row without gain end the training; 0 for none.
        learning_rate: of what is new in the model; 0 for that of the configuration.
    """

    data: str
    output: Path
    test: str = ""
    images: float = 0
    validation: float = 0.2
    iterations: int = 1000
    period: int = 50
    patience: int = 6
    learning_rate: float = 0.0


@dataclass(frozen=True)
class Tuning:
    """What came of it.

    Attributes:
        task: what was to be done.
        cfg: of the tuned model, its weights in MODEL.WEIGHTS.
        untuned: configuration before.
        split: the images that were trained on, and those held out.
        judged: on what it was judged.
        runs: the two evaluations.
        iterations: that were run.
        seconds: that the training took in this call.
    """

    task: TuningTask
    cfg: CfgNode
    untuned: CfgNode
    split: LabelledSplit
    judged: EvaluationData
    runs: tuple[Run, Run]
    iterations: int
    seconds: float

    def miou(self) -> tuple[float, float]:
        """mIoU before and after, in percent."""
        before, after = (read_json(run.folder / "metrics.json")["miou"] for run in self.runs)
        return 100 * before, 100 * after


def tune(cfg: CfgNode, task: TuningTask, say: Callable[[str], None]) -> Tuning:
    """Fine-tune the model of a configuration; a call that was stopped goes on where it was.

    Args:
        cfg: the model, its first weights in MODEL.WEIGHTS, and how it is trained.
        task: on what, how long, and where to.
        say: is told what is done next.

    Raises:
        TuningError: the folder holds a tuning with other settings.
        DatasetError, ImageError: the labelled images cannot be used; told before a model is built.
        WeightsError: weights that are missing or do not fit.
    """
    for name in filter(None, (task.data, task.test)):
        say(f"looking through {name}")
        require_usable(name)
    trained = training_config(cfg, task)
    split = labelled_split(trained)
    _remember(trained, task)
    judged = _judged(cfg, task, split)
    say(f"judging the model as it is on {len(judged.records)} images")
    (before,) = evaluate_model(BEFORE, cfg, [judged], task.output / EVALUATION)
    say(f"training on {len(split.training)} images, {len(split.validation)} held out")
    start = time.perf_counter()
    trainer = build_trainer(trained)
    trainer.resume_or_load(resume=True)
    trainer.train()
    seconds = time.perf_counter() - start
    tuned = cfg.clone()
    tuned.defrost()
    tuned.MODEL.WEIGHTS = str(Path(trained.OUTPUT_DIR) / WEIGHTS)
    say("judging the tuned model")
    (after,) = evaluate_model(AFTER, tuned, [judged], task.output / EVALUATION, restart=True)
    rows = [measured_row(BEFORE, [before]), measured_row(AFTER, [after])]
    write_table(task.output / EVALUATION, [Column(judged.dataset, ORDINARY)], rows)
    write_report(task.output / EVALUATION)
    return Tuning(task, tuned, cfg, split, judged, (before, after), trainer.max_iter, seconds)


def require_usable(name: str) -> None:
    """Refuse a dataset that training or evaluation would refuse at one of its images.

    Raises:
        DatasetError: it has faults, of which the message names the first.
    """
    found = inspect_dataset(name, workers=os.cpu_count() or 1)
    if found.faults:
        more = len(found.faults) - _SHOWN_FAULTS
        listed = "; ".join(found.faults[:_SHOWN_FAULTS]) + (f"; and {more} more" if more > 0 else "")
        raise DatasetError(f"{name} cannot be used: {listed}")


def training_config(cfg: CfgNode, task: TuningTask) -> CfgNode:
    """The configuration of the training: the model's own, with what the task says."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (task.data,), ()
    cfg.LABELLED.IMAGES, cfg.LABELLED.VALIDATION = float(task.images), task.validation
    cfg.LABELLED.PERIOD, cfg.LABELLED.PATIENCE = task.period, task.patience
    # A tuning that finds nothing better leaves the model as it was.
    cfg.LABELLED.KEEP_START = True
    cfg.SOLVER.MAX_ITER = task.iterations
    cfg.SOLVER.CHECKPOINT_PERIOD = task.period
    cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, task.iterations // 10)
    if task.learning_rate:
        cfg.SOLVER.BASE_LR = task.learning_rate
    cfg.OUTPUT_DIR = str(task.output / TRAINING)
    return cfg


def _judged(cfg: CfgNode, task: TuningTask, split: LabelledSplit) -> EvaluationData:
    """The images that judge: those of a test set, or those held out.

    Raises:
        DatasetError: nothing is held out, and there is no test set.
    """
    if task.test:
        return EvaluationData.load(task.test, cfg)
    if not split.validation:
        raise DatasetError("nothing judges the model: give a test set, or hold out a share of the labelled images")
    chosen = {record["image_id"] for record in split.validation}
    records = [record for record in dataset_records(task.data) if record["image_id"] in chosen]
    return replace(EvaluationData.load(task.data, cfg), records=records)


def _remember(cfg: CfgNode, task: TuningTask) -> None:
    """Write what is tuned and how to the folder, or see that it is the same as before.

    Raises:
        TuningError: it is not.
    """
    settings = {"config": cfg.dump()} | {key: str(value) for key, value in asdict(task).items() if key != "output"}
    path = task.output / SETTINGS
    if path.exists():
        found = read_json(path)
        differing = [key for key, value in settings.items() if found.get(key) != value]
        if differing:
            raise TuningError(
                f"{path}: is of a tuning with another {', '.join(differing)}; choose another --output, or delete it"
            )
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
