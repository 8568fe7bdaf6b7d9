"""Making one label map after the other, or many at a time in worker processes: convert, shrink, write, count."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from escnet.data.errors import DatasetError
from escnet.data.images import ImageError, has_orientation, image_size, read_image, read_labels, write_labels
from escnet.data.preparation.label_conversion import Task
from escnet.safe_files import DiskFullError, replacing

# Label maps handed to a worker at a time: few, so that Ctrl-C is obeyed soon and little is lost.
_CHUNK = 8


@dataclass(frozen=True)
class Recipe:
    """How a label map is made; what a worker process is given.

    Attributes:
        read: the (H,W) train ids of a task, at the size of its photograph.
        num_classes, ignore_label, bits: of the label maps.
        short_side: to what photographs are shrunk (0 = not at all), where they are prepared too.
    """

    read: Callable[[Task], np.ndarray]
    num_classes: int
    ignore_label: int
    bits: int
    short_side: int = 0


@dataclass(frozen=True)
class Count:
    """What has been done: pixels of each class and, last, ignored; label maps made, and found to be there already."""

    pixels: np.ndarray
    made: int = 0
    kept: int = 0

    @classmethod
    def nothing(cls, recipe: Recipe) -> Count:
        """The count before anything is done."""
        return cls(np.zeros(recipe.num_classes + 1, dtype=np.int64))

    def __add__(self, other: Count) -> Count:
        return Count(self.pixels + other.pixels, self.made + other.made, self.kept + other.kept)


def make_all(recipe: Recipe, tasks: Iterable[Task], pool: ProcessPoolExecutor | None, ahead: int) -> Iterator[Count]:
    """Make the label maps that are not there, and yield what each few of them came to, in the order they end in.

    Args:
        pool: worker processes; None = this process.
        ahead: number of chunks to have in the pool's hands, so that its queue does not grow with the tasks.

    Raises:
        DatasetError, ImageError: a file cannot be converted, or a worker process died.
    """
    tasks = iter(tasks)
    chunks = iter(lambda: list(islice(tasks, _CHUNK)), [])
    if pool is None:
        yield from (make_some(recipe, chunk) for chunk in chunks)
        return
    running: dict[Future[Count], list[Task]] = {}
    while True:
        for chunk in islice(chunks, ahead - len(running)):
            running[_submit(pool, recipe, chunk, running)] = chunk
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            try:
                count = future.result()
            except BrokenProcessPool as error:
                raise _death(running.values()) from error
            del running[future]
            yield count


def make_some(recipe: Recipe, tasks: list[Task]) -> Count:
    """Make the label maps of some tasks, except those that are there, and count the pixels of all."""
    total = Count.nothing(recipe)
    for task in tasks:
        try:
            pixels = _pixels_of_finished(recipe, task)
            made = pixels is None
            total += Count(_make(recipe, task) if made else pixels, int(made), int(not made))
        except (DatasetError, ImageError, DiskFullError):
            raise
        except Exception as error:
            raise DatasetError(f"{task.source}: cannot be converted ({type(error).__name__}: {error})") from error
    return total


def read_checked(recipe: Recipe, task: Task) -> np.ndarray:
    """The (H,W) train ids of a task, which have the size of its photograph.

    Raises:
        ImageError: they have not, or the file cannot be converted.
    """
    labels, size = recipe.read(task), image_size(task.image, upright=task.photograph is None)
    if labels.shape != size:
        raise ImageError(
            f"{task.source}: {labels.shape[0]}x{labels.shape[1]} pixels (height x width), but its photograph "
            f"{task.image} has {size[0]}x{size[1]}; take both from the same release"
        )
    return labels


def count_pixels(recipe: Recipe, labels: np.ndarray) -> np.ndarray:
    """The pixels of each class and, last, of the ignored id."""
    pixels = np.bincount(labels.ravel(), minlength=recipe.ignore_label + 1)
    return np.append(pixels[: recipe.num_classes], pixels[recipe.ignore_label])


def shrunk_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """The (height, width) of a photograph whose shorter side is brought down to `short_side`, if it is longer.

    0 stands for no limit.
    """
    shorter, longer = sorted(size)
    if short_side == 0 or shorter <= short_side:
        return size
    rounded = round(longer / float(shorter) * short_side)
    return (short_side, rounded) if size[0] <= size[1] else (rounded, short_side)


def shrink_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an (H,W,3) uint8 image bilinearly, without smoothing it first, as cv2.INTER_LINEAR does."""
    import torch  # takes seconds, and --help of the scripts should not

    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(batch, size, mode="bilinear", align_corners=False)
    return resized[0].round().byte().permute(1, 2, 0).numpy()


def shrink_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H,W) labels: pixel i takes the one at floor(i * old / new) on either axis, as cv2.INTER_NEAREST does."""
    # The scale is computed as cv2 does, as the inverse of a quotient, so that its rounding is the same.
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (1.0 / (new / old))).astype(int), old - 1)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)]


def _submit(
    pool: ProcessPoolExecutor, recipe: Recipe, chunk: list[Task], running: dict[Future[Count], list[Task]]
) -> Future[Count]:
    try:
        return pool.submit(make_some, recipe, chunk)
    except BrokenProcessPool as error:
        raise _death(running.values() or [chunk]) from error


def _death(chunks: Iterable[list[Task]]) -> DatasetError:
    sources = [task.source for chunk in chunks for task in chunk]
    return DatasetError(
        f"a worker process died at one of these {len(sources)} files: {', '.join(sources)}; run again with fewer "
        f"--workers, since it may be for want of memory, and look at those files with --workers 1"
    )


def _make(recipe: Recipe, task: Task) -> np.ndarray:
    """Write the label map of a task, and its photograph before it where one is wanted; returns the pixel counts."""
    labels = read_checked(recipe, task)
    size = shrunk_size(labels.shape, recipe.short_side)
    if task.photograph is not None:
        _write_photograph(recipe, task, size)
    if labels.shape != size:
        labels = shrink_labels(labels, size)
    write_labels(task.output, labels, bits=recipe.bits)
    return count_pixels(recipe, labels)


def _write_photograph(recipe: Recipe, task: Task, size: tuple[int, int]) -> None:
    with replacing(task.photograph) as temporary:
        if recipe.short_side == 0 and not has_orientation(task.image):
            temporary.symlink_to(os.path.relpath(os.path.abspath(task.image), temporary.parent.resolve()))
            return
        with Image.open(task.image) as image:
            # As stored: the labels were drawn without regard to an EXIF orientation.
            pixels = np.array(image.convert("RGB"))
        if pixels.shape[:2] != size:
            pixels = shrink_image(pixels, size)
        # At Pillow's own quality even where nothing is resized, like the data that published numbers were taken on.
        Image.fromarray(pixels).save(temporary, format="JPEG")


def _pixels_of_finished(recipe: Recipe, task: Task) -> np.ndarray | None:
    """The pixel counts of a task's label map if it, and the photograph, are there and as they should be; else None."""
    if not os.path.exists(task.output):
        return None
    stored = task.photograph is not None
    size = shrunk_size(image_size(task.image, upright=not stored), recipe.short_side)
    try:
        labels = read_labels(task.output)
        if stored and read_image(task.photograph).shape[:2] != size:
            return None
    except ImageError:
        return None
    if labels.shape != size or labels.dtype.itemsize * 8 != recipe.bits:
        return None
    pixels = count_pixels(recipe, labels)
    return pixels if pixels.sum() == labels.size else None
