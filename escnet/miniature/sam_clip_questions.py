"""What the paper of SAM-CLIP claims or leaves open, as tables of experiments on MojiScenes."""

from __future__ import annotations

from escnet.miniature.judging import SIZES
from escnet.miniature.sam_clip_experiments import Chain, Question

_NO_SAM = ("DISTILL.SAM.SHARDS", "()")
# The losses of the paper; in stage 2 with its weight, and its rate for what SAM brought.
_PAPER = ("DISTILL.BALANCE", "none", "DISTILL.CLIP.DENSE_WEIGHT", "0")
_PAPER_BOTH = (*_PAPER, "DISTILL.SAM.WEIGHT", "10.0", "SOLVER.SAM_MULTIPLIER", "0.1")


def _rows(key: str, values: dict[str, str]) -> tuple[Chain, ...]:
    return tuple(Chain(name, stage2=(key, value)) for name, value in values.items())


HEADLINE = Question(
    "headline",
    "What does the merged model keep of CLIP and SAM, and do both heads draw better label maps than one?",
    (Chain("stages 1, 2"), Chain("stages 1, 2, 3", stage3=())),
    SIZES,
)
REPLAY = Question(
    "replay",
    "Does it forget SAM without SAM's pictures?",
    (Chain("all"), Chain("without SAM's pictures", stage2=_NO_SAM)),
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
    tuple(Chain(name, *[("MODEL.SAM_CLIP.POOLING", name)] * 2) for name in ("max", "mean")),
)
BALANCE = Question(
    "balance",
    "How are the teachers balanced?",
    (
        Chain("none (paper)", stage1=_PAPER, stage2=_PAPER_BOTH),
        Chain("PHI-S"),
        Chain("angle", *[("DISTILL.BALANCE", "angle")] * 2),
    ),
)
MODES = Question(
    "modes",
    "Does the model switch modes with the size of the picture, and do both teachers at both sizes cure it?",
    (
        Chain("CLIP at 64 and 96, SAM at 128 (as the paper)"),
        Chain(
            "both at 64, 96, 128",
            stage2=("DISTILL.CLIP.SIZES", "(64, 96, 128)", "DISTILL.SAM.SIZES", "(64, 96, 128)"),
        ),
    ),
    SIZES,
)
QUESTIONS = {question.name: question for question in (HEADLINE, REPLAY, LAMBDA, RATIO, RATE, POOLING, BALANCE, MODES)}
