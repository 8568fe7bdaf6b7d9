"""The questions that the papers leave open, as tables of experiments on MojiScenes."""

from __future__ import annotations

from collections.abc import Iterable

from escnet.miniature.experiments import NOVEL_BASE, Options, Table, Variant


def _rows(key: str, values: Iterable[object], **common: object) -> tuple[Variant, ...]:
    return tuple(Variant(str(value), (key, str(value)), **common) for value in values)


_NOVEL_BASE_200 = ("mojiscenes_val_novel", "mojiscenes_val_base")
_ALL_CLASSES = ("MODEL.ESC.MAX_CLASSES", "0", "MODEL.ESC.KEEP", "0")
_COST_AGGREGATION = (
    *("MODEL.META_ARCHITECTURE", "CostAggregation", "MODEL.ESC.AUX_LOSS", "0.0"),
    *("MODEL.ESC.NUM_BLOCKS", "2", "MODEL.ESC.CLASS_POOL", "2"),
)
HEADLINE = Table(
    "headline",
    "ESC-Net against the training-free baselines and against CAT-Seg's structure, on the same CLIP and SAM.",
    (
        Variant("DenseClip", test=("MODEL.META_ARCHITECTURE", "DenseClip"), is_trained=False),
        Variant("ClipThenSam", test=("MODEL.META_ARCHITECTURE", "ClipThenSam"), is_trained=False),
        Variant("CostAggregation, all classes", _COST_AGGREGATION, _ALL_CLASSES),
        Variant("CostAggregation", _COST_AGGREGATION),
        Variant("ESC-Net, all classes", test=_ALL_CLASSES),
        Variant("ESC-Net"),
    ),
    (*_NOVEL_BASE_200, "mojiscenes_val_all", "mojiscenes_val_847[:50]"),
)

SAM_BLOCK = Table(
    "sam_block",
    "Does a pretrained SAM block help (paper: none 4.8, random 5.9, pretrained 18.1 mIoU on A-847)?",
    (
        Variant("none", ("MODEL.SAM.INIT", "none")),
        Variant("random", ("MODEL.SAM.INIT", "random")),
        Variant("pretrained"),
    ),
    _NOVEL_BASE_200,
)
_AT_RANDOM = ("MODEL.ESC.TRAIN_FIRST", "0")


def _trained_on(most: int, least: int) -> Options:
    return ("MODEL.ESC.TRAIN_CLASSES", str(most), "MODEL.ESC.TRAIN_LEAST", str(least))


TRAIN_CLASSES = Table(
    "train_classes",
    "How many classes are looked at while training, and which?",
    (
        *(
            Variant(f"{least} to {most}" if least else str(most or "all"), (*_AT_RANDOM, *_trained_on(most, least)))
            for most, least in ((12, 0), (24, 0), (48, 0), (0, 0), (36, 6))
        ),
        Variant("12, chosen as in use"),
        Variant("6 to 16, chosen as in use", _trained_on(16, 6)),
    ),
    _NOVEL_BASE_200,
)
AUGMENTATION = Table(
    "augmentation",
    "Do training pictures vary in colour and size?",
    (
        Variant("neither"),
        Variant("colour", ("INPUT.COLOR_AUG_SSD", "True")),
        Variant("size", ("INPUT.MIN_SIZE_TRAIN", "(128, 144, 160)")),
        Variant("both", ("INPUT.COLOR_AUG_SSD", "True", "INPUT.MIN_SIZE_TRAIN", "(128, 144, 160)")),
    ),
    _NOVEL_BASE_200,
)
AGGREGATION = Table(
    "aggregation",
    "How does the fusion aggregate over space and classes?",
    (
        Variant("serial"),
        Variant("serial, classes on 2x2 cells", ("MODEL.ESC.CLASS_POOL", "2")),
        Variant("parallel", ("MODEL.ESC.AGGREGATION", "parallel")),
    ),
    _NOVEL_BASE_200,
)
MLP_RATIO = Table(
    "mlp_ratio",
    "How wide are the MLPs of the fusion (times its channels)?",
    _rows("MODEL.ESC.MLP_RATIO", (1.0, 2.0, 4.0)),
    _NOVEL_BASE_200,
)
SMOOTHING = Table(
    "smoothing",
    "Over how many cells are CLIP's correlation maps averaged (side of the square)?",
    (
        *(
            Variant(
                f"DenseClip, {side}",
                test=("MODEL.META_ARCHITECTURE", "DenseClip", "MODEL.CLIP.SMOOTHING", str(side)),
                is_trained=False,
            )
            for side in (1, 3, 5)
        ),
        *(
            Variant(
                f"ClipThenSam, {side}",
                test=("MODEL.META_ARCHITECTURE", "ClipThenSam", "MODEL.CLIP.SMOOTHING", str(side)),
                is_trained=False,
            )
            for side in (1, 3)
        ),
        *(Variant(f"ESC-Net, {side}", ("MODEL.CLIP.SMOOTHING", str(side))) for side in (1, 3)),
    ),
    (*_NOVEL_BASE_200, "mojiscenes_val_847[:50]"),
)
PASSES = Table(
    "passes",
    "Does a second pass help, whose prompts are read from the prediction of the first?",
    tuple(
        Variant(f"{init}, {count}", ("MODEL.SAM.INIT", init), ("MODEL.ESC.PASSES", str(count)))
        for init in ("random", "pretrained")
        for count in (1, 2)
    ),
    _NOVEL_BASE_200,
)
_TWO_PASSES = ("MODEL.ESC.PASSES", "2")


