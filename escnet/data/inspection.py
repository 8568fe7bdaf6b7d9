"""Looking through a dataset on disk: what is there, whether it is as it should be, and a picture of some of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from escnet.data.benchmarks import find_benchmark
from escnet.data.errors import listed
from escnet.data.images import ImageError, label_bits, read_image, read_labels
from escnet.data.registration import dataset_metadata, dataset_records
from escnet.drawing.overlay import overlay
from escnet.progress import progress_bar

NOT_LABELLED = "(not labelled)"
# A split in which more than this share of the pixels is ignored was hardly meant so.
SUSPICIOUS_SHARE = 0.8


class FileReport(NamedTuple):
    """What one photograph and its label map are like, None if unreadable; `fault` is empty if all is well."""

    size: tuple[int, int] | None
    bits: int | None
    ids: dict[int, int]
    fault: str


@dataclass
class Inspection:
    """What was found in a dataset.

    Attributes:
        name, class_names, ignore_label: of the dataset.
        available: images of the dataset; `images` of them were looked at.
        published: sizes of the published split, () if unknown.
        sizes: number of images by (height, width).
        bits: number of label maps by bits.
        pixels: number of pixels by id, as they stand in the files.
        faults: what makes the dataset unusable.
        warnings: what is unusual.
    """

    name: str
    class_names: list[str]
    ignore_label: int
    available: int
    published: tuple[int, ...] = ()
    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    bits: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ignored_share(self) -> float:
        """The share of pixels with the ignored id."""
        return self.pixels[self.ignore_label] / max(1, self.pixels.total())


def inspect_dataset(name: str, limit: int | None = None, workers: int = 1) -> Inspection:
    """Decode the photographs and label maps of a dataset and compare them with what the table says.

    Args:
        name: a registered dataset or ``folder:PATH``, with a slice if wanted.
        limit: look at that many images, evenly spread over the dataset; all if None.
        workers: processes.

    Raises:
        DatasetError: the dataset is unknown, or its files are not there or do not pair up.
    """
    records, metadata, benchmark = dataset_records(name), dataset_metadata(name), find_benchmark(name)
    chosen = records if limit is None else spread(records, limit)
    found = Inspection(name, metadata.stuff_classes, metadata.ignore_label, len(records))
    inspect = partial(inspect_record, num_classes=len(found.class_names), ignore_label=found.ignore_label)
    with ProcessPoolExecutor(workers) as pool:
        reports = pool.map(inspect, chosen, chunksize=8) if workers > 1 else map(inspect, chosen)
        for report in progress_bar(reports, total=len(chosen), unit="image", desc=name):
            found.images += 1
            if report.size and report.bits:
                found.sizes[report.size] += 1
                found.bits[report.bits] += 1
                found.pixels.update(report.ids)
            if report.fault:
                found.faults.append(report.fault)
    if benchmark is not None and name == benchmark.name:
        found.published = benchmark.sizes
    expected = benchmark.bits if benchmark else None
    _judge(found, expected)
    return found


def inspect_record(record: dict[str, Any], num_classes: int, ignore_label: int) -> FileReport:
    """Decode the photograph and the label map of one record."""
    file = record["sem_seg_file_name"]
    try:
        size = read_image(record["file_name"]).shape[:2]
        labels, bits = read_labels(file), label_bits(file)
    except ImageError as error:
        return FileReport(None, None, {}, str(error))
    ids, counts = np.unique(labels, return_counts=True)
    pixels = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    unknown = [value for value in pixels if not 0 <= value < num_classes and value != ignore_label]
    fault = ""
    if labels.shape != size:
        fault = f"{file}: {labels.shape[0]}x{labels.shape[1]} pixels (height x width), its image {size[0]}x{size[1]}"
    elif unknown:
        fault = f"{file}: unknown ids {listed(unknown, 5)}; known are 0..{num_classes - 1} and {ignore_label}"
    return FileReport(size, bits, pixels, fault)


def draw_samples(name: str, count: int = 4, width: int = 1000) -> Image.Image:
    """A sheet of photographs tinted by their labels, each with its legend, one below the other.

    Args:
        name: of the dataset.
        count: photographs, evenly spread over the dataset.
        width: of the sheet in pixels.
    """
    metadata = dataset_metadata(name)
    panels = [
        _draw(record, metadata.stuff_classes, metadata.ignore_label) for record in spread(dataset_records(name), count)
    ]
    panels = [panel.resize((width, round(panel.height * width / panel.width)), Image.LANCZOS) for panel in panels]
    sheet = Image.new("RGB", (width, sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        sheet.paste(panel, (0, top))
        top += panel.height
    return sheet


def spread(records: Sequence[Any], count: int) -> list[Any]:
    """`count` records, or all if there are fewer, evenly spread."""
    places = np.linspace(0, len(records) - 1, min(count, len(records)))
    return [records[int(place)] for place in places]


def _draw(record: dict[str, Any], class_names: list[str], ignore_label: int) -> Image.Image:
    labels = read_labels(record["sem_seg_file_name"]).astype(np.int64)
    known = (labels >= 0) & (labels < len(class_names)) & (labels != ignore_label)
    shown = np.where(known, labels, len(class_names))
    return overlay(read_image(record["file_name"]), shown, [*class_names, NOT_LABELLED])


def _judge(found: Inspection, bits: int | None) -> None:
    """Add what the numbers of the whole dataset say to its faults and warnings."""
    scored = found.pixels.total() - found.pixels[found.ignore_label]
    if len(found.bits) > 1 or (bits is not None and set(found.bits) - {bits}):
        expected = f"all {bits}-bit" if bits else "of one kind"
        found.faults.append(f"the label maps are {dict(found.bits)} (bits: files), but should be {expected}")
    if not scored:
        found.faults.append(f"not a pixel is labelled: all have the ignored id {found.ignore_label}")
    elif found.ignored_share > SUSPICIOUS_SHARE:
        found.warnings.append(f"{found.ignored_share:.1%} of the pixels are ignored")
    if found.published and found.available not in found.published:
        published = " or ".join(map(str, found.published))
        found.warnings.append(f"{found.available} images; the published split has {published}")
    absent = [name for index, name in enumerate(found.class_names) if not found.pixels[index]]
    if absent and scored:
        found.warnings.append(f"{len(absent)} of {len(found.class_names)} classes do not occur: {listed(absent, 8)}")
