"""Masks of a segmentation as COCO says them: run lengths, exact to the pixel, with scores as COCO's results have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from escnet.annotations.label_runs import RunMask
from escnet.annotations.labelled_image import LabelledImage, LabelMask
from escnet.data.coco_writing import image_entry, object_entry, object_entry_of_runs
from escnet.data.run_lengths import compress_runs

# As in COCO's own files; to some readers, 0 is the background.
FIRST_CATEGORY = 1


def to_coco(
    image: LabelledImage, file_name: str | None, image_id: int, objects: bool = False, background: bool = False
) -> dict[str, Any]:
    """An image and its masks in COCO's format; see `SegmentationResult.to_coco`."""
    masks = image.object_masks(background) if objects else image.class_masks(background)
    height, width = image.labels.shape
    return {
        "images": [image_entry(image_id, file_name or "", (height, width))],
        "annotations": annotations(masks, image_id),
        "categories": categories([image.class_names[i] for i in image.class_ids(background)]),
    }


def annotations(masks: Iterable[LabelMask], image_id: int, first_id: int = 1) -> list[dict[str, Any]]:
    """The entries of the masks of an image, numbered from `first_id` on."""
    return [
        {
            "id": number,
            **object_entry(mask.mask, image_id, mask.class_id + FIRST_CATEGORY),
            "score": mask.score,
        }
        for number, mask in enumerate(masks, start=first_id)
    ]


def run_annotations(
    masks: Iterable[RunMask], size: tuple[int, int], scores: np.ndarray, image_id: int, first_id: int = 1
) -> Iterator[dict[str, Any]]:
    """The entries of the masks of an image that is too large for memory; the same as those of `annotations`.

    Args:
        masks: of `LabelRuns`.
        size: (H, W) of the image.
        scores: (N,) the mean probability of each class.
        image_id: its id.
        first_id: from which on the entries are numbered.
    """
    for number, mask in enumerate(masks, start=first_id):
        entry = object_entry_of_runs(
            compress_runs(mask.runs, size), mask.box, mask.area, image_id, mask.class_id + FIRST_CATEGORY
        )
        yield {"id": number, **entry, "score": float(scores[mask.class_id])}


def categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of the classes of these names."""
    return [{"id": number, "name": name} for number, name in enumerate(names, start=FIRST_CATEGORY)]