def _on_sam_clip(name: str, sam: str = "pretrained", train: Options = (), test: Options = ()) -> Variant:
    train = ("MODEL.SAM.INIT", sam, *train)
    return Variant(f"SAM-CLIP, {name}", train, test, config_file="configs/mojiscenes/escnet_sam_clip.yaml")


MERGED = Table(
    "merged",
    "ESC-Net upon SAM-CLIP: is SAM's block worth more on SAM's own features?",
    (
        Variant("CLIP"),
        Variant("CLIP, 2 passes", test=_TWO_PASSES),
        Variant("CLIP, all of it trained", ("MODEL.CLIP.TRAIN", "all", "SOLVER.CLIP_MULTIPLIER", "0.1")),
        _on_sam_clip("no SAM block", "none"),
        _on_sam_clip("random", "random"),
        _on_sam_clip("pretrained"),
        _on_sam_clip("pretrained, 2 passes", test=_TWO_PASSES),
        _on_sam_clip(
            "pretrained, CLIP's features alone, aligned",
            train=("MODEL.SAM_CLIP.SAM_INPUT", "clip", "MODEL.SAM.ALIGN_IMAGES", "200"),
        ),
        _on_sam_clip(
            "pretrained, attention trained", train=("MODEL.CLIP.TRAIN", "attention", "SOLVER.CLIP_MULTIPLIER", "0.01")
        ),
        _on_sam_clip("pretrained, backbone frozen", train=("MODEL.CLIP.TRAIN", "none")),
    ),
    (*NOVEL_BASE, "mojiscenes_val_847[:50]"),
)
SAM_TRAIN = Table(
    "sam_train",
    "What is the pretrained SAM block given, and what of it is trained?",
    (
        Variant("attention"),
        Variant("attention; projection not aligned", ("MODEL.SAM.ALIGN_IMAGES", "0")),
        Variant("nothing", ("MODEL.SAM.TRAIN", "none")),
        Variant("all, at the full rate", ("MODEL.SAM.TRAIN", "all", "SOLVER.SAM_MULTIPLIER", "1.0")),
    ),
)

# Fusion and decoder with as many channels as the SAM block, which otherwise has twice as many.
_WIDE = ("MODEL.ESC.DIM", "64", "MODEL.ESC.NUM_HEADS", "4", "MODEL.ESC.DECODER_DIMS", "(32, 16)")
SAM_BLOCK_WIDE = Table(
    "sam_block_wide",
    "Does it still help where all that follows is as wide as SAM's decoder?",
    (
        Variant("none", ("MODEL.SAM.INIT", "none", *_WIDE)),
        Variant("random", ("MODEL.SAM.INIT", "random", *_WIDE)),
        Variant("pretrained", _WIDE),
    ),
)

