"""The questions about CLIP-Guided SAM, as tables of experiments on MojiScenes."""

from __future__ import annotations

from functools import partial

from escnet.miniature.experiments import Options, Table, Variant

# What is asked of the paper begins with its configuration, what it leaves open with ours.
CONFIG, OURS = "configs/mojiscenes/clip_guided_sam_paper.yaml", "configs/mojiscenes/clip_guided_sam.yaml"
SPLITS = ("mojiscenes_val_novel[:50]", "mojiscenes_val_base[:50]")
ORDINARY = SPLITS
ORACLE = tuple(f"{split}@oracle" for split in SPLITS)
POINTS = tuple(f"{split}@oracle-points" for split in SPLITS)
BOXES = tuple(f"{split}@oracle-box" for split in SPLITS)
# What nothing of CLIP is trained by, where neither its features nor similarities enter.
_CLIP_FROZEN = ("MODEL.CLIP.TRAIN", "none")


# Every table says how many numbers each row trains.
_table = partial(Table, shows_parameters=True)
_ours = partial(Variant, config_file=OURS)


def few(images: int) -> Options:
    """Training on so many labelled pictures, a fifth of which chooses the weights; 0 is all 2000, of which 100 do."""
    return (
        *("LABELLED.IMAGES", str(float(images))),
        *("LABELLED.VALIDATION", "0.2" if images else "0.05"),
    )


def _presence(*kinds: str) -> Options:
    """What says that a word is there; several multiply."""
    return ("MODEL.GUIDED.PRESENCE", repr(kinds))


def signals(*names: str) -> Options:
    """What of CLIP enters the semantic adapters."""
    frozen = () if {"vision", "similarity"} & set(names) else _CLIP_FROZEN
    return ("MODEL.GUIDED.SIGNALS", repr(tuple(names)), *frozen)


