"""Training on few labelled images: which ones, and which of these are held out to choose among the weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from escnet.data.errors import DatasetError
from escnet.data.json_files import read_json_object
from escnet.data.registration import dataset_records
from escnet.safe_files import replacing

logger = logging.getLogger(__name__)

LABELLED_FILE = "labelled.json"

Record = dict[str, Any]
# Several datasets may have images of one id.
_Key = tuple[str, str]


@dataclass(frozen=True)
class LabelledSplit:
    """The labelled images of a training, each list in the order in which it was read.

    Attributes:
        training: records of the images that are trained on.
        validation: records of those that are held out to choose among the weights; may be empty.
    """

    training: list[Record] = field(repr=False)
    validation: list[Record] = field(default_factory=list, repr=False)


def labelled_split(cfg: CfgNode, records: Sequence[Record] | None = None) -> LabelledSplit:
    """The images of DATASETS.TRAIN that LABELLED chooses, and those of them that it holds out.

    Args:
        cfg: the config.
        records: of all images of DATASETS.TRAIN, where they have been read already.

    Raises:
        DatasetError: a dataset is not there, or has not as many images as LABELLED asks for.
    """
    if records is None:
        records = [record for name in cfg.DATASETS.TRAIN for record in dataset_records(name)]
    return choose_labelled(records, cfg.LABELLED.IMAGES, _seed(cfg), cfg.LABELLED.VALIDATION)


def choose_labelled(
    records: Sequence[Record], images: float = 0, seed: int = 0, validation: float = 0.0
) -> LabelledSplit:
    """Choose labelled images by a seed, and hold out a share of them.

    Which images are taken depends on the seed and on the datasets and ids of all images, not on the order of these.
    With one seed, fewer images are a part of more: those to train on of those to train on, and likewise those held out.

    Args:
        records: of all images, with ``dataset`` and ``image_id``; an image that occurs twice counts once, and both of
            its records go the same way.
        images: how many, 1 or more; below 1 a share of them, rounded, at least 1 image; 0 for all.
        seed: which ones; not negative.
        validation: share of the chosen ones that is held out, 0 or more and below 1, rounded; unless it is 0, at least
            1 image, and at least 1 is left to train on.

    Raises:
        DatasetError: so many images cannot be chosen, or held out of those chosen; or a record names no image.
    """
    if not images and not validation:
        return LabelledSplit(list(records))
    keys = [_key(record) for record in records]
    ordered = sorted(set(keys))
    count = _count(images, ordered)
    if validation and count < 2:
        raise DatasetError(
            f"LABELLED.VALIDATION is {validation}, which holds out at least 1 image and leaves 1 to train on, but "
            f"there is {count} labelled image: set LABELLED.VALIDATION to 0, or LABELLED.IMAGES to 2 or more, of "
            f"{_datasets(ordered)} with {len(ordered)}"
        )
    # RandomState is frozen by NumPy's compatibility policy: the choice survives an upgrade of NumPy.
    shuffler = np.random.RandomState(np.random.SeedSequence(seed).generate_state(4))
    chosen = [ordered[place] for place in shuffler.permutation(len(ordered))[:count]]
    # An image is held out by its place alone, so that it goes the same way however many come after it.
    held_out = {
        key for place, key in enumerate(chosen) if _held_out(place + 1, validation) > _held_out(place, validation)
    }
    trained = set(chosen) - held_out
    return LabelledSplit(
        [record for key, record in zip(keys, records, strict=True) if key in trained],
        [record for key, record in zip(keys, records, strict=True) if key in held_out],
    )


def uses_labelled(cfg: CfgNode) -> bool:
    """Whether a config trains on fewer than all images of DATASETS.TRAIN."""
    return bool(cfg.LABELLED.IMAGES or cfg.LABELLED.VALIDATION)


def write_labelled(cfg: CfgNode, split: LabelledSplit) -> None:
    """Write the ids of a split to OUTPUT_DIR/labelled.json, for the run that begins there.

    Where LABELLED takes all images there is no such file, and that of an earlier run is removed.

    Raises:
        DiskFullError: there is no space left for it.
    """
    path = Path(cfg.OUTPUT_DIR) / LABELLED_FILE
    if not uses_labelled(cfg):
        path.unlink(missing_ok=True)
        return
    contents = {"datasets": list(cfg.DATASETS.TRAIN), "seed": _seed(cfg)} | _ids(split)
    logger.info(f"{len(split.training)} labelled images are trained on, {len(split.validation)} are held out: {path}")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_labelled(cfg: CfgNode, split: LabelledSplit) -> None:
    """Check that the run in OUTPUT_DIR, which is to go on, has the same split.

    Raises:
        DatasetError: it has another one, or its labelled.json cannot be read.
    """
    path = Path(cfg.OUTPUT_DIR) / LABELLED_FILE
    remedy = "set DATASETS.TRAIN and LABELLED as in the config.yaml beside it, or begin a new run without --resume"
    asked = f"LABELLED.IMAGES {cfg.LABELLED.IMAGES}, SEED {_seed(cfg)} and VALIDATION {cfg.LABELLED.VALIDATION}"
    if not path.exists():
        if uses_labelled(cfg):
            raise DatasetError(
                f"{path}: there is no such file, so the run was begun on all images of its datasets, but {asked} "
                f"choose among them; {remedy}"
            )
        return
    contents = read_json_object(path, "ids of labelled images")
    if not uses_labelled(cfg) or {part: contents.get(part) for part in ("training", "validation")} != _ids(split):
        raise DatasetError(f"{path}: the run in this folder has other labelled images than {asked} choose; {remedy}")


def _seed(cfg: CfgNode) -> int:
    """Which images are chosen: LABELLED.SEED, or SEED where that is -1."""
    return cfg.SEED if cfg.LABELLED.SEED < 0 else cfg.LABELLED.SEED


def _key(record: Record) -> _Key:
    try:
        return str(record["dataset"]), str(record["image_id"])
    except KeyError as error:
        raise DatasetError(
            f"{record.get('file_name')}: its record has no {error}, by which LABELLED chooses images; take records "
            "from escnet.data.registration.dataset_records, or set it in your own"
        ) from None


def _count(images: float, keys: Sequence[_Key]) -> int:
    """How many images LABELLED.IMAGES means."""
    if images == 0:
        return len(keys)
    if images < 1:
        return max(1, int(images * len(keys) + 0.5))
    if images != int(images):
        raise DatasetError(
            f"LABELLED.IMAGES is {images}; it has to be a whole number of images, a share of them below 1, or 0 for all"
        )
    if images > len(keys):
        raise DatasetError(
            f"LABELLED.IMAGES is {int(images)}, but {_datasets(keys)} has {len(keys)} images; set it to at most "
            f"{len(keys)}, or to 0 for all"
        )
    return int(images)


def _held_out(images: int, share: float) -> int:
    """How many of the first so many images are held out; grows by 0 or 1 with each, so that each has its own side."""
    if not images or not share:
        return 0
    return max(1, min(images - 1, int(images * share + 0.5)))


def _datasets(keys: Iterable[_Key]) -> str:
    return " and ".join(sorted({dataset for dataset, _ in keys})) or "DATASETS.TRAIN"


def _ids(split: LabelledSplit) -> dict[str, dict[str, list[str]]]:
    """The ids of both parts by dataset, sorted, as they stand in the file."""
    parts: dict[str, dict[str, list[str]]] = {"training": {}, "validation": {}}
    for part, records in (("training", split.training), ("validation", split.validation)):
        for dataset, image in sorted(set(map(_key, records))):
            parts[part].setdefault(dataset, []).append(image)
    return parts
