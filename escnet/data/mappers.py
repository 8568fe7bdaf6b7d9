"""From a dataset record to a sample of the model: augmented for training, untouched for evaluation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from escnet.data.augmentations import ColorJitter, PadTo, ScaleJitterCrop
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError, read_image, read_labels
from escnet.data.label_spaces import LabelSpace, label_spaces, read_training_labels
from escnet.ignore_label import IGNORE_LABEL


class TrainingMapper:
    """Reads one record and augments it: scale jitter, random crop, colour jitter, flip, padding to the crop size.

    ESC-Net, training details: crop 384, colour jitter, flip.

    Args:
        label_spaces: label space per dataset name.
        short_sides: the lengths in pixels among which the short side of the resized image is chosen.
        max_size: longest side in pixels; a long image is shrunk to it, whatever its short side becomes.
        crop_size: (height, width) of the sample in pixels.
        single_category_max_area: crops are drawn again (up to 10 times) while one class covers more than this share.
        color_jitter: vary brightness, contrast, saturation and hue.
        random_flip: ``horizontal`` or ``none``.
    """

    @configurable
    def __init__(
        self,
        label_spaces: Mapping[str, LabelSpace],
        *,
        short_sides: Sequence[int],
        max_size: int,
        crop_size: tuple[int, int],
        single_category_max_area: float = 1.0,
        color_jitter: bool = True,
        random_flip: str = "horizontal",
    ) -> None:
        if random_flip not in ("horizontal", "none"):
            raise ValueError(f"INPUT.RANDOM_FLIP has to be 'horizontal' or 'none', got '{random_flip}'")
        self._label_spaces = dict(label_spaces)
        # Colours are varied after the crop, where there are fewer pixels, and before the padding, which stays grey.
        augmentations: list[T.Augmentation] = [
            ScaleJitterCrop(tuple(short_sides), max_size, crop_size, single_category_max_area, IGNORE_LABEL)
        ]
        if color_jitter:
            augmentations.append(ColorJitter())
        if random_flip == "horizontal":
            augmentations.append(T.RandomFlip(horizontal=True))
        augmentations.append(PadTo(crop_size, IGNORE_LABEL))
        self.augmentations = augmentations

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        _check_format(cfg)
        _check_augmentation(cfg)
        return {
            "label_spaces": label_spaces(cfg.DATASETS.TRAIN, cfg.INPUT.TEMPLATES, cfg.INPUT.CLASS_NAMES),
            "short_sides": cfg.INPUT.MIN_SIZE_TRAIN,
            "max_size": cfg.INPUT.MAX_SIZE_TRAIN,
            "crop_size": tuple(cfg.INPUT.CROP.SIZE),
            "single_category_max_area": cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
            "color_jitter": cfg.INPUT.COLOR_AUG_SSD,
            "random_flip": cfg.INPUT.RANDOM_FLIP,
        }

    def __call__(self, record: Mapping[str, Any], seed: int | None = None) -> dict[str, Any]:
        """Make one training sample.

        Args:
            record: ``file_name``, ``sem_seg_file_name`` and ``dataset``.
            seed: decides every random choice, 0..2^32-1; the global random state is left as it was. Without a seed
                the global state is used.

        Returns:
            ``image`` (3,H,W) uint8 RGB and ``sem_seg`` (H,W) int64 of the crop size, with :data:`IGNORE_LABEL`
            at ignored and padded pixels; ``height`` and ``width`` of the file; ``file_name``; ``vocabulary``.

        Raises:
            ImageError: a file that cannot be read, image and labels of different sizes, or an id without a class.
            DatasetError: a record of a dataset that the mapper was not made for.
        """
        space = label_space_of(record, self._label_spaces)
        image = read_image(record["file_name"])
        labels = read_training_labels(record["sem_seg_file_name"], space)
        if labels.shape != image.shape[:2]:
            raise ImageError(
                f"{record['file_name']} has {image.shape[0]}x{image.shape[1]} pixels (height x width), its labels "
                f"{record['sem_seg_file_name']} have {labels.shape[0]}x{labels.shape[1]}; prepare the dataset again"
            )
        height, width = labels.shape

        sample = T.AugInput(image, sem_seg=labels)
        with _seeded(seed):
            T.AugmentationList(self.augmentations)(sample)
        return {
            "image": _to_tensor(sample.image),
            "sem_seg": torch.from_numpy(sample.sem_seg.astype(np.int64)),
            "height": height,
            "width": width,
            "file_name": record["file_name"],
            "vocabulary": space.vocabulary,
        }


class EvaluationMapper:
    """Reads the image of one record as it is; resizing belongs to the model.

    Args:
        label_spaces: label space per dataset name.
        with_truth: read the label map too, in the loader's process; else that is left to the evaluator.
    """

    @configurable
    def __init__(self, label_spaces: Mapping[str, LabelSpace], with_truth: bool = False) -> None:
        self._label_spaces = dict(label_spaces)
        self._with_truth = with_truth

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        _check_format(cfg)
        return {"label_spaces": label_spaces(cfg.DATASETS.TEST, cfg.TEST.TEMPLATES, cfg.TEST.CLASS_NAMES)}

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Make one evaluation sample: ``image`` (3,H,W) uint8 RGB, ``height``, ``width``, ``vocabulary``, the
        record's ``file_name``, ``sem_seg_file_name`` and ``image_id``, and with truth ``sem_seg_truth`` (H,W), the ids
        as they stand in the file.

        Raises:
            ImageError: a file cannot be read, or the truth has not the bits of the dataset.
            DatasetError: a record of a dataset that the mapper was not made for.
        """
        space = label_space_of(record, self._label_spaces)
        image = read_image(record["file_name"])
        truth = {"sem_seg_truth": read_labels(record["sem_seg_file_name"], space.bits)} if self._with_truth else {}
        return truth | {
            "image": _to_tensor(image),
            "height": image.shape[0],
            "width": image.shape[1],
            "file_name": record["file_name"],
            "sem_seg_file_name": record["sem_seg_file_name"],
            "image_id": record["image_id"],
            "vocabulary": space.vocabulary,
        }


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Seed NumPy and `random`, which Detectron2's augmentations draw from, and restore their states afterwards."""
    if seed is None:
        yield
        return
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def label_space_of(record: Mapping[str, Any], spaces: Mapping[str, LabelSpace]) -> LabelSpace:
    """The label space of the dataset that a record names.

    Raises:
        DatasetError: it names none of them.
    """
    dataset = record.get("dataset")
    if dataset not in spaces:
        raise DatasetError(
            f"{record.get('file_name')}: the record is of the dataset {dataset!r}, the mapper is for {sorted(spaces)}; "
            f"take records from escnet.data.registration.dataset_records, or set 'dataset' in your own"
        )
    return spaces[dataset]


def _check_format(cfg: CfgNode) -> None:
    if cfg.INPUT.FORMAT != "RGB":
        raise ValueError(f"INPUT.FORMAT is '{cfg.INPUT.FORMAT}', but escnet's models read RGB; set it to RGB")


def _check_augmentation(cfg: CfgNode) -> None:
    """Refuse values of Detectron2's own keys that would otherwise be ignored without a word."""
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING != "choice":
        raise ValueError(f"INPUT.MIN_SIZE_TRAIN_SAMPLING is '{cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING}'; set it to choice")
    if not cfg.INPUT.CROP.ENABLED or cfg.INPUT.CROP.TYPE != "absolute":
        raise ValueError(
            f"INPUT.CROP.ENABLED is {cfg.INPUT.CROP.ENABLED} and TYPE '{cfg.INPUT.CROP.TYPE}', but training samples "
            f"need one size; set them to True and absolute, and SIZE to (height, width)"
        )
