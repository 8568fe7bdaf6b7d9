"""What looking at fewer classes costs: mIoU, and how many of the classes in a picture are still looked at."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from escnet.config import load_config
from escnet.data.images import read_image
from escnet.data.label_spaces import read_training_labels
from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.ignore_label import IGNORE_LABEL
from escnet.meta_arch.correlation_model import ClassChoice, CorrelationModel
from escnet.miniature.experiments import digest, mean_and_deviation
from escnet.predictor import Segmenter
from escnet.pretrained.files import file_sha256
from escnet.profiling import DeviceWatch
from escnet.progress import progress_bar
from escnet.safe_files import replacing

_CHOICE = re.compile(r"(?P<most>all|\d+)(>(?P<keep>\d+)|>((?P<least>\d+)-)?(?P<up_to>\d+)@(?P<share>0?\.\d+))?")


def parse_choice(text: str) -> ClassChoice:
    """The choice that "64>8-32@0.05" spells: 64 classes by CLIP's map, of these 8 to 32 that have 0.05 of some region.

    Raises:
        ValueError: it spells none.
    """
    found = _CHOICE.fullmatch(text)
    if not found:
        raise ValueError(
            f'"{text}" is no choice of classes; "all", "64", "64>8", "64>32@0.05" and "64>8-32@0.05" are: the first by '
            "CLIP's map, the second by the first pass, with at least this share of some region, or so many at least"
        )
    most, keep = found["most"], found["keep"] or found["up_to"] or 0
    return ClassChoice(
        0 if most == "all" else int(most), int(keep), float(found["share"] or 0), int(found["least"] or 1)
    )


@dataclass
class ChoiceScore:
    """One choice on one dataset, with one set of weights.

    Attributes:
        miou: as a fraction.
        recall: share of the scored classes in the pictures that are looked at in the end; once for each picture.
        first_recall: likewise, in the first pass; of those alone that have one.
        kept: mean number of classes looked at in the end.
        seconds: of a picture that is encoded already.
    """

    miou: float
    recall: float
    first_recall: float
    kept: float
    seconds: float


@dataclass
class _Tally:
    """What is counted while pictures pass."""

    confusion: ConfusionMatrix
    is_kept: list[bool] = field(default_factory=list)
    is_first: list[bool] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@torch.no_grad()
def measure_choices(cfg: CfgNode, dataset: str, choices: Sequence[ClassChoice]) -> list[ChoiceScore]:
    """Segment each picture by each choice of classes; its features are computed once.

    Args:
        cfg: of a model that can choose, with its weights.
        dataset: a name, with or without a slice.
        choices: which classes are looked at.

    Raises:
        ValueError: another model.
    """
    segmenter, data = Segmenter.from_config(cfg), EvaluationData.load(dataset, cfg)
    model, words = segmenter.model, data.space.vocabulary
    if not isinstance(model, CorrelationModel):
        raise ValueError(f"{type(model).__name__} looks at all classes, whatever they are; take ESCNet")
    first, end = data.scored or (0, len(data.class_names))
    watch = DeviceWatch(model.device)
    tallies = [_Tally(ConfusionMatrix(len(data.class_names), IGNORE_LABEL)) for _ in choices]
    for record in progress_bar(data.records, total=len(data.records), desc=dataset, unit="image"):
        truth = read_training_labels(record["sem_seg_file_name"], data.space)
        present = [row for row in np.unique(truth).tolist() if first <= row < end]
        features = model.encode(torch.from_numpy(read_image(record["file_name"])).permute(2, 0, 1))
        for choice, tally in zip(choices, tallies, strict=True):
            model.choice = choice
            watch.wait()
            start = time.perf_counter()
            result = model.segment(features, words)
            labels = result.at_image_size(words, truth.shape)["labels"]
            watch.wait()
            tally.seconds.append(time.perf_counter() - start)
            tally.confusion.update(labels, truth)
            rows = set(range(len(words.rows))) if result.rows is None else set(result.rows[0].tolist())
            first_rows = rows if result.first_rows is None else set(result.first_rows[0].tolist())
            tally.is_kept += [row in rows for row in present]
            tally.is_first += [row in first_rows for row in present]
            tally.kept.append(len(rows))
    return [
        ChoiceScore(
            semantic_metrics(tally.confusion, data.class_names, data.scored).miou,
            *(statistics.mean(values) for values in (tally.is_kept, tally.is_first, tally.kept, tally.seconds)),
        )
        for tally in tallies
    ]


def measured(
    config_file: str, options: Sequence[str], weights: str, dataset: str, choices: Sequence[str], output: Path
) -> dict[str, ChoiceScore]:
    """`measure_choices`, or what an earlier call has found, by the spelling of the choice.

    Args:
        config_file, options: the configuration.
        weights: a file, or "shipped:".
        dataset: a name.
        choices: as `parse_choice` takes them.
        output: folder of all results.
    """
    cfg = load_config(config_file, [*options, "MODEL.WEIGHTS", weights])
    path = Path(cfg.MODEL.WEIGHTS)
    cfg.MODEL.WEIGHTS = file_sha256(path)
    key = digest(cfg.dump(), dataset)
    cfg.MODEL.WEIGHTS = str(path)
    file = output / f"{key}.json"
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    missing = [choice for choice in choices if choice not in known]
    if missing:
        scores = measure_choices(cfg, dataset, [parse_choice(choice) for choice in missing])
        known |= {choice: asdict(score) for choice, score in zip(missing, scores, strict=True)}
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return {choice: ChoiceScore(**known[choice]) for choice in choices}


def choice_table(results: dict[str, list[dict[str, ChoiceScore]]], choices: Sequence[str]) -> str:
    """In Markdown, mIoU, recall and number of classes by dataset: mean ± deviation over the sets of weights."""
    headers = ["classes looked at"]
    for dataset in results:
        name = dataset.removeprefix("mojiscenes_val_")
        headers += [f"{name}: mIoU", "recall first, end", "kept", "ms"]
    lines = []
    for choice in choices:
        line = [choice]
        for runs in results.values():
            scores = [run[choice] for run in runs]
            first, end = (statistics.mean(getattr(s, name) for s in scores) for name in ("first_recall", "recall"))
            line += [
                mean_and_deviation([100 * score.miou for score in scores]),
                f"{first:.3f}, {end:.3f}" if ">" in choice else f"{end:.3f}",
                f"{statistics.mean(score.kept for score in scores):.1f}",
                f"{1000 * statistics.mean(score.seconds for score in scores):.0f}",
            ]
        lines.append(line)
    return tabulate(lines, headers=headers, tablefmt="pipe", disable_numparse=True)
