"""Costs that are kept in files, so that a comparison that was stopped does not measure them again."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from escnet.data.benchmarks import dataset_folder_name
from escnet.data.images import read_image
from escnet.devices import device_name
from escnet.evaluation.runs.conditions import Conditions, flatten, versions
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.runs.run_folder import read_conditions, read_json, require_same_conditions, write_json
from escnet.evaluation.systems.costs import CostSample, SystemCosts, costs_of
from escnet.evaluation.systems.plan import CostPlan, System
from escnet.pretrained.files import file_sha256
from escnet.vocabulary import Vocabulary

_PROCESSORS = Path("/proc/cpuinfo")


def cost_sample(plan: CostPlan, cfg: CfgNode, from_data: bool) -> CostSample:
    """On what a system is measured.

    Args:
        plan: how costs are measured.
        cfg: the configuration of the system, of which TEST says how words are written.
        from_data: take pictures and words of the dataset of the plan; else a picture of noise and numbered words.

    Raises:
        DatasetError, ImageError: the dataset is not as expected.
    """
    if from_data:
        data = EvaluationData.load(plan.data, cfg)
        chosen = np.linspace(0, len(data.records) - 1, min(plan.pictures, len(data.records))).round().astype(int)
        pictures = [read_image(data.records[i]["file_name"]) for i in chosen]
        return CostSample(data.space.vocabulary, pictures, plan.repeats, plan.threads)
    noise = np.random.default_rng(0).integers(0, 256, (*plan.picture_size, 3), dtype=np.uint8)
    words = Vocabulary([f"thing number {i}" for i in range(1, plan.words + 1)], templates=cfg.TEST.TEMPLATES)
    return CostSample(words, [noise], plan.repeats, plan.threads)


def measured_or_kept(output: Path, system: System, cfg: CfgNode, sample: CostSample) -> SystemCosts:
    """The costs of a system: from their file in `output`, or measured and written there.

    Raises:
        ResultsError: the file has costs that were measured under other conditions, or is damaged.
        CostError, WeightsError: as said of `costs_of`.
    """
    path = output / f"{dataset_folder_name(system.name)}.json"
    conditions = cost_conditions(cfg, sample)
    if path.is_file():
        require_same_conditions(path, read_conditions(path), conditions)
        return _read(path)
    costs = costs_of(system.name, cfg, sample)
    write_json(path, {"conditions": conditions, "costs": asdict(costs)})
    return costs


def cost_conditions(cfg: CfgNode, sample: CostSample) -> Conditions:
    """All that costs depend on, but how busy the machine is."""
    words = sample.vocabulary
    pictures = hashlib.sha256(b"".join(np.ascontiguousarray(picture).tobytes() for picture in sample.pictures))
    return {
        "model": {key: _value(key, value) for key, value in flatten({"MODEL": cfg.MODEL}).items()},
        "words": hashlib.sha256(json.dumps([words.rows, words.templates]).encode()).hexdigest(),
        "pictures": pictures.hexdigest(),
        "repeats": sample.repeats,
        "threads": sample.threads,
        "processor": processor(cfg),
        "versions": versions(),
    }


def processor(cfg: CfgNode) -> str:
    """The name of the processor or GPU on which the model of a configuration runs."""
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return device_name(torch.device(cfg.MODEL.DEVICE))
    lines = _PROCESSORS.read_text().splitlines() if _PROCESSORS.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _value(key: str, value: Any) -> Any:
    """A weight file counts by what is in it, not by where it is."""
    is_file = key.split(".")[-1] == "WEIGHTS" and value and Path(value).is_file()
    return file_sha256(value) if is_file else value


def _read(path: Path) -> SystemCosts:
    try:
        return SystemCosts(**read_json(path)["costs"])
    except (KeyError, TypeError) as error:
        raise ResultsError(f"{path}: has no costs of a system ({error!r}); delete it and measure again") from None
