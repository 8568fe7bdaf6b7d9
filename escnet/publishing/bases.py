"""What a model was made upon: the public CLIP and SAM of its configuration, as tensors by the model's own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

import escnet.meta_arch  # noqa: F401  (registers the systems)
from escnet.pretrained.deltas import tensors_sha256
from escnet.pretrained.files import WeightsError, file_sha256
from escnet.pretrained.reading import files_read
from escnet.pretrained.shipped import as_shipped

# The sections that name a model below others, and what it is called in messages.
SECTIONS = {"MODEL.CLIP": "CLIP", "MODEL.SAM": "SAM"}


@dataclass(frozen=True)
class Base:
    """A public model of which another has its first weights.

    Attributes:
        section: of the configuration, "MODEL.CLIP" or "MODEL.SAM".
        name: of the model.
        weights: a tag of open_clip, "official", or "shipped:NAME".
        file: the name of the file that was read.
        file_sha256: its digest; the same weights may come in other files.
        tensors: the names, in the model above, of the tensors that are its own.
        tensors_sha256: their digest, as `escnet.pretrained.deltas.tensors_sha256` counts it.
    """

    section: str
    name: str
    weights: str
    file: str
    file_sha256: str
    tensors: tuple[str, ...]
    tensors_sha256: str

    def __str__(self) -> str:
        kind = SECTIONS.get(self.section, self.section)
        return f"{kind} {self.name} with weights {self.weights} ({self.file}, SHA-256 {self.file_sha256})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "tensors": list(self.tensors)}


def base_tensors(cfg: CfgNode, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of the configured model before any training, on the CPU; what is not from CLIP or SAM is random.

    Raises:
        WeightsError: weights of CLIP or SAM cannot be had.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.COMPILE = "", "cpu", ""
    # The caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(cfg).state_dict()


def find_bases(cfg: CfgNode) -> tuple[list[Base], dict[str, Tensor]]:
    """The public models that a configuration starts from, and their tensors by the names of the configured model.

    A tensor is a base's own if it is another one when that base is random and all else is the same.

    Raises:
        WeightsError: the configuration starts from none, from private ones or from a merged model; or they cannot be
            had.
    """
    cfg = cfg.clone()
    cfg.defrost()
    sections = [section for section in SECTIONS if _node(cfg, section).WEIGHTS]
    if cfg.MODEL.SAM_CLIP.WEIGHTS or not sections:
        raise WeightsError(
            "a delta is the difference to the public CLIP and SAM that MODEL.CLIP.WEIGHTS and MODEL.SAM.WEIGHTS name, "
            "and this configuration starts from others; save the model whole"
        )
    with files_read() as files:
        start = base_tensors(cfg)
    bases, own = [], {}
    for section in sections:
        random = cfg.clone()
        _node(random, section).WEIGHTS = ""
        with files_read() as others:
            without = base_tensors(random)
        tensors = {name: value for name, value in start.items() if not torch.equal(value, without[name])}
        # SAM has none in a model that is built without it.
        if tensors:
            file = next(file for file in files if file not in others)
            bases.append(_describe(section, _node(cfg, section), file, tensors))
            own |= tensors
    return bases, own


def check_bases(bases: Sequence[Base], tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse a model to stand on other weights than those that it was made upon.

    Args:
        bases: that a delta names.
        tensors: of the model before the delta.
        source: of the delta, for the message.

    Raises:
        WeightsError: a base is another one; the message says which were expected.
    """
    for base in bases:
        missing = [name for name in base.tensors if name not in tensors]
        if missing or tensors_sha256(tensors, base.tensors) != base.tensors_sha256:
            raise WeightsError(
                f"{source}: is a delta upon {base}, but what was found as {base.section}.WEIGHTS {base.weights} on "
                "this machine holds other weights; replace that file by the public one"
            )


def _describe(section: str, node: CfgNode, file: Path, tensors: Mapping[str, Tensor]) -> Base:
    return Base(
        section,
        node.NAME,
        as_shipped(node.WEIGHTS),
        file.name,
        file_sha256(file),
        tuple(sorted(tensors)),
        tensors_sha256(tensors),
    )


def _node(cfg: CfgNode, section: str) -> CfgNode:
    return cfg.MODEL[section.rpartition(".")[2]]