PROMPTS = Table("prompts", "Which prompts?", _rows("MODEL.ESC.PROMPTS", ("point", "mask", "point+mask", "box")))
OBJECTS = Table(
    "objects",
    "How many objects for each class (K)?",
    _rows("MODEL.ESC.NUM_PROMPTS", (1, 3, 5, 9)),
    (*NOVEL_BASE, "mojiscenes_val_many[:100]"),
)
BLOCKS = Table("blocks", "How many ESC blocks?", _rows("MODEL.ESC.NUM_BLOCKS", (1, 2, 4)))
MERGE = Table(
    "merge",
    "How do per-class features become one?",
    _rows("MODEL.ESC.CLASS_MERGE", ("correlation", "mean", "per_class")),
)
GUIDANCE = Table(
    "guidance",
    "Where do the image features enter the fusion?",
    _rows("MODEL.ESC.GUIDANCE", ("input", "qk", "input+qk")),
)
REGION = Table(
    "region",
    "Softmax over which axis, and which threshold?",
    tuple(
        Variant(f"{axis}, {alpha}", ("MODEL.ESC.SOFTMAX_AXIS", axis, "MODEL.ESC.ALPHA", str(alpha)))
        for axis, alphas in (("class", (0.3, 0.5)), ("space", (0.5, 0.7)))
        for alpha in alphas
    ),
)
LOSS = Table("loss", "Which loss?", _rows("MODEL.ESC.LOSS", ("ce", "bce", "ce_dice")))
AUX_LOSS = Table("aux_loss", "A loss on the map of each block?", _rows("MODEL.ESC.AUX_LOSS", (0.0, 0.4)))
CLIP_TRAIN = Table(
    "clip_train",
    "What of CLIP is trained, and how fast (share of the base rate)?",
    tuple(
        Variant(f"{what}, {rate}", ("MODEL.CLIP.TRAIN", what, "SOLVER.CLIP_MULTIPLIER", rate))
        for what, rate in (
            ("none", "0.01"), ("attention", "0.01"), ("qv", "0.01"), ("attention", "0.1"),
        )
    ),
)  # fmt: skip
TEMPLATES = Table(
    "templates",
    "One template or 80?",
    (
        Variant("one"),
        Variant("80 at evaluation", test=("TEST.TEMPLATES", "imagenet")),
    ),
)
SLIDING = Table(
    "sliding",
    "The whole image, or sliding windows?",
    (
        Variant("whole"),
        Variant(
            "windows of 128 in 192",
            test=(
                "TEST.SLIDING.ENABLED",
                "True",
                "TEST.SLIDING.SIZE",
                "(192, 192)",
                "TEST.SLIDING.WINDOW",
                "(128, 128)",
            ),
        ),
    ),
)
MASK_SHARE = Table(
    "mask_share",
    "ClipThenSam: what share do SAM's masks have in a score?",
    tuple(
        Variant(share, test=("MODEL.META_ARCHITECTURE", "ClipThenSam", "MODEL.MASK_SHARE", share), is_trained=False)
        for share in ("0.0", "0.5", "0.7", "0.8", "0.9", "0.999")
    ),
)
_FEATURES = (("value", True), ("value", False), ("qk", True), ("qq", True), ("kk", True), ("kk", False))
DENSE = Table(
    "dense",
    "Which dense features of CLIP (alone: without the last residual and MLP)?",
    tuple(
        Variant(
            f"{model}: {kind}{'' if keep else ' alone'}",
            ("MODEL.CLIP.DENSE", kind, "MODEL.CLIP.DENSE_RESIDUAL", str(keep)),
            test=() if trained else ("MODEL.META_ARCHITECTURE", "DenseClip"),
            is_trained=trained,
        )
        for model, trained, features in (
            ("DenseClip", False, _FEATURES),
            ("ESC-Net", True, (("value", True), ("qk", True), ("kk", False))),
        )
        for kind, keep in features
    ),
)

TABLES = {
    table.name: table
    for table in (
        HEADLINE, SAM_BLOCK, SAM_BLOCK_WIDE, PASSES, MERGED, SAM_TRAIN, PROMPTS, OBJECTS, BLOCKS, MERGE, GUIDANCE,
        TRAIN_CLASSES, AUGMENTATION, AGGREGATION, MLP_RATIO, SMOOTHING, REGION, LOSS, AUX_LOSS, CLIP_TRAIN, TEMPLATES,
        SLIDING, MASK_SHARE, DENSE,
    )
}  # fmt: skip
