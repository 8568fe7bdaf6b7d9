"""Which numbers the keys of a configuration may hold; checked when it is loaded, before anything takes long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from escnet.config_values import TEMPLATE_KEYS
from escnet.vocabulary import Vocabulary, VocabularyError


@dataclass(frozen=True)
class Range:
    """Numbers from `least` (itself excluded if `is_open`) up to, and without, `below`."""

    least: float
    below: float = math.inf
    is_open: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is a number of the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (value > self.least if self.is_open else value >= self.least) and value < self.below

    def __str__(self) -> str:
        lower = f"more than {self.least}" if self.is_open else f"at least {self.least}"
        return lower if self.below == math.inf else f"{lower} and below {self.below}"


POSITIVE, COUNT, SHARE = Range(1), Range(0), Range(0, 1)
RANGES = {
    "MODEL.SAM.ALIGN_IMAGES": COUNT,
    "MODEL.MASK_SHARE": SHARE,
    "MODEL.CLIP.SMOOTHING": POSITIVE,
    "MODEL.ESC.NUM_BLOCKS": POSITIVE,
    "MODEL.ESC.NUM_PROMPTS": POSITIVE,
    "MODEL.ESC.MASK_LOGIT": Range(0, is_open=True),
    "MODEL.ESC.DIM": POSITIVE,
    "MODEL.ESC.NUM_HEADS": POSITIVE,
    "MODEL.ESC.MLP_RATIO": Range(0, is_open=True),
    "MODEL.ESC.WINDOW": POSITIVE,
    "MODEL.ESC.PASSES": POSITIVE,
    "MODEL.ESC.CLASS_CHUNK": Range(-1),
    "MODEL.ESC.MAX_CLASSES": COUNT,
    "MODEL.ESC.KEEP": COUNT,
    "MODEL.ESC.KEEP_SHARE": SHARE,
    "MODEL.ESC.KEEP_LEAST": POSITIVE,
    "MODEL.ESC.FIRST_BLOCKS": COUNT,
    "MODEL.ESC.CLASS_POOL": POSITIVE,
    "MODEL.ESC.TRAIN_CLASSES": COUNT,
    "MODEL.ESC.TRAIN_LEAST": COUNT,
    "MODEL.ESC.TRAIN_FIRST": COUNT,
    "MODEL.ESC.FIRST_LOSS": COUNT,
    "MODEL.ESC.AUX_LOSS": COUNT,
    "MODEL.SAM_CLIP.HEAD_BLOCKS": POSITIVE,
    "MODEL.SAM_CLIP.HIDDEN_DIM": COUNT,
    "MODEL.SAM_CLIP.POINTS": POSITIVE,
    "MODEL.SAM_CLIP.SCORE": SHARE,
    "MODEL.CLIP.DENSE_BLOCKS": POSITIVE,
    "MODEL.GUIDED.IMAGE_SIZE": COUNT,
    "MODEL.GUIDED.BOTTLENECK": Range(0, is_open=True),
    "MODEL.GUIDED.LORA": COUNT,
    "MODEL.GUIDED.POINTS": POSITIVE,
    "MODEL.GUIDED.THRESHOLD": SHARE,
    "MODEL.GUIDED.POINT_SEED": COUNT,
    "MODEL.GUIDED.POINT_DRAWS": POSITIVE,
    "MODEL.GUIDED.MAX_WORDS": COUNT,
    "MODEL.GUIDED.WORD_CHUNK": COUNT,
    "PROMPTABLE.POINTS": POSITIVE,
    "PROMPTABLE.WORDS": POSITIVE,
    "PROMPTABLE.NEGATIVES": SHARE,
    "PROMPTABLE.BCE_WEIGHT": COUNT,
    "PROMPTABLE.DICE_WEIGHT": COUNT,
    "PROMPTABLE.IOU_WEIGHT": COUNT,
    "PROMPTABLE.QUALITY_WEIGHT": COUNT,
    "LABELLED.IMAGES": COUNT,
    "LABELLED.SEED": Range(-1),
    "LABELLED.VALIDATION": SHARE,
    "LABELLED.PERIOD": POSITIVE,
    "LABELLED.PATIENCE": COUNT,
    "DISTILL.STATISTICS_IMAGES": POSITIVE,
    "DISTILL.MICRO_BATCH": COUNT,
    "DISTILL.BROKEN_SHARE": SHARE,
    "DISTILL.CLIP.BATCH_SIZE": POSITIVE,
    "DISTILL.CLIP.TEACHER_SIZE": POSITIVE,
    "DISTILL.CLIP.WEIGHT": COUNT,
    "DISTILL.CLIP.DENSE_WEIGHT": COUNT,
    "DISTILL.SAM.BATCH_SIZE": POSITIVE,
    "DISTILL.SAM.MASKS": POSITIVE,
    "DISTILL.SAM.ROUNDS": POSITIVE,
    "DISTILL.SAM.FOCAL_WEIGHT": COUNT,
    "DISTILL.SAM.QUALITY_WEIGHT": COUNT,
    "DISTILL.SAM.WEIGHT": COUNT,
    "SOLVER.IMS_PER_BATCH": POSITIVE,
    "SOLVER.MAX_ITER": POSITIVE,
    "SOLVER.BASE_LR": COUNT,
    "SOLVER.CLIP_MULTIPLIER": COUNT,
    "SOLVER.SAM_MULTIPLIER": COUNT,
    "SOLVER.WARMUP_ITERS": COUNT,
    "SOLVER.CHECKPOINT_PERIOD": POSITIVE,
    "SOLVER.REFERENCE_WORLD_SIZE": COUNT,
    "DATALOADER.NUM_WORKERS": COUNT,
    "TEST.EVAL_PERIOD": COUNT,
    "TEST.SLIDING.OVERLAP": SHARE,
}
# Heights and widths, or the channels of the decoder's two stages.
PAIRS = (
    "MODEL.CLIP.IMAGE_SIZE",
    "MODEL.SAM_CLIP.IMAGE_SIZE",
    "MODEL.ESC.DECODER_DIMS",
    "MODEL.ESC.SKIP_DIMS",
    "TEST.SLIDING.SIZE",
    "TEST.SLIDING.WINDOW",
)
# Groups of the decoder's GroupNorm.
NORM_GROUPS = 16
# What the remedy is where a number is not obvious.
REMEDIES = {
    "MODEL.ESC.CLASS_CHUNK": "; 0 takes all classes at a time, -1 as many as the device does well",
    "MODEL.ESC.MAX_CLASSES": "; 0 keeps all classes",
    "MODEL.ESC.KEEP": "; 0 is no first pass, all others are numbers of classes",
    "MODEL.ESC.TRAIN_CLASSES": "; 0 takes all classes",
    "MODEL.ESC.TRAIN_LEAST": "; 0 takes MODEL.ESC.TRAIN_CLASSES at each step",
    "MODEL.ESC.TRAIN_FIRST": "; 0 draws classes at random",
    "MODEL.SAM.ALIGN_IMAGES": "; 0 is off, any more are images",
    "MODEL.GUIDED.IMAGE_SIZE": "; 0 takes that of SAM itself",
    "MODEL.GUIDED.MAX_WORDS": "; 0 asks for all words",
    "MODEL.GUIDED.WORD_CHUNK": "; 0 takes all words at a time",
    "LABELLED.SEED": "; -1 takes SEED",
    "LABELLED.IMAGES": "; 0 takes all images, a number below 1 is a share of them",
    "TEST.SLIDING.OVERLAP": "; windows that overlap by the whole never move on",
    "SOLVER.CHECKPOINT_PERIOD": " (iterations); a period beyond SOLVER.MAX_ITER writes the last checkpoint alone",
}


def check_ranges(cfg: CfgNode) -> None:
    """Check the numbers of a config against `RANGES` and `PAIRS`, and those that have to fit one another.

    Args:
        cfg: a config that has escnet's keys.

    Raises:
        ValueError: a number is out of its range, or does not fit another; the message names the key.
    """
    for key, allowed in RANGES.items():
        value = value_of(cfg, key)
        if not allowed.holds(value):
            raise ValueError(f"{key} is {value!r}; it has to be {allowed}{REMEDIES.get(key, '')}")
    for key in PAIRS:
        value = value_of(cfg, key)
        if len(value) != 2 or not all(type(side) is int and POSITIVE.holds(side) for side in value):
            raise ValueError(f"{key} is {value!r}; it has to be two whole numbers of at least 1, such as (384, 384)")
    _check_fit(cfg)
    for key in TEMPLATE_KEYS:
        try:
            Vocabulary(["class"], templates=value_of(cfg, key))
        except VocabularyError as error:
            raise ValueError(f"{key}: {error}") from error


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of "MODEL.ESC.DIM" in a config."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _check_fit(cfg: CfgNode) -> None:
    esc, sliding = cfg.MODEL.ESC, cfg.TEST.SLIDING
    if esc.DIM % esc.NUM_HEADS:
        raise ValueError(
            f"MODEL.ESC.DIM is {esc.DIM}, which MODEL.ESC.NUM_HEADS, {esc.NUM_HEADS}, does not divide; "
            "each attention head takes as many channels"
        )
    if 0 < esc.KEEP < esc.KEEP_LEAST:
        raise ValueError(
            f"MODEL.ESC.KEEP_LEAST is {esc.KEEP_LEAST}, more than MODEL.ESC.KEEP, {esc.KEEP}; "
            "as many words are kept as have the share, from the one to the other"
        )
    if 0 < esc.TRAIN_CLASSES < esc.TRAIN_LEAST:
        raise ValueError(
            f"MODEL.ESC.TRAIN_LEAST is {esc.TRAIN_LEAST}, more than MODEL.ESC.TRAIN_CLASSES, {esc.TRAIN_CLASSES}; "
            "the number of classes is drawn from the one to the other"
        )
    if 0 < esc.TRAIN_FIRST < max(esc.TRAIN_CLASSES, esc.TRAIN_LEAST):
        raise ValueError(
            f"MODEL.ESC.TRAIN_FIRST is {esc.TRAIN_FIRST}, but MODEL.ESC.TRAIN_CLASSES and TRAIN_LEAST, "
            f"{esc.TRAIN_CLASSES} and {esc.TRAIN_LEAST}, are chosen from them; raise it, or 0 draws classes at random"
        )
    if cfg.MODEL.CLIP.SMOOTHING % 2 == 0:
        raise ValueError(f"MODEL.CLIP.SMOOTHING is {cfg.MODEL.CLIP.SMOOTHING}; it has to be odd, 1 for none")
    for dim in esc.DECODER_DIMS:
        if dim > NORM_GROUPS and dim % NORM_GROUPS:
            raise ValueError(
                f"MODEL.ESC.DECODER_DIMS has {dim}; the decoder's GroupNorm needs at most {NORM_GROUPS} channels, "
                f"or a multiple of {NORM_GROUPS}"
            )
    if sliding.ENABLED and any(window > size for window, size in zip(sliding.WINDOW, sliding.SIZE, strict=True)):
        raise ValueError(
            f"TEST.SLIDING.WINDOW, {tuple(sliding.WINDOW)}, is larger than TEST.SLIDING.SIZE, {tuple(sliding.SIZE)}; "
            "a window is a part of the resized image"
        )