# Ways of training the same SAM with the same prompts.
METHODS: dict[str, Options] = {
    "CLIP-Guided SAM": (),
    "text adapters (SAM-PTx)": signals("text"),
    "plain adapters": signals(),
    "LoRA": ("MODEL.GUIDED.ADAPTERS", "()", "MODEL.GUIDED.LORA", "16", *_CLIP_FROZEN),
    "decoder alone": ("MODEL.GUIDED.ADAPTERS", "()", *_CLIP_FROZEN),
}
_TEXT, _VISION, _SIMILARITY = "text", "vision", "similarity"
SIGNALS = _table(
    "signals",
    "Which of CLIP's signals (paper, VOC 1/16, oracle: none 67.1, T 67.2, V 68.8, S 77.5, T+V 69.5, all 78.3)?",
    tuple(
        Variant("+".join(name[0].upper() for name in names) or "none", (*few(64), *signals(*names)))
        for names in (
            (),
            (_TEXT,),
            (_VISION,),
            (_SIMILARITY,),
            (_TEXT, _VISION),
            (_TEXT, _SIMILARITY),
            (_VISION, _SIMILARITY),
            (_TEXT, _VISION, _SIMILARITY),
        )
    ),
    (*ORDINARY, *ORACLE),
)
PROMPTS = _table(
    "prompts",
    "Prompts in training (rows) and in use (columns; paper, VOC 1/16: CLIP/CLIP 78.3, truth/CLIP 69.8)?",
    tuple(Variant(kind, (*few(64), "PROMPTABLE.PROMPTS", kind)) for kind in ("text", "points", "boxes", "mixed")),
    (*ORACLE, *POINTS, *BOXES),
)
_PUBLISHED = {
    "scale 1/2": ("MODEL.GUIDED.SCALE", "0.5"),
    "no zero start": ("MODEL.GUIDED.ZERO_START", "False"),
    "inner skip": ("MODEL.GUIDED.INNER_SKIP", "True"),
    "norm over the tokens": ("MODEL.GUIDED.NORM", "cells"),
    "SAM's pixels": ("MODEL.GUIDED.CLIP_PIXELS", "sam"),
}
PUBLISHED = _table(
    "published",
    "The paper's constants, or those of its published code?",
    (
        Variant("paper", few(64)),
        *(Variant(name, (*few(64), *options)) for name, options in _PUBLISHED.items()),
        Variant("published code, all of these", (*few(64), *sum(_PUBLISHED.values(), ()))),
        # Where similarities enter no adapter, prompts alone are read off them.
        Variant("no signals", (*few(64), *signals())),
        Variant("no signals, norm over the tokens", (*few(64), *signals(), *_PUBLISHED["norm over the tokens"])),
        # As the published code seems to mean it.
        _ours("less the empty text", few(64)),
        _ours("no signals, less the empty text", (*few(64), *signals())),
    ),
    (*ORDINARY, *ORACLE),
)
_TOLD = (("inside",), ("quality",), ("quality", "inside"))
NEGATIVES = _table(
    "negatives",
    "What share of the words that are asked for in training is absent (paper: none; with some, the IoU is learned)?",
    tuple(
        _ours(
            f"{share}, told by {' and '.join(kinds)}",
            (*few(64), "PROMPTABLE.NEGATIVES", share, "PROMPTABLE.QUALITY_WEIGHT", "0.0" if share == "0.0" else "1.0"),
            _presence(*kinds),
        )
        for share in ("0.0", "0.25", "0.5")
        for kinds in _TOLD
    ),
    (*ORDINARY, *ORACLE),
)
PRESENCE = _table(
    "presence",
    "What says that a word is there, and what say has CLIP's own map?",
    tuple(
        _ours(f"{' and '.join(kinds)}, masks {share}", few(64), (*_presence(*kinds), "MODEL.MASK_SHARE", share))
        for kinds in (*_TOLD, ("clip",), ("clip", "inside"))
        for share in (("0.5", "0.8", "0.95", "0.99") if kinds == ("inside",) else ("0.5", "0.8", "0.95"))
    ),
    ORDINARY,
)
CLIP = _table(
    "clip",
    "Which dense features of CLIP, and is it trained (paper, VOC 1/16: plain 72.8, frozen 73.7, trained 78.3)?",
    (
        _ours("value path of the last block", few(64)),
        _ours("value-value, last half", (*few(64), "MODEL.CLIP.DENSE", "vv", "MODEL.CLIP.DENSE_BLOCKS", "2")),
        _ours("value-value, last block", (*few(64), "MODEL.CLIP.DENSE", "vv", "MODEL.CLIP.DENSE_BLOCKS", "1")),
        _ours("plain", (*few(64), "MODEL.CLIP.DENSE", "qk")),
        _ours("frozen", (*few(64), *_CLIP_FROZEN)),
        _ours("trained, a tenth of the rate", (*few(64), "SOLVER.CLIP_MULTIPLIER", "0.1")),
        _ours("trained, 1/500 of the rate", (*few(64), "SOLVER.CLIP_MULTIPLIER", "0.002")),
    ),
    (*ORDINARY, *ORACLE),
)
BLOCKS = _table(
    "blocks",
    "Which blocks do words enter (of four)?",
    tuple(
        _ours(name, (*few(64), "MODEL.GUIDED.BLOCKS", blocks))
        for name, blocks in (("all", "()"), ("last two", "(-2, -1)"), ("last one", "(-1,)"), ("first two", "(0, 1)"))
    ),
    (*ORDINARY, *ORACLE),
)
LOSS = _table(
    "mask_loss",
    "Which loss (paper, VOC 1/16: BCE 76.1, BCE+Dice 77.7, BCE+IoU 78.1, Dice+IoU 76.8, all 78.3)?",
    tuple(
        _ours(
            name,
            (
                *few(64),
                *("PROMPTABLE.BCE_WEIGHT", str(bce), "PROMPTABLE.DICE_WEIGHT", str(dice)),
                *("PROMPTABLE.IOU_WEIGHT", str(iou)),
            ),
        )
        for name, bce, dice, iou in (
            ("all", 1.0, 1.0, 1.0),
            ("BCE", 1.0, 0.0, 0.0),
            ("BCE+Dice", 1.0, 1.0, 0.0),
            ("BCE+IoU", 1.0, 0.0, 1.0),
            ("Dice+IoU", 0.0, 1.0, 1.0),
        )
    ),
    (*ORDINARY, *ORACLE),
)
POINTS_OF_WORDS = _table(
    "points",
    "How is a word alone asked for (paper, VOC 1/16: without the mask prompt 77.6 for 78.3)?",
    (
        _ours("5 points and the mask, 0 and 255", few(64)),
        _ours("mask logits -8 and 8", (*few(64), "MODEL.GUIDED.MASK_LEVELS", "(-8.0, 8.0)")),
        _ours("without the mask", (*few(64), "MODEL.GUIDED.MASK_PROMPT", "False")),
        _ours("region above 0.7 instead of 0.8", (*few(64), "MODEL.GUIDED.THRESHOLD", "0.7")),
        _ours("1 point", (*few(64), "MODEL.GUIDED.POINTS", "1")),
        _ours("points drawn 5 times", few(64), ("MODEL.GUIDED.POINT_DRAWS", "5")),
    ),
    (*ORDINARY, *ORACLE),
)
PHOTOGRAPHS = _table(
    "photographs",
    "On few real photographs, of streets: does what CLIP says help a SAM that has seen none?",
    tuple(
        Variant(
            f"{method}, {count} photographs",
            # Other photographs with each seed.
            ("LABELLED.IMAGES", str(float(count)), "LABELLED.SEED", "-1", *METHODS[method]),
            config_file="configs/camvid/clip_guided_sam.yaml",
        )
        for method in ("CLIP-Guided SAM", "decoder alone")
        for count in (16, 64)
    ),
    ("camvid_val", "camvid_val@oracle"),
)

TABLES = {
    table.name: table
    for table in (SIGNALS, PROMPTS, PUBLISHED, NEGATIVES, PRESENCE, CLIP, BLOCKS, LOSS, POINTS_OF_WORDS, PHOTOGRAPHS)
}
