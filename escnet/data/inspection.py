"""Looking through a dataset on disk: what is there, what training or evaluation refuses, a picture of some of it."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from escnet.data.benchmarks import find_benchmark, split_dataset_name
from escnet.data.errors import DatasetError, listed
from escnet.data.images import ImageError, bits_of, has_orientation, image_size, read_image, read_labels
from escnet.data.label_spaces import CLASS_NAMES, LabelSpace, is_unknown, label_spaces
from escnet.data.mappers import label_space_of
from escnet.data.registration import dataset_metadata, dataset_records, spread
from escnet.drawing.overlay import overlay
from escnet.layers.clip_text_encoder import tokenize
from escnet.progress import progress_bar
from escnet.vocabulary import VocabularyError

NOT_LABELLED = "(not labelled)"
# A split in which more than this share of the pixels is ignored was hardly meant so.
SUSPICIOUS_SHARE = 0.8


class FileReport(NamedTuple):
    """What one photograph and its label map are like.

    Attributes:
        size: (height, width) of the photograph, None if unreadable.
        bits: of the label map, None if unreadable.
        ids: number of pixels by id.
        fault: what makes the image unusable, "" if nothing does.
        turned: the photograph, if EXIF data turn it and not its labels, which the sizes allow; else "".
    """

    size: tuple[int, int] | None
    bits: int | None
    ids: dict[int, int]
    fault: str
    turned: str = ""


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
        turned: photographs that EXIF data turn, whose labels may lie otherwise.
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
    turned: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ignored_share(self) -> float:
        """The share of pixels with the ignored id."""
        return self.pixels[self.ignore_label] / max(1, self.pixels.total())


def inspect_dataset(name: str, limit: int | None = None, workers: int = 1) -> Inspection:
    """Read the words, photographs and label maps of a dataset as training and evaluation do, and find what they refuse.

    Args:
        name: a registered dataset or ``folder:PATH``, with a slice if wanted.
        limit: look at that many images, evenly spread over the dataset; all if None.
        workers: processes.

    Raises:
        DatasetError: the dataset is unknown, its files are not there or do not pair up, or its classes cannot be used.
    """
    records, benchmark = dataset_records(name), find_benchmark(name)
    spaces, faults = _label_spaces(name)
    (space,) = spaces.values()
    chosen = records if limit is None else spread(records, limit)
    found = Inspection(name, dataset_metadata(name).stuff_classes, space.ignore_label, len(records), faults=faults)
    inspect = partial(inspect_record, spaces=spaces)
    with ProcessPoolExecutor(workers) as pool:
        reports = pool.map(inspect, chosen, chunksize=8) if workers > 1 else map(inspect, chosen)
        for report in progress_bar(reports, total=len(chosen), unit="image", desc=name):
            found.images += 1
            if report.size and report.bits:
                found.sizes[report.size] += 1
                found.bits[report.bits] += 1
                found.pixels.update(report.ids)
            if report.turned:
                found.turned.append(report.turned)
            if report.fault:
                found.faults.append(report.fault)
    if benchmark is not None and name == benchmark.name:
        found.published = benchmark.sizes
    is_whole = split_dataset_name(name)[0] == name and found.images == found.available
    _judge_labels(found, space.bits, is_whole)
    _judge_images(found)
    return found


def inspect_record(record: dict[str, Any], spaces: dict[str, LabelSpace]) -> FileReport:
    """Read the photograph and the label map of one record; `spaces` has the label space of its dataset by name."""
    photograph, file = record["file_name"], record["sem_seg_file_name"]
    try:
        space = label_space_of(record, spaces)
        size = read_image(photograph).shape[:2]
        # Depths are judged together, when all are known.
        labels = read_labels(file)
        is_turned = has_orientation(photograph) and not has_orientation(file)
    except (ImageError, DatasetError) as error:
        return FileReport(None, None, {}, str(error))
    num_classes, ignore_label = space.vocabulary.num_classes, space.ignore_label
    ids, counts = np.unique(labels, return_counts=True)
    pixels = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    unknown = ids[is_unknown(ids, num_classes, ignore_label)].tolist()
    fault = turned = ""
    if labels.shape != size:
        fault = f"{file}: {labels.shape[0]}x{labels.shape[1]} pixels (height x width), its image {size[0]}x{size[1]}"
        if is_turned and labels.shape == size[::-1]:
            fault += ", upright by its EXIF orientation: the labels have to be turned likewise"
    elif unknown:
        fault = f"{file}: unknown ids {listed(unknown, 5)}; known are 0..{num_classes - 1} and {ignore_label}"
    elif is_turned and image_size(photograph, upright=False) == size:
        turned = photograph
    return FileReport(size, bits_of(labels), pixels, fault, turned)


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


def _draw(record: dict[str, Any], class_names: list[str], ignore_label: int) -> Image.Image:
    labels = read_labels(record["sem_seg_file_name"]).astype(np.int64)
    known = (labels >= 0) & (labels < len(class_names)) & (labels != ignore_label)
    shown = np.where(known, labels, len(class_names))
    return overlay(read_image(record["file_name"]), shown, [*class_names, NOT_LABELLED])


def _label_spaces(name: str) -> tuple[dict[str, LabelSpace], list[str]]:
    """The label space of a dataset by its name without slice, and what CLIP's text encoder would refuse of its words.

    Raises:
        DatasetError: there is no such dataset, or its names make no vocabulary.
    """
    faults, tokenizer = [], SimpleTokenizer()
    for class_names in CLASS_NAMES:
        try:
            spaces = label_spaces([name], class_names=class_names)
        except VocabularyError as error:
            raise DatasetError(f"{name}: {error}; correct stuff_classes in its MetadataCatalog entry") from error
        for space in spaces.values():
            try:
                tokenize(space.vocabulary, tokenizer, tokenizer.context_length)
            except VocabularyError as error:
                faults.append(str(error))
    return spaces, sorted(set(faults))


def _judge_labels(found: Inspection, bits: int | None, is_whole: bool) -> None:
    """Add what the depths and ids of all label maps say to the faults and warnings.

    Args:
        bits: those of the dataset's label maps; None if unknown.
        is_whole: every image of the dataset was looked at.
    """
    scored = found.pixels.total() - found.pixels[found.ignore_label]
    if len(found.bits) > 1 or (bits is not None and set(found.bits) - {bits}):
        # Of a folder, it is the first file that says the bits, and that may be the odd one.
        is_mixture = len(found.bits) > 1 and find_benchmark(found.name) is None
        expected = "of one kind" if is_mixture else f"all {bits}-bit"
        found.faults.append(f"the label maps are {dict(found.bits)} (bits: files), but should be {expected}")
    if not scored:
        found.faults.append(f"not a pixel is labelled: all have the ignored id {found.ignore_label}")
    elif found.ignored_share > SUSPICIOUS_SHARE:
        found.warnings.append(f"{found.ignored_share:.1%} of the pixels are ignored")
    if scored and set(found.pixels) == {0, found.ignore_label}:
        # With one class, or in a part of the dataset, it may be meant so.
        verdicts = found.faults if is_whole and len(found.class_names) > 1 else found.warnings
        verdicts.append(
            f"the label maps hold only 0 ({found.class_names[0]}) and {found.ignore_label} (ignored): are these binary "
            f"masks? Then give each pixel the id of its class, and {found.ignore_label} to those that count for none"
        )
    absent = [name for index, name in enumerate(found.class_names) if not found.pixels[index]]
    if absent and scored:
        found.warnings.append(f"{len(absent)} of {len(found.class_names)} classes do not occur: {listed(absent, 8)}")


def _judge_images(found: Inspection) -> None:
    """Add what is unusual about the number and the orientation of the images to the warnings."""
    if found.published and found.available not in found.published:
        published = " or ".join(map(str, found.published))
        found.warnings.append(f"{found.available} images; the published split has {published}")
    if found.turned:
        found.warnings.append(
            f"{len(found.turned)} photographs have an EXIF orientation, and their label maps none; the first is "
            f"{found.turned[0]}. Photographs are read upright, and labels have to fit the upright photograph, not its "
            f"pixels as stored. Look at some with a viewer: photograph and label map have to show the same way up"
        )
