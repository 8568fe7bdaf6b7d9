"""What the paper of SAM-CLIP claims or leaves open, as tables of experiments on MojiScenes."""

from __future__ import annotations

from escnet.miniature.examination import FOLDERS
from escnet.miniature.experiments import Options
from escnet.miniature.judging import SIZES
from escnet.miniature.replay import SMALLER
from escnet.miniature.sam_clip_experiments import Chain
from escnet.miniature.sam_clip_merging import Average
from escnet.miniature.sam_clip_tables import LabelMap, Question

ALL_STAGES = Chain("stages 1, 2, 3", stage3=())
_BOTH = ("MODEL.SAM_CLIP.LABEL_MAP", "both")
_MAPS = (
    *(LabelMap(f"CLIP head {size}", ("MODEL.SAM_CLIP.IMAGE_SIZE", f"({size}, {size})")) for size in (64, 96, 128)),
    LabelMap("both 128", _BOTH),
)
_NO_SAM = ("DISTILL.SAM.SHARDS", "()")
# The losses of the paper; in stage 2 with its weight, and its rate for what SAM brought.
_PAPER = ("DISTILL.BALANCE", "none", "DISTILL.CLIP.DENSE_WEIGHT", "0")
_PAPER_BOTH = (*_PAPER, "DISTILL.SAM.WEIGHT", "10.0", "SOLVER.SAM_MULTIPLIER", "0.1")
# For questions of more or less: a fifth of the iterations.
_SHORT_1, _SHORT_2 = ("SOLVER.MAX_ITER", "150"), ("SOLVER.MAX_ITER", "300")


def _short(name: str, stage1: Options = (), stage2: Options = ()) -> Chain:
    return Chain(name, (*_SHORT_1, *stage1), (*_SHORT_2, *stage2))


def _rows(key: str, values: dict[str, str]) -> tuple[Chain, ...]:
    return tuple(_short(name, stage2=(key, value)) for name, value in values.items())


def _sets(name: str, folder: str, teachers: tuple[str, ...]) -> Chain:
    shards = {teacher: (f"DISTILL.{teacher}.SHARDS", f'("{folder}/{teacher.lower()}",)') for teacher in teachers}
    return _short(name, shards.get("CLIP", ()), tuple(option for pair in shards.values() for option in pair))


HEADLINE = Question(
    "headline",
    "What does the merged model keep of CLIP and SAM, and do both heads draw better label maps than one?",
    (Chain("stages 1, 2"), ALL_STAGES),
    SIZES,
    maps=_MAPS,
)
_FORGETTING = Chain("without", stage2=_NO_SAM)
REPLAY = Question(
    "replay",
    "Does it forget SAM without SAM's pictures?",
    (Chain("with SAM's pictures"), _FORGETTING),
)
MERGING = Question(
    "merging",
    "Is there an average of SAM and of a SAM that CLIP taught that has both?",
    (
        Chain("distilled from both"),
        *(Average(f"α = {alpha:g}", _FORGETTING, alpha) for alpha in (0, 0.2, 0.4, 0.6, 0.8, 1)),
        *(Average(f"by importance, α = {alpha:g}", _FORGETTING, alpha, True) for alpha in (0.4, 0.8)),
    ),
    (96, 128),
)
MODES = Question(
    "modes",
    "Does the model switch modes with the size of the picture, and do both teachers at both sizes cure it?",
    tuple(
        Chain(name, stage2=("DISTILL.CLIP.SIZES", clip_sizes, "DISTILL.SAM.SIZES", sam_sizes))
        for name, clip_sizes, sam_sizes in (
            ("CLIP at 64 and 96, SAM at 128 (as the paper)", "(64, 96)", "(128,)"),
            ("both at 64, 96, 128", "(64, 96, 128)", "(64, 96, 128)"),
        )
    ),
    SIZES,
)
DOMAINS = Question(
    "domains",
    "What does it keep on pictures of another world? (The photographs lie below the data root: "
    "python datasets/prepare_regions.py --dataset camvid_val camvid_train --output datasets/photographs)",
    (ALL_STAGES,),
    examinations=(*FOLDERS.items(), ("photographs", "photographs")),
)
REFINEMENT = Question(
    "refinement",
    "Which words are asked of the SAM head, with how many points, and what say have its masks?",
    (ALL_STAGES,),
    (),
    maps=(
        LabelMap("CLIP head alone", ()),
        *(
            LabelMap(f"both, {key.rpartition('.')[2]} {value}", (*_BOTH, key, value))
            for key, values in (
                ("MODEL.SAM_CLIP.SCORE", ("0.1", "0.3", "0.5", "0.7")),
                ("MODEL.SAM_CLIP.POINTS", ("1",)),
                ("MODEL.MASK_SHARE", ("0.5", "0.7", "0.9", "0.999")),
            )
            for value in values
        ),
    ),
)
BALANCE = Question(
    "balance",
    "How are the teachers balanced?",
    (
        _short("none (paper)", _PAPER, _PAPER_BOTH),
        _short("PHI-S, features of images alone", *[("DISTILL.CLIP.DENSE_WEIGHT", "0")] * 2),
        _short("PHI-S"),
        _short("angle", *[("DISTILL.BALANCE", "angle")] * 2),
    ),
    maps=_MAPS[-2:],
)
LAMBDA = Question(
    "lambda",
    "Which weight of SAM's loss (paper, of its masks: 1 forgets SAM, 100 blocks CLIP)?",
    _rows("DISTILL.SAM.WEIGHT", {"0.03": "0.03", "0.3": "0.3", "3": "3.0"}),
)
RATIO = Question(
    "ratio",
    "How many of SAM's pictures in a step?",
    _rows("DISTILL.SAM.BATCH_SIZE", {"1": "1", "2": "2", "4": "4"}),
)
RATE = Question(
    "rate",
    "How much more slowly does learn what SAM brought (paper: a tenth)?",
    _rows("SOLVER.SAM_MULTIPLIER", {"0.1": "0.1", "0.3": "0.3", "1": "1.0"}),
)
POOLING = Question(
    "pooling",
    "How is the feature of an image read off its cells?",
    tuple(_short(name, *[("MODEL.SAM_CLIP.POOLING", name)] * 2) for name in ("max", "mean")),
)
SETS = Question(
    "sets",
    "How many pictures does it take?",
    (
        _short("all"),
        *(
            _sets(f"{share} of {whose}", folder, teachers)
            for share, folder in SMALLER.items()
            for whose, teachers in (("SAM's", ("SAM",)), ("CLIP's", ("CLIP",)))
        ),
    ),
)
QUESTIONS = {
    question.name: question
    for question in (
        HEADLINE, REPLAY, MERGING, MODES, DOMAINS, REFINEMENT, BALANCE, LAMBDA, RATIO, RATE, POOLING, SETS,
    )
}  # fmt: skip
