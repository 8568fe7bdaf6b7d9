"""What an evaluation's numbers depend on, so that they can be trusted, repeated and compared."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from escnet import __version__
from escnet.data.benchmarks import find_benchmark, split_dataset_name
from escnet.devices import device_name
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.pretrained.files import file_sha256
from escnet.pretrained.shipped import resolve_shipped
from escnet.vocabulary import Vocabulary

# Key of "data", there only if not all classes are scored.
SCORED = "scored classes (first id, end)"
_PACKAGES = ("torchvision", "open_clip_torch", "segment-anything", "numpy", "pillow")
Conditions = dict[str, Any]


def conditions(cfg: CfgNode, model: nn.Module, identity: Conditions, data: EvaluationData) -> Conditions:
    """All that a score depends on, as a nested dictionary that JSON can hold.

    Args:
        cfg: the configuration of the model.
        model: with its weights.
        identity: what `model_identity` says of it.
        data: the dataset, and the protocol.
    """
    vocabulary = data.space.vocabulary
    return {
        "model": identity,
        "vocabulary": _vocabulary(vocabulary, cfg.TEST.CLASS_NAMES, data.dataset),
        "data": _data(data),
        "device": device_name(next(model.parameters()).device),
        "versions": versions(),
    } | data.protocol.conditions()


def model_identity(cfg: CfgNode, model: nn.Module, weights: str = "") -> Conditions:
    """Which model it is, by the hashes of its weights and its settings; takes seconds for a large one.

    Args:
        cfg: the configuration of the model.
        model: with its weights.
        weights: the checkpoint file that was loaded, "" if none.
    """
    weights = resolve_shipped(weights)
    return {
        "architecture": type(model).__name__,
        "settings": model_settings(cfg, model),
        "checkpoint": Path(weights).name,
        "checkpoint sha256": file_sha256(weights) if weights else "",
        "all weights sha256": weights_sha256(model),
    }


def model_settings(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """The configuration that a prediction depends on, by key.

    A `SegmentingModel` says which that is, and another model may by its `prediction_keys`. Of the rest nothing is
    known, so that all of cfg.MODEL counts but where weights come from and the device, which are conditions of their
    own, and the sliding windows.
    """
    if isinstance(model, SegmentingModel):
        return model.prediction_settings(cfg)
    settings = flatten({"MODEL": cfg.MODEL, "TEST": {"SLIDING": cfg.TEST.SLIDING}})
    if hasattr(model, "prediction_keys"):
        return {key: settings[key] for key in model.prediction_keys}
    return {key: value for key, value in settings.items() if key.split(".")[-1] not in ("WEIGHTS", "DEVICE")}


def versions() -> dict[str, str]:
    """The versions of escnet, Python and the libraries that take part in a prediction."""
    # PyTorch's own word tells its build too.
    found = {"escnet": __version__, "Python": platform.python_version(), "torch": str(torch.__version__)}
    return found | {name: metadata.version(name) for name in _PACKAGES}


def weights_sha256(model: nn.Module) -> str:
    """The SHA-256 of all tensors of a model, names included; the same wherever they came from."""
    return tensors_sha256(model.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # reshape makes a scalar viewable as bytes.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, ours, theirs) of each value that differs; nested keys are joined by dots, a missing value is None."""
    flat_ours, flat_theirs = flatten(ours), flatten(theirs)
    keys = sorted(flat_ours.keys() | flat_theirs.keys())
    pairs = ((key, flat_ours.get(key), flat_theirs.get(key)) for key in keys)
    return [(key, one, other) for key, one, other in pairs if one != other]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _vocabulary(vocabulary: Vocabulary, class_names: str, dataset: str) -> dict[str, Any]:
    shared = sum(times for times in Counter(vocabulary.rows).values() if times > 1)
    return {
        "class names": class_names if find_benchmark(dataset) else "as given",
        "classes": vocabulary.num_classes,
        "words of the background": len(vocabulary.background),
        "classes that share their words with another": shared,
        "templates": list(vocabulary.templates),
        "sha256": _sha256(json.dumps([vocabulary.rows, vocabulary.background, vocabulary.templates])),
    }


def _data(data: EvaluationData) -> dict[str, Any]:
    images = [record["image_id"] for record in data.records]
    benchmark = find_benchmark(data.dataset)
    whole, _ = split_dataset_name(data.dataset)
    return {
        "dataset": whole,
        "part": data.dataset.removeprefix(whole) or "all",
        "images": len(images),
        "images of the dataset on disk": data.complete,
        "images of the published split": list(benchmark.sizes) if benchmark else [],
        "image names sha256": _sha256("\n".join(images)),
        # Labels that are prepared anew, in another way, hardly keep the size of every file.
        "file sizes sha256": _sha256("\n".join(map(_sizes, data.records))),
        "ignored id": data.space.ignore_label,
    } | ({} if data.scored is None else {SCORED: list(data.scored)})


def _sizes(record: dict[str, Any]) -> str:
    return f"{os.path.getsize(record['file_name'])} {os.path.getsize(record['sem_seg_file_name'])}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
