"""Instance segmentation from boxes: a promptable model draws the mask of each box (SAM-CLIP, sec. A.1, Table 1)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_masks
from torch import Tensor

from escnet.data.coco_instances import BoxPrompt, InstanceData, image_file
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError, read_image
from escnet.data.run_lengths import encode_mask
from escnet.data.stream import build_evaluation_loader
from escnet.evaluation.instance_results import InstanceResults, ObjectMask
from escnet.evaluation.loop import evaluation_mode
from escnet.evaluation.mask_ap import MaskAp, mask_average_precision
from escnet.evaluation.placement import Placement
from escnet.meta_arch.interfaces import PromptableModel, Prompts
from escnet.progress import progress_bar

SCORES = ("quality", "one")


@dataclass(frozen=True)
class BoxOptions:
    """How boxes are asked for.

    Attributes:
        padded: the image keeps its aspect ratio in the model's square, as with SAM itself; else both axes are scaled.
        score: of the mask of an annotated box: "quality", the IoU that the model expects, or "one". A detected box
            keeps the detector's.
        chunk: boxes at a time; changes speed and memory, never the result.
        num_workers: processes that read ahead.

    Raises:
        ValueError: an unknown score, or a chunk without boxes.
    """

    padded: bool = False
    score: str = "quality"
    chunk: int = 32
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {SCORES}, got {self.score!r}")
        if self.chunk < 1:
            raise ValueError(f"a chunk needs a box, got {self.chunk}")


@dataclass(frozen=True)
class InstanceScores:
    """How good the masks are.

    Attributes:
        ap: average precision.
        mean_iou: of the masks with the annotated ones, in 0..1; None for detected boxes.
        images, boxes: how many were asked for.
        unreadable: why each image that is left out could not be read, by file name; its objects count as missed.
    """

    ap: MaskAp
    mean_iou: float | None
    images: int
    boxes: int
    unreadable: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, without the classes."""
        return {
            **self.ap.scores,
            "mean_iou": self.mean_iou,
            "images": self.images,
            "boxes": self.boxes,
            "unreadable": len(self.unreadable),
            "library": self.ap.library,
            "protocol": self.ap.protocol,
        }


def evaluate_instances(
    model: PromptableModel,
    root: Path,
    data: InstanceData,
    boxes: Mapping[int, Sequence[BoxPrompt]] | None = None,
    options: BoxOptions | None = None,
    results: InstanceResults | None = None,
    library: str | None = None,
) -> InstanceScores:
    """Draw the masks of boxes and judge them.

    Args:
        model: on its device.
        root: folder of the images.
        data: the images and their annotated objects.
        boxes: by image; None for the annotated ones.
        options: how to ask.
        results: where the masks are kept, image by image; those that are there already are not drawn again. None to
            keep them in memory alone.
        library: that counts average precision, as of `mask_average_precision`.

    Raises:
        DatasetError: there is no box, an image is of another size than its entry says, or none can be read.
        ResultsError: the results are damaged.
        OSError: a result could not be written; those of earlier images stand.
    """
    options, results = options or BoxOptions(), results or InstanceResults(None)
    boxes = data.annotated_boxes() if boxes is None else boxes
    asked = [image for image in data.images if boxes[image["id"]]]
    if not asked:
        raise DatasetError(f"{data.path}: there is no box to ask for in {len(data.images)} images")
    done = results.images()
    missing = [image for image in asked if image["id"] not in done]
    unreadable: dict[str, str] = {}
    try:
        if missing:
            _draw_images(model, root, missing, boxes, data, options, results, unreadable)
    finally:
        results.close()
    if len(unreadable) == len(asked):
        raise DatasetError(f"{root}: not one of {len(asked)} images can be read: {next(iter(unreadable.values()))}")
    masks = list(results.masks())
    ious = [mask.iou for mask in masks if mask.iou is not None]
    ap = mask_average_precision(data, [mask.to_coco() for mask in masks], library)
    return InstanceScores(ap, float(np.mean(ious)) if ious else None, len(asked), len(masks), unreadable)


