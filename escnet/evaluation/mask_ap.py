"""Average precision of masks, as COCO and LVIS define it: by pycocotools or, faster and equal, by faster-coco-eval."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from escnet.data.coco_instances import InstanceData

PYCOCOTOOLS, FASTER = LIBRARIES = ("pycocotools", "faster-coco-eval")
# Masks of an image that count, those of the highest score: of each class in COCO, of all classes in LVIS.
COCO_MASKS, LVIS_MASKS = 100, 300
# Places of the IoU thresholds 0.5 and 0.75, and of the ranges of area.
_IOU_50, _IOU_75 = 0, 5
_AREAS = {"APs": 1, "APm": 2, "APl": 3}
_FREQUENCIES = {"APr": "r", "APc": "c", "APf": "f"}
# What both libraries put where no object counts.
_ABSENT = -1.0
Result = dict[str, Any]


class ClassAp(NamedTuple):
    """Average precision of one class in 0..1; None where it has no object."""

    id: int
    name: str
    ap: float | None


@dataclass(frozen=True)
class MaskAp:
    """Average precision in 0..1; None where no object counts.

    Attributes:
        scores: AP, AP50, AP75, APs, APm, APl; of LVIS also APr, APc, APf, of rare, common and frequent classes.
        classes: AP of each class.
        library: that counted.
        protocol: "COCO" or "LVIS".
    """

    scores: dict[str, float | None]
    classes: tuple[ClassAp, ...]
    library: str
    protocol: str


def choose_library(wanted: str | None = None) -> str:
    """The library that counts: the wanted one, else faster-coco-eval where it is installed, else pycocotools.

    Raises:
        ValueError: it is unknown, or not installed.
    """
    is_fast = importlib.util.find_spec("faster_coco_eval") is not None
    if wanted is None:
        return FASTER if is_fast else PYCOCOTOOLS
    if wanted not in LIBRARIES:
        raise ValueError(f"there is no library {wanted}; choose of {', '.join(LIBRARIES)}")
    if wanted == FASTER and not is_fast:
        raise ValueError("faster-coco-eval is not installed; install escnet[fast-eval], or take pycocotools")
    return wanted


def mask_average_precision(data: InstanceData, results: Sequence[Result], library: str | None = None) -> MaskAp:
    """Judge masks by the annotated objects.

    LVIS's files are judged as its authors do (Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance
    Segmentation", sec. 3): a mask counts only in images where its class is marked, or was looked for in vain; one that
    no object fits is no error where not all objects of its class are marked.

    Args:
        data: the objects.
        results: COCO's format, each with image_id, category_id, segmentation (compressed run lengths) and score.
        library: one of `LIBRARIES`; by default the fastest that is there.

    Raises:
        ValueError: the library is unknown or not installed.
    """
    library = choose_library(library)
    counted = _counted_by_lvis(data, results) if data.is_lvis else results
    precision = (_precision_fast if library == FASTER else _precision)(data, counted)
    scores = {"AP": precision[..., 0], "AP50": precision[_IOU_50, ..., 0], "AP75": precision[_IOU_75, ..., 0]}
    scores |= {name: precision[..., place] for name, place in _AREAS.items()}
    if data.is_lvis:
        frequencies = np.array([category["frequency"] for category in data.categories])
        scores |= {name: precision[:, :, frequencies == f, 0] for name, f in _FREQUENCIES.items()}
    classes = (
        ClassAp(category["id"], category["name"], _mean(precision[:, :, row, 0]))
        for row, category in enumerate(data.categories)
    )
    protocol = "LVIS" if data.is_lvis else "COCO"
    return MaskAp({name: _mean(values) for name, values in scores.items()}, tuple(classes), library, protocol)


class _LvisEval(COCOeval):
    """COCO's evaluation for images of which some classes are not marked completely.

    Args:
        truth, results: as of COCOeval.
        incomplete: the ids of those classes by image.
    """

    def __init__(self, truth: COCO, results: COCO, incomplete: dict[int, set[int]]) -> None:
        super().__init__(truth, results, "segm")
        self._incomplete = incomplete

    def evaluateImg(self, imgId: int, catId: int, aRng: Sequence[float], maxDet: int) -> dict[str, Any] | None:
        """The matches of one image and class; there, a mask that no object fits is ignored."""
        found = super().evaluateImg(imgId, catId, aRng, maxDet)
        if found is not None and catId in self._incomplete[imgId]:
            found["dtIgnore"] = np.logical_or(found["dtIgnore"], found["dtMatches"] == 0)
        return found


def _precision(data: InstanceData, results: Sequence[Result]) -> np.ndarray:
    """(IoU thresholds, recalls, classes, areas) by pycocotools.

    One class at a time and with its images alone, which gives the same numbers: all pairs of LVIS's images and classes
    would fill the memory.
    """
    images: dict[int, set[int]] = defaultdict(set)
    for entry in (*data.annotations, *results):
        images[entry["category_id"]].add(entry["image_id"])
    incomplete = {image["id"]: set(image.get("not_exhaustive_category_ids", ())) for image in data.images}
    with redirect_stdout(StringIO()):
        truth, found = _index(COCO(), data, data.annotations), _index(COCO(), data, _with_areas(results))
        parts = []
        for category in data.categories:
            judge = _LvisEval(truth, found, incomplete) if data.is_lvis else COCOeval(truth, found, "segm")
            judge.params.maxDets = [LVIS_MASKS if data.is_lvis else COCO_MASKS]
            judge.params.catIds, judge.params.imgIds = [category["id"]], sorted(images[category["id"]])
            if not judge.params.imgIds:
                shape = (len(judge.params.iouThrs), len(judge.params.recThrs), 1, len(judge.params.areaRng))
                parts.append(np.full(shape, _ABSENT))
                continue
            judge.evaluate()
            judge.accumulate()
            parts.append(judge.eval["precision"][..., 0])
    return np.concatenate(parts, axis=2)


def _precision_fast(data: InstanceData, results: Sequence[Result]) -> np.ndarray:
    """(IoU thresholds, recalls, classes, areas) by faster-coco-eval."""
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    truth, found = (_contents(data, entries) for entries in (data.annotations, _with_areas(results)))
    judge = COCOeval_faster(FasterCOCO(truth), FasterCOCO(found), "segm", lvis_style=data.is_lvis)
    judge.params.maxDets = [LVIS_MASKS if data.is_lvis else COCO_MASKS]
    judge.evaluate()
    judge.accumulate()
    precision = np.asarray(judge.eval["precision"])
    precision = precision.reshape(len(judge.params.iouThrs), len(judge.params.recThrs), len(data.categories), -1)
    # The library sorts classes by id.
    ids = [category["id"] for category in data.categories]
    return precision[:, :, np.argsort(np.argsort(ids))]


def _index(coco: COCO, data: InstanceData, entries: Iterable[Result]) -> COCO:
    coco.dataset = _contents(data, entries)
    coco.createIndex()
    return coco


def _contents(data: InstanceData, entries: Iterable[Result]) -> dict[str, Any]:
    # Copies, since both libraries add to the entries.
    return {
        "images": [dict(image) for image in data.images],
        "categories": [dict(category) for category in data.categories],
        "annotations": [dict(entry) for entry in entries],
    }


def _with_areas(results: Sequence[Result]) -> list[Result]:
    """Results as both libraries would read them from a file."""
    return [
        result
        | {
            "id": number,
            "iscrowd": 0,
            "area": float(coco_masks.area(result["segmentation"])),
            "bbox": coco_masks.toBbox(result["segmentation"]).tolist(),
        }
        for number, result in enumerate(results, start=1)
    ]


def _counted_by_lvis(data: InstanceData, results: Sequence[Result]) -> list[Result]:
    """The best masks of each image, and of these the ones whose class was looked for in it."""
    of_image: dict[int, list[Result]] = defaultdict(list)
    for result in results:
        of_image[result["image_id"]].append(result)
    sought = {image["id"]: set(image["neg_category_ids"]) for image in data.images}
    for annotation in data.annotations:
        sought[annotation["image_id"]].add(annotation["category_id"])
    best = (sorted(some, key=lambda result: -result["score"])[:LVIS_MASKS] for some in of_image.values())
    return [result for some in best for result in some if result["category_id"] in sought[result["image_id"]]]


def _mean(precision: np.ndarray) -> float | None:
    counted = precision[precision > _ABSENT]
    return float(counted.mean()) if counted.size else None
