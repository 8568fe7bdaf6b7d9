"""The classes that mIoU is the mean of, where these are not all: the others only compete with them for the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

# First id and end of the scored classes; None: all are.
ScoredClasses = tuple[int, int] | None


def scored_classes(bounds: Sequence[int] | None, num_classes: int) -> ScoredClasses:
    """Check which of N classes are scored.

    Args:
        bounds: first id and end, as a dataset's `scored_classes` says; None for all.
        num_classes: N.

    Returns:
        The bounds; None for all classes, also where the bounds spell them out.

    Raises:
        ValueError: the bounds are not two whole numbers, hold no class, or ids that are none.
    """
    if bounds is None:
        return None
    bounds = tuple(bounds)
    whole = len(bounds) == 2 and all(isinstance(bound, Integral) for bound in bounds)
    if not (whole and 0 <= bounds[0] < bounds[1] <= num_classes):
        raise ValueError(
            f"the scored classes are {bounds}, but of {num_classes} classes they have to be (first id, end) "
            f"with 0 <= first id < end <= {num_classes}, or None for all"
        )
    first, end = map(int, bounds)
    return None if (first, end) == (0, num_classes) else (first, end)


def is_scored(ids: np.ndarray | int, scored: ScoredClasses) -> np.ndarray | bool:
    """Which of the class ids, one or an array of any shape, are scored."""
    first, end = scored or (0, np.inf)
    return (first <= ids) & (ids < end)


def scored_words(scored: tuple[int, int], num_classes: int) -> str:
    """``40 of 52 classes (ids 12..51)``."""
    first, end = scored
    return f"{end - first} of {num_classes} classes (ids {first}..{end - 1})"