def _draw_images(
    model: PromptableModel,
    root: Path,
    images: Sequence[dict[str, Any]],
    boxes: Mapping[int, Sequence[BoxPrompt]],
    data: InstanceData,
    options: BoxOptions,
    results: InstanceResults,
    unreadable: dict[str, str],
) -> None:
    truth = {annotation["id"]: annotation["segmentation"] for annotation in data.annotations}
    loader = build_evaluation_loader(images, _Reader(root, data.path), options.num_workers)
    with evaluation_mode(model):
        for ((image, pixels),) in progress_bar(loader, total=len(images), desc="boxes", unit="image"):
            if isinstance(pixels, str):
                unreadable[image["file"]] = pixels
                continue
            start = time.perf_counter()
            prompts = boxes[image["id"]]
            drawn = draw_masks(
                model, torch.from_numpy(pixels).permute(2, 0, 1), [prompt.box for prompt in prompts], options
            )
            masks = [
                _object_mask(image["id"], prompt, mask, quality, truth, options.score)
                for prompt, (mask, quality) in zip(prompts, drawn, strict=True)
            ]
            results.add(image["id"], masks, time.perf_counter() - start)


@torch.no_grad()
def draw_masks(
    model: PromptableModel,
    pixels: Tensor,
    boxes: Sequence[tuple[float, float, float, float]],
    options: BoxOptions | None = None,
) -> Iterator[tuple[np.ndarray, float]]:
    """The mask of each box in an image.

    Args:
        model: on its device, in evaluation mode.
        pixels: (3, H, W) in 0..255.
        boxes: (x1, y1, x2, y2), edges in pixels of the image, whose left edge is at 0.
        options: how to ask.

    Yields:
        An (H, W) bool array and the IoU that the model expects of it.

    Raises:
        ValueError: the model gives numbers that are not finite.
    """
    options = options or BoxOptions()
    lies = Placement.padded if options.padded else Placement.stretched
    placement = lies(tuple(pixels.shape[-2:]), model.input_size)
    features, device = model.encode(placement.place(pixels)), next(model.parameters()).device
    for some in torch.tensor(boxes, dtype=torch.float32, device=device).split(options.chunk):
        answer = model.masks(features, Prompts.from_boxes(placement.boxes(some)))
        if not answer.quality.isfinite().all():
            raise ValueError("the model gave numbers that are not finite; check its weights and MODEL.PRECISION")
        masks = placement.masks(answer.likeliest().float()).cpu().numpy()
        yield from zip(masks, answer.quality.amax(dim=1).tolist(), strict=True)


class _Reader:
    """Reads the image of an entry as (H, W, 3) uint8, or says why it cannot; called in other processes, too.

    Arrays, as a tensor on its way between two processes makes the first one complain when the second is stopped.
    """

    def __init__(self, root: Path, annotations: Path) -> None:
        self._root, self._annotations = root, annotations

    def __call__(self, image: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | str]:
        path = image_file(self._root, image)
        try:
            pixels = read_image(path)
        except ImageError as error:
            return image, str(error)
        size = (image["height"], image["width"])
        if pixels.shape[:2] != size:
            raise DatasetError(
                f"{path}: is {pixels.shape[0]}x{pixels.shape[1]}, but {self._annotations} says {size[0]}x{size[1]}; "
                "take the images that were annotated"
            )
        return image, pixels


def _object_mask(
    image: int, prompt: BoxPrompt, mask: np.ndarray, quality: float, truth: Mapping[int, dict[str, Any]], score: str
) -> ObjectMask:
    rle, iou = encode_mask(mask), None
    value = prompt.score
    if value is None:
        value = quality if score == "quality" else 1.0
    if prompt.annotation is not None:
        iou = float(coco_masks.iou([rle], [truth[prompt.annotation]], [0])[0, 0])
    return ObjectMask(image, prompt.category, rle, value, iou)
