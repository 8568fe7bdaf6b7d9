"""From an image's features and words to logits, by exported graphs: which words are kept, asked for, and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
# The logit of a mask that is nowhere.
NOWHERE = -1e4


@dataclass(frozen=True)
class Choice:
    """How words are narrowed; 0 leaves a step out.

    Attributes:
        most: words that CLIP's maps rank highest, so many.
        keep: of these, after a first pass, those that it ranks highest, so many.
        keep_share: of these again, those alone whose share of some region is at least this.
        keep_least: but so many of the first pass's best in any case.
        ask_above: SAM is asked for words with a probability above this in some cell; None: for all.
        draw_at_once: words that are drawn at a time; 0 for all.
    """

    most: int = 0
    keep: int = 0
    keep_share: float = 0.0
    keep_least: int = 1
    ask_above: float | None = None
    draw_at_once: int = 0


def segment(
    graphs: Mapping[str, Callable[[Arrays], Arrays]], choice: Choice, features: Arrays, text: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Segment by the words that are kept: the most likely by CLIP's maps, then by a first pass.

    Args:
        graphs: by name.
        choice: of words.
        features: of one image, by name, and what else graphs ask for.
        text: (N, D) of the words.

    Returns:
        (M, H', W') logits and (M,) the rows of the vocabulary that they belong to.
    """
    rows = np.arange(len(text))
    if 0 < choice.most < len(rows):
        shares = graphs["rank"](features | {"text": text})["shares"][0]
        rows = rows[highest(shares, choice.most)]
    if 0 < choice.keep < len(rows):
        # A first pass by graphs of its own, or a whole one.
        first = graphs["first"] if "first" in graphs else graphs["segment"]
        shares = first(features | {"text": text[rows]})["shares"][0]
        number = choice.keep
        if choice.keep_share > 0:
            number = int(np.clip((shares >= choice.keep_share).sum(), choice.keep_least, number))
        rows = rows[highest(shares, number)]
    given = features | {"text": text[rows]}
    if "draw" in graphs:
        given |= _drawn(graphs, choice, given)
    return graphs["segment"](given)["logits"][0], rows


def highest(shares: np.ndarray, number: int) -> np.ndarray:
    """The places of the highest shares, so many, in order; the first of equals."""
    return np.sort(np.argsort(-shares, kind="stable")[:number])


def _drawn(graphs: Mapping[str, Callable[[Arrays], Arrays]], choice: Choice, given: Arrays) -> Arrays:
    """The masks that SAM draws: of which words (K,), mask logits (K, H, W) and their quality (K,)."""
    asked = np.arange(len(given["text"]))
    if choice.ask_above is not None:
        asked = np.flatnonzero(graphs["ask"](given)["shares"][0] > choice.ask_above)
    is_empty = not len(asked)
    # Of no word a graph has no masks: one is drawn that is nowhere.
    asked = asked if len(asked) else np.zeros(1, dtype=np.int64)
    step = choice.draw_at_once or len(asked)
    drawn = [graphs["draw"](given | {"asked": asked[i : i + step]}) for i in range(0, len(asked), step)]
    masks, quality = (np.concatenate([part[name] for part in drawn]) for name in ("masks", "quality"))
    return {"asked": asked, "masks": np.full_like(masks, NOWHERE) if is_empty else masks, "quality": quality}
