"""The masks of an image in SA-1B's layout: some of them drawn, decoded and shrunk."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from escnet.data.run_lengths import parse_run_lengths
from escnet.data.shards.accounting import UnusableSampleError
from escnet.data.shards.shrinking import shrink_masks


def read_annotations(data: bytes | None) -> list[Any]:
    """The annotations in SA-1B's JSON: {"image": {...}, "annotations": [{"segmentation": run lengths, ...}, ...]}.

    Raises:
        UnusableSampleError: there are none, or it is no such JSON.
    """
    if data is None:
        raise UnusableSampleError("has no masks: no JSON of its key is in the shard")
    try:
        content = json.loads(data)
    # Deep nesting ends in a RecursionError.
    except (ValueError, RecursionError) as error:
        raise UnusableSampleError(f"its JSON is damaged ({error})") from error
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise UnusableSampleError('its JSON has no list of "annotations"')
    if not annotations:
        raise UnusableSampleError("has no masks: its JSON lists none")
    return annotations


def read_masks(data: bytes | None, size: tuple[int, int]) -> list[np.ndarray]:
    """The checked run lengths of all masks of an image, at least one.

    Args:
        data: as for `read_annotations`.
        size: (height, width) of the image as stored, which every mask must have.

    Raises:
        UnusableSampleError: there are none, or one does not fit the image or is damaged.
    """
    masks = []
    for annotation in read_annotations(data):
        if not isinstance(annotation, dict) or "segmentation" not in annotation:
            raise UnusableSampleError("one of its annotations has no segmentation")
        try:
            masks.append(parse_run_lengths(annotation["segmentation"], size))
        except ValueError as error:
            raise UnusableSampleError(str(error)) from error
    return masks


def draw_masks(
    masks: list[np.ndarray], size: tuple[int, int], mask_size: int, count: int, generator: np.random.RandomState
) -> Tensor:
    """Draw some of the masks of an image, each once; if there are fewer, all of them, and some of them again.

    Masks that vanish when they are shrunk are not drawn.

    Args:
        masks: from `read_masks`.
        size: (height, width) of the image as stored.
        mask_size: side of the square to which masks are brought.
        count: number of masks to be drawn.
        generator: decides which, and in which order.

    Returns:
        (count,mask_size,mask_size) bool, none of them empty.

    Raises:
        UnusableSampleError: all vanish.
    """
    drawn = torch.zeros(0, mask_size, mask_size, dtype=torch.bool)
    order = generator.permutation(len(masks))
    while len(drawn) < count and len(order):
        # What is still missing, and no more than that, since most masks do not vanish.
        chosen, order = np.split(order, [count - len(drawn)])
        shrunk = shrink_masks([masks[number] for number in chosen], size, (mask_size, mask_size))
        drawn = torch.cat([drawn, shrunk[shrunk.flatten(1).any(dim=1)]])
    if not len(drawn):
        raise UnusableSampleError(f"none of its {len(masks)} masks has a pixel left at {mask_size}x{mask_size}")
    again = torch.from_numpy(generator.randint(len(drawn), size=count - len(drawn)))
    return torch.cat([drawn, drawn[again]])
