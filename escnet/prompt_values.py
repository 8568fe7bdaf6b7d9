"""Points, labels, boxes and masks as users write them, checked: each becomes plain numbers, an array or a path."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

Number = int | float


class PromptError(ValueError):
    """Prompts that cannot be used; the message names the word, the value and the remedy."""


def as_points(given: Any) -> tuple[tuple[Number, Number], ...]:
    """(x, y) of each point, from a list of pairs, or an array or tensor (n, 2).

    Raises:
        PromptError: it is something else, or holds what is no finite number.
    """
    points = _listed(given)
    wrong = [given] if points is None else [point for point in points if _numbers(point, 2) is None]
    if wrong:
        raise PromptError(f"points has {shown(wrong[0])}; give a list of (x, y), finite numbers, such as [(120, 80)]")
    return tuple(_numbers(point, 2) for point in points)


def as_labels(given: Any, count: int) -> tuple[int, ...]:
    """1 or 0 for each of so many points, all 1 for None.

    Raises:
        PromptError: there are more or fewer, or others.
    """
    if given is None:
        return (1,) * count
    labels = _listed(given)
    wrong = [given] if labels is None else [x for x in labels if not isinstance(x, int | float) or x not in (0, 1)]
    if wrong:
        raise PromptError(f"labels has {shown(wrong[0])}; give a list with 1 for each point on the object, else 0")
    if len(labels) != count:
        raise PromptError(f"labels has {len(labels)} of them, points {count}; give one label for each point")
    return tuple(int(label) for label in labels)


def as_box(given: Any) -> tuple[Number, ...] | None:
    """(x1, y1, x2, y2) of four numbers, None of None.

    Raises:
        PromptError: it is something else, or has no area.
    """
    if given is None:
        return None
    box = _numbers(given, 4)
    if box is None:
        raise PromptError(f"box is {shown(given)}; give (x1, y1, x2, y2), finite numbers, such as (90, 40, 200, 160)")
    for axis, first, last in (("x", box[0], box[2]), ("y", box[1], box[3])):
        if last <= first:
            raise PromptError(
                f"the box {box_text(box)} has {axis}2 = {last:g}, which has to be above {axis}1 = {first:g}; give "
                "(x1, y1, x2, y2), two corners, not a corner and a size"
            )
    return box


def as_mask(given: Any) -> np.ndarray | Path | None:
    """(H, W) bool of an array or tensor, or the path of a picture; None of None.

    Raises:
        PromptError: it is something else, or empty. A file is not looked at.
    """
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return Path(os.path.expanduser(given))
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "biu":
        what = f"of the shape {array.shape} and type {array.dtype}" if isinstance(array, np.ndarray) else shown(given)
        raise PromptError(f"the mask is {what}; give an array (H, W) of bool, such as scores > 0.5, or a file's path")
    if not array.any():
        raise PromptError("the mask is empty; mark the pixels of the object, or leave the mask out")
    return array != 0


def box_text(box: Sequence[Number]) -> str:
    """``(90, 40, 200, 160)``"""
    return f"({', '.join(f'{edge:g}' for edge in box)})"


def shown(value: Any) -> str:
    """A value in a message, cut short."""
    return reprlib.repr(value)


def _listed(value: Any) -> list[Any] | None:
    """The items of a list, array or tensor, numbers as Python's own; None of anything else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple):
        return None
    return [x.item() if isinstance(x, np.generic | Tensor) and x.ndim == 0 else x for x in value]


def _numbers(value: Any, count: int) -> tuple[Number, ...] | None:
    """So many finite numbers; None of anything else."""
    items = _listed(value)
    if items is None or len(items) != count:
        return None
    if any(isinstance(x, bool) or not isinstance(x, int | float) or not abs(x) < np.inf for x in items):
        return None
    return tuple(items)
