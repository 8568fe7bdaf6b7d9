"""Examinations made of label maps: each connected region of a class is an object, and its cut-out a picture of it."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from escnet.data.benchmarks import dataset_folder_name, split_dataset_name
from escnet.data.coco_writing import AnnotatedImage, image_entry, object_entry, write_instances
from escnet.data.errors import DatasetError
from escnet.data.examination_folder import CLASSES, OBJECTS, OBJECTS_FILE, WORDS
from escnet.data.image_folders import class_folders, write_classes
from escnet.data.images import ImageError, image_size, read_image
from escnet.data.label_spaces import LabelSpace, label_spaces, read_training_labels
from escnet.data.preparation.bringing import bring
from escnet.data.preparation.finished_folders import is_finished, note_finished, save_picture
from escnet.data.registration import dataset_metadata, dataset_records, spread
from escnet.progress import progress_bar
from escnet.worker_pool import worker_pool

DESCRIPTION = "regions.json"
# Of its image, the share of pixels that a region needs where no number is given.
LEAST_SHARE = 0.005
_CHUNK = 8
# Pixels that touch at a corner belong together, as those of a thin pole do.
_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Regions:
    """What an examination is made of.

    Attributes:
        datasets: of the same classes; names as `dataset_records` takes them.
        least_area: pixels of the label map that a region needs; None for `LEAST_SHARE` of the map.
        limit: cut-outs of a class, evenly spread over its regions; None for all.
        margin: around a cut-out on each side, as a share of the longer side of the region's box.
        copy: copies of the photographs instead of links to them.

    Raises:
        ValueError: a number that is not in its range.
    """

    datasets: tuple[str, ...]
    least_area: int | None = None
    limit: int | None = None
    margin: float = 0.1
    copy: bool = False

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ValueError("an examination needs a dataset")
        for name, count in (("least area", self.least_area), ("limit", self.limit)):
            if count is not None and count < 1:
                raise ValueError(f"the {name} is {count}; it has to be 1 or more")
        if self.margin < 0:
            raise ValueError(f"the margin is {self.margin}; it has to be 0 or more")


@dataclass(frozen=True)
class _Contents:
    """What a finished folder says of itself: also how many photographs it is made of, and a digest of the files."""

    regions: Regions
    photographs: int
    sha256: str


class _Photograph(NamedTuple):
    """A photograph to be searched for regions.

    Attributes:
        number: from 1, in all datasets together.
        dataset: of the label space.
        image, labels: the files.
        name: path below the folder of photographs.
    """

    number: int
    dataset: str
    image: str
    labels: str
    name: str


class _CutOut(NamedTuple):
    """A cut-out to be written: the (x, y, width, height) of a region, and where to."""

    box: Sequence[float]
    path: Path


def write_regions(output: Path, regions: Regions, workers: int = 0) -> bool:
    """Write an examination (`examination_folder`) of datasets with label maps. The same regions give the same files.

    Objects are the connected regions of scored classes, a pixel touching all eight around it. All classes of the
    datasets compete, by their clean names with synonyms, but for a background, which is no thing. A cut-out is the
    square around the box of a region with its margin, as far as the photograph goes, and has the object's number in
    COCO's file as its name.

    Args:
        output: folder of the examination; it appears once it is complete.
        regions: what to look for.
        workers: processes; 0 for one on each core.

    Returns:
        False if it is there already, and nothing was done.

    Raises:
        DatasetError: the folder holds something else; or a dataset is unknown, not on disk, shares photographs with
            another or has other classes; or no region is large enough.
        ImageError: a file cannot be read, or a label map is of another size than its photograph.
        ValueError: the folder holds an examination of other regions.
    """
    output = output.expanduser().resolve()
    photographs, spaces = _photographs(regions.datasets), label_spaces(regions.datasets, class_names="clean")
    names, scored = _classes(regions.datasets, spaces)
    contents = _Contents(regions, len(photographs), _digest(photographs))
    if is_finished(output / DESCRIPTION, contents):
        return False
    with _appearing(output) as root:
        with worker_pool(workers or os.cpu_count() or 1, preload=__name__) as pool:
            run = partial(pool.map, chunksize=_CHUNK) if pool else map
            entries = run(partial(_find, spaces, scored, regions.least_area), photographs)
            found = list(progress_bar(entries, total=len(photographs), desc="regions", unit="photograph"))
            cut_outs = _choose(found, class_folders(names), regions.limit, root / WORDS)
            jobs = [(one.image, cut_outs[one.number]) for one in photographs if one.number in cut_outs]
            cut = run(partial(_cut, regions.margin), jobs)
            list(progress_bar(cut, total=len(jobs), desc="cut-outs", unit="photograph"))
        for photograph in photographs:
            bring(Path(photograph.image), root / OBJECTS / photograph.name, regions.copy)
        write_instances(root / OBJECTS_FILE, found, {row + 1: names[row] for row in scored})
        write_classes(root / CLASSES, names)
        note_finished(root / DESCRIPTION, contents)
    return True


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A new folder that takes the place of `output`, which may be empty, once the block ends without error."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DatasetError(f"{output}: holds files that are no examination; choose another folder, or remove it")
    unfinished = output.with_name(f".{output.name}.unfinished")
    # Of a call that was killed.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)  # where it cannot be, nothing is looked for
        yield unfinished
        if output.exists():
            output.rmdir()
        os.replace(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def connected_regions(labels: np.ndarray, classes: range, least_area: int) -> Iterator[tuple[int, np.ndarray]]:
    """The connected regions of a label map, class by class, each from the top.

    Args:
        labels: (H, W) ids.
        classes: those that are wanted.
        least_area: pixels that a region needs.

    Yields:
        The class and an (H, W) bool mask.
    """
    for row in np.unique(labels).tolist():
        if row not in classes:
            continue
        numbered, _ = ndimage.label(labels == row, _NEIGHBOURS)
        areas = np.bincount(numbered.ravel())
        for number in range(1, len(areas)):
            if areas[number] >= least_area:
                yield row, numbered == number


def square_around(box: Sequence[float], size: tuple[int, int], margin: float) -> tuple[slice, slice]:
    """The rows and columns of the square around a box, as far as they are in the image.

    Args:
        box: (x, y, width, height) in pixels.
        size: (height, width) of the image.
        margin: on each side, as a share of the longer side of the box.
    """
    x, y, width, height = box
    half = max(width, height) * (0.5 + margin)
    rows, columns = (
        slice(max(0, math.floor(middle - half)), min(end, math.ceil(middle + half)))
        for middle, end in ((y + height / 2, size[0]), (x + width / 2, size[1]))
    )
    return rows, columns


def _photographs(datasets: Sequence[str]) -> list[_Photograph]:
    found: dict[str, _Photograph] = {}
    for record in (record for name in datasets for record in dataset_records(name)):
        image, labels = record["file_name"], record["sem_seg_file_name"]
        name = f"{dataset_folder_name(record['dataset'])}/{record['image_id']}{Path(image).suffix}"
        if name in found:
            raise DatasetError(f"{image}: is in two of {', '.join(datasets)}; slices must not overlap")
        found[name] = _Photograph(len(found) + 1, record["dataset"], image, labels, name)
    return list(found.values())


def _classes(datasets: Sequence[str], spaces: Mapping[str, LabelSpace]) -> tuple[tuple[str, ...], range]:
    """The words of the classes of all datasets, and which of them are scored."""
    found = {}
    for dataset in datasets:
        names = spaces[split_dataset_name(dataset)[0]].vocabulary.names
        found[names, range(*(dataset_metadata(dataset).get("scored_classes") or (0, len(names))))] = dataset
    if len(found) > 1:
        raise DatasetError(f"{' and '.join(found.values())}: not the same classes; give each an --output of its own")
    return next(iter(found))


def _digest(photographs: Sequence[_Photograph]) -> str:
    """SHA-256 of the names of the photographs and the sizes of their files."""
    sizes = ((one.name, os.path.getsize(one.image), os.path.getsize(one.labels)) for one in photographs)
    return hashlib.sha256("\n".join(map(repr, sizes)).encode("utf-8")).hexdigest()


def _find(
    spaces: Mapping[str, LabelSpace], scored: range, least_area: int | None, photograph: _Photograph
) -> AnnotatedImage:
    """The entries of a photograph and of the regions in it."""
    labels, size = read_training_labels(photograph.labels, spaces[photograph.dataset]), image_size(photograph.image)
    if labels.shape != size:
        raise ImageError(
            f"{photograph.labels}: {labels.shape[0]}x{labels.shape[1]} pixels (height x width), but its photograph "
            f"{photograph.image} has {size[0]}x{size[1]}; take both from the same release"
        )
    least = math.ceil(LEAST_SHARE * labels.size) if least_area is None else least_area
    objects = [object_entry(mask, photograph.number, row + 1) for row, mask in connected_regions(labels, scored, least)]
    return AnnotatedImage(image_entry(photograph.number, photograph.name, size), objects)


def _choose(
    found: Sequence[AnnotatedImage], folders: Sequence[str], limit: int | None, root: Path
) -> dict[int, list[_CutOut]]:
    """The cut-outs to be written of each photograph."""
    by_class: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for number, entry in enumerate((entry for image in found for entry in image.objects), start=1):
        by_class.setdefault(entry["category_id"], []).append((number, entry))
    if not by_class:
        raise DatasetError(f"no region in {len(found)} label maps is large enough; give a smaller --least-area")
    chosen: dict[int, list[_CutOut]] = {}
    for category, entries in by_class.items():
        for number, entry in spread(entries, limit or len(entries)):
            path = root / folders[category - 1] / f"{number:06d}.jpg"
            chosen.setdefault(entry["image_id"], []).append(_CutOut(entry["bbox"], path))
    return chosen


def _cut(margin: float, job: tuple[str, Sequence[_CutOut]]) -> None:
    photograph, cut_outs = job
    pixels = read_image(photograph)
    for box, path in cut_outs:
        save_picture(pixels[square_around(box, pixels.shape[:2], margin)], path)
