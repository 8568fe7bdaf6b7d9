"""Annotations as Label Studio exports them in JSON: polygons and rectangles in percent, brushed masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from escnet.data.errors import DatasetError
from escnet.data.folder import IMAGE_SUFFIXES
from escnet.data.json_files import read_json_file
from escnet.data.preparation.own_annotations.annotated import AnnotatedImage, AnnotationSet, Region, counted
from escnet.data.preparation.own_annotations.shapes import BrushRuns, Polygon, Shape, Size, rectangle

_EXPORT = "export it from Label Studio as 'JSON', not as 'JSON-MIN'"
# Of a result's type, the geometry: "polygonlabels" and "polygon" are both outlines.
_KINDS = ("polygon", "rectangle", "brush")
_LABELS = "labels"


@dataclass
class _Doubts:
    """What is counted while tasks are read."""

    unfinished: int = 0
    several: int = 0
    unnamed: int = 0
    ambiguous: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def warnings(self) -> list[str]:
        """A line for each."""
        numbers = {
            "tasks without an annotation are left out": self.unfinished,
            "tasks have annotations of several people, of which the first is taken": self.several,
            "regions without a label are left out": self.unnamed,
            "regions have several labels, of which the first is taken": self.ambiguous,
        }
        found = [f"{number} {text}" for text, number in numbers.items() if number]
        kinds = counted(self.left_out)
        return found + ([f"{sum(self.left_out.values())} results of no region are left out: {kinds}"] if kinds else [])


def read_label_studio(path: Path) -> AnnotationSet:
    """Read an export of Label Studio. Classes stand in the order of the alphabet; a later region lies on top.

    Raises:
        DatasetError: it cannot be read, is another export, or a task or region lacks something.
    """
    tasks = read_json_file(path, "tasks of Label Studio")
    if not isinstance(tasks, list) or not tasks:
        raise DatasetError(f"{path}: is no list of tasks; {_EXPORT}")
    doubts = _Doubts()
    images = tuple(image for task in tasks if (image := _task(path, task, doubts)) is not None)
    names = sorted({region.label for image in images for region in image.regions})
    if not names:
        raise DatasetError(f"{path}: no task has a region with a label, polygon, rectangle or brush; {_EXPORT}")
    return AnnotationSet(path, (path,), tuple(names), images, tuple(doubts.warnings()))


def photograph_name(address: str) -> str:
    """The path that an address of a photograph means: of an upload, of a local file, or of a store elsewhere."""
    parts = urlsplit(address.replace("\\", "/"))
    local = parse_qs(parts.query).get("d") if parts.path.rstrip("/").endswith("local-files") else None
    # parse_qs has undone the encoding of what it gives.
    return local[0] if local else unquote(parts.path)


def _task(path: Path, task: Any, doubts: _Doubts) -> AnnotatedImage | None:
    """The image of a task, None if nobody has annotated it."""
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise DatasetError(f"{path}: an entry has no 'data', as tasks have; {_EXPORT}")
    place = f"task {task.get('id')}"
    annotations = task.get("annotations", task.get("completions"))
    if annotations is None and task.get("predictions"):
        raise DatasetError(f"{path}: {place} has predictions alone; accept or correct them in Label Studio first")
    if not isinstance(annotations, list):
        raise DatasetError(f"{path}: {place} has no list 'annotations'; {_EXPORT}")
    finished = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if not finished:
        doubts.unfinished += 1
        return None
    doubts.several += len(finished) > 1
    results = finished[0].get("result")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise DatasetError(f"{path}: {place} has an annotation without 'result'; {_EXPORT}")
    size = _size(path, place, results)
    regions = _regions(path, place, results, size, doubts)
    return AnnotatedImage(photograph_name(_address(path, place, task["data"])), place, size, tuple(regions))


def _address(path: Path, place: str, data: dict[str, Any]) -> str:
    """Where the photograph of a task is said to be."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    if "image" in texts:
        return texts["image"]
    found = [text for text in texts.values() if PurePosixPath(photograph_name(text)).suffix.lower() in IMAGE_SUFFIXES]
    if len(found) != 1:
        raise DatasetError(
            f"{path}: {place} has {len(found)} addresses of photographs in 'data'; it has to have one, 'image'"
        )
    return found[0]


def _size(path: Path, place: str, results: list[dict[str, Any]]) -> Size | None:
    """The (height, width) that the results of a task state."""
    if any(result.get("image_rotation") for result in results):
        raise DatasetError(
            f"{path}: {place} was annotated on a picture that was rotated in Label Studio, where regions cannot be "
            f"placed without doubt; rotate it back there, look at its regions, and export again"
        )
    sizes = {
        (result["original_height"], result["original_width"])
        for result in results
        if "original_height" in result and "original_width" in result
    }
    if len(sizes) > 1:
        raise DatasetError(f"{path}: {place} has regions of pictures of different sizes; annotate it anew")
    size = next(iter(sizes), None)
    if size and not all(isinstance(side, int) and side > 0 for side in size):
        raise DatasetError(f"{path}: {place} has a picture of {size[1]}x{size[0]} pixels; export it again")
    return size


def _regions(path: Path, place: str, results: list[dict[str, Any]], size: Size | None, doubts: _Doubts) -> list[Region]:
    # With a separate tag for labels, a region's geometry and its label are two results of one id.
    separate = {result.get("id"): _labels(result.get("value")) for result in results if result.get("type") == _LABELS}
    found = []
    for result in results:
        kind = str(result.get("type"))
        geometry = kind.removesuffix(_LABELS)
        if kind == _LABELS:
            continue
        if geometry not in _KINDS:
            doubts.left_out[kind] += 1
            continue
        labels = _labels(result.get("value")) or separate.get(result.get("id"), [])
        if not labels:
            doubts.unnamed += 1
            continue
        doubts.ambiguous += len(labels) > 1
        try:
            found.append(Region(" ".join(labels[0].split()), _shape(geometry, result["value"], size)))
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{path}: {place}: the {kind} '{result.get('id')}' cannot be used ({error!r}); correct it in Label "
                f"Studio, and export again"
            ) from None
    return found


def _labels(value: Any) -> list[str]:
    """The names in a result's value, whichever list holds them."""
    if not isinstance(value, dict):
        return []
    lists = (names for key, names in value.items() if key.endswith(_LABELS) and isinstance(names, list))
    return [name for names in lists for name in names if isinstance(name, str) and name.strip()]


def _shape(geometry: str, value: dict[str, Any], size: Size | None) -> Shape:
    """What a region covers.

    Raises:
        KeyError, TypeError, ValueError: it lacks something, or a value cannot be.
    """
    if size is None:
        raise ValueError("it has no original_width and original_height")
    if geometry == "brush":
        if value.get("format", "rle") != "rle":
            raise ValueError(f"its format is {value['format']}, not rle")
        if not isinstance(value["rle"], list):
            raise ValueError("its rle is no list of numbers")
        return BrushRuns(bytes(value["rle"]))
    height, width = size
    if geometry == "polygon":
        return Polygon((tuple((float(x) * width / 100, float(y) * height / 100) for x, y in value["points"]),))
    left, right = (float(number) * width / 100 for number in (value["x"], value["x"] + value["width"]))
    top, bottom = (float(number) * height / 100 for number in (value["y"], value["y"] + value["height"]))
    return rectangle((left, top, right, bottom), float(value.get("rotation") or 0), (left, top))
