"""What `--format` writes of an output folder: made anew from its reports and label maps, whoever wrote them when.

So a killed call that goes on, several calls into one folder, and a call without the option before, end in the same
files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import yaml

from escnet.annotations.coco import annotations, categories, run_annotations
from escnet.annotations.georeference import is_georeferenced, read_georeference, write_geotiff
from escnet.annotations.label_runs import MOST_PIXELS
from escnet.annotations.label_studio import MODEL_VERSION, to_label_studio
from escnet.annotations.yolo import to_yolo
from escnet.data.coco_writing import image_entry
from escnet.data.images import ImageError, read_labels
from escnet.labelling.engine import LabellingTask
from escnet.labelling.film_frames import check_frames, write_frames
from escnet.labelling.finished_pictures import (
    COCO_BEGINNING,
    FinishedFolder,
    FinishedPicture,
    finished_pictures,
)
from escnet.labelling.pictures import LABEL_TIFF, LabellingError
from escnet.safe_files import replacing

# The files of the folder; `LABELS_FOLDER` holds NAME.txt.
COCO, LABEL_STUDIO, YOLO, LABELS_FOLDER = "annotations.json", "label_studio.json", "data.yaml", "labels"
# By which a file is known to be made here, so that it may be made again.
_YOLO_MARK = "# Written by escnet. The pictures belong into the folder images, beside the folder labels."
# Where Label Studio serves files of its own machine, below its LOCAL_FILES_DOCUMENT_ROOT.
_LOCAL_FILES = "/data/local-files/?d="


@dataclass(frozen=True)
class _Wanted:
    """What is to be written: of which task, and of which masks.

    Attributes:
        task: what was done.
        objects: a mask for each connected part, where a format does not have that anyway.
        background: also of the class of the background words.
    """

    task: LabellingTask
    objects: bool
    background: bool

    @property
    def class_ids(self) -> range:
        """The classes that have masks."""
        words = self.task.vocabulary
        return range(words.num_classes if self.background else len(words.names))

    @property
    def names(self) -> tuple[str, ...]:
        """Of these classes."""
        return self.task.vocabulary.class_names[: len(self.class_ids)]


def check_formats(
    formats: Sequence[str], output: Path, names: Sequence[str], overwrite: bool, films: Sequence[str] = ()
) -> None:
    """See that formats can be written, before anything takes long.

    Args:
        formats: of `escnet.annotations.FORMATS`.
        output: the folder.
        names: of the outputs of each picture.
        overwrite: whatever is there may be replaced, but for pictures.
        films: those of the names that are of films.

    Raises:
        LabellingError: a file is there that was not made here, or would be in the place of a report; or rasterio is
            not installed.
    """
    if "geotiff" in formats:
        try:
            import rasterio  # noqa: F401
        except ImportError as error:
            raise LabellingError(f"--format geotiff needs rasterio ({error}): pip install 'escnet[large]'") from error
    for kind, file in (("coco", COCO), ("label_studio", LABEL_STUDIO), ("yolo", YOLO)):
        if kind not in formats:
            continue
        for name in names:
            if f"{name}.json".casefold() == file:
                raise LabellingError(
                    f"--format {kind} writes {file}, and so does the picture {name}; rename the picture"
                )
        if (output / file).exists() and not overwrite and not _is_ours(output / file):
            raise LabellingError(
                f"{output / file}: is there, and was not written by --format; choose another --output, or replace it "
                f"with --overwrite"
            )
    folder = output / LABELS_FOLDER
    if "yolo" in formats and not overwrite and not (output / YOLO).exists():
        there = [path for name in names for path in (folder / f"{name}.txt", folder / name) if path.exists()]
        if there:
            raise LabellingError(
                f"{there[0]}: is there, but no {YOLO}, as --format writes both; choose another --output, or replace it "
                f"with --overwrite"
            )
    for name in films if formats else ():
        check_frames(output, name)


def write_formats(
    formats: Sequence[str], task: LabellingTask, objects: bool = False, background: bool = False
) -> list[str]:
    """Write the formats of all that is finished in the output folder of a task, each file never half-written.

    Args:
        formats: of `escnet.annotations.FORMATS`.
        task: what was done; pictures in the folder that were segmented otherwise are left out.
        objects: in COCO, an annotation for each connected part instead of each class; YOLO and Label Studio have that
            anyway.
        background: also for the class of the background words.

    Returns:
        a line for each format, and for what is left out, for the user.

    Raises:
        ImageError: a label map that cannot be read.
        DiskFullError: there is no room for a file.
    """
    if not formats:
        return []
    folder, lines = finished_pictures(task.output, task.vocabulary, task.origin), []
    for film in folder.films:
        try:
            write_frames(film)
        except (ImageError, LabellingError) as error:
            # Such as of an earlier call, and deleted since.
            folder = folder.without(film.name)
            lines.append(f"left out, as annotations of a film need its frames: {error}")
    wanted = _Wanted(task, objects, background)
    lines = [_WRITERS[kind](folder, wanted) for kind in formats] + lines
    if folder.others:
        lines.append(f"left out, as segmented with other words or settings, or without labels: {len(folder.others)}")
    return lines


def _write_coco(folder: FinishedFolder, wanted: _Wanted) -> str:
    path, count = wanted.task.output / COCO, 0
    pictures = [p for p in folder.pictures if p.size[0] * p.size[1] <= MOST_PIXELS]
    too_large = len(folder.pictures) - len(pictures)
    files = FinishedFolder(pictures, folder.films, folder.others).relative()
    # A large collection has more masks than fit into memory, but one picture's always do.
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.write(f'{COCO_BEGINNING},\n"categories": ')
        json.dump(categories(wanted.names), out)
        out.write(',\n"images": ')
        with _JsonList(out) as listed:
            for number, finished in enumerate(pictures, start=1):
                listed.add({**image_entry(number, files[finished.name], finished.size), **finished.about})
        out.write(',\n"annotations": ')
        with _JsonList(out) as listed:
            for number, finished in enumerate(pictures, start=1):
                for entry in _coco_entries(finished, wanted, number, count + 1):
                    listed.add(entry)
                    count += 1
        out.write("}\n")
    rest = f"; left out, as the format has no more than {MOST_PIXELS} pixels: {too_large}" if too_large else ""
    return f"{path}: {count} masks in {len(pictures)} images{rest}"


def _coco_entries(finished: FinishedPicture, wanted: _Wanted, image_id: int, first_id: int) -> Iterable[dict[str, Any]]:
    if finished.is_large:
        runs = finished.runs()
        masks = runs.object_masks(wanted.class_ids) if wanted.objects else runs.class_masks(wanted.class_ids)
        return run_annotations(masks, finished.size, finished.scores, image_id, first_id)
    image = finished.image(wanted.task.vocabulary)
    masks = image.object_masks(wanted.background) if wanted.objects else image.class_masks(wanted.background)
    return annotations(masks, image_id, first_id)


def _write_yolo(folder: FinishedFolder, wanted: _Wanted) -> str:
    output, lines = wanted.task.output, 0
    # Lines of other words would mean other classes in the new data.yaml, and those of other frames have no picture.
    for name in folder.others:
        (output / LABELS_FOLDER / f"{name}.txt").unlink(missing_ok=True)
    for name in (*folder.others, *(film.name for film in folder.films)):
        for file in (output / LABELS_FOLDER / name).glob("[0-9]*.txt"):
            file.unlink()
    contents = {"train": "images", "val": "images", "names": dict(enumerate(wanted.names))}
    with replacing(output / YOLO) as temporary:
        text = yaml.safe_dump(contents, sort_keys=False, allow_unicode=True)
        temporary.write_text(f"{_YOLO_MARK}\n{text}", encoding="utf-8")
    small = folder.small()
    for finished in small.pictures:
        text = to_yolo(finished.image(wanted.task.vocabulary), wanted.background)
        lines += text.count("\n")
        with replacing(output / LABELS_FOLDER / f"{finished.name}.txt") as temporary:
            temporary.write_text(text, encoding="ascii")
    return f"{output / YOLO} and {LABELS_FOLDER}: {lines} polygons in {len(small.pictures)} images" + _tiled(folder)


def _write_label_studio(folder: FinishedFolder, wanted: _Wanted) -> str:
    path, small = wanted.task.output / LABEL_STUDIO, folder.small()
    files = small.relative()
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        with _JsonList(out) as listed:
            for finished in small.pictures:
                address = f"{_LOCAL_FILES}{quote(files[finished.name])}"
                entry = to_label_studio(finished.image(wanted.task.vocabulary), address, background=wanted.background)
                entry["data"] |= finished.about
                listed.add(entry)
        out.write("\n")
    return f"{path}: {len(small.pictures)} tasks" + _tiled(folder)


def _tiled(folder: FinishedFolder) -> str:
    """What is said of pictures whose polygons would need the whole label map in memory."""
    left_out = len(folder.pictures) - len(folder.small().pictures)
    return f"; left out, as segmented in tiles: {left_out}" if left_out else ""


def _write_geotiffs(folder: FinishedFolder, wanted: _Wanted) -> str:
    written = without = 0
    words = wanted.task.vocabulary
    frames = {film.folder for film in folder.films}
    for finished in folder.pictures:
        if finished.picture.parent in frames:
            continue
        # In tiles, the label map is one already.
        place = None if finished.is_large else read_georeference(finished.source())
        if place is None and not (finished.is_large and is_georeferenced(finished.labels)):
            without += 1
            continue
        if place is not None:
            path = wanted.task.output / f"{finished.name}{LABEL_TIFF}"
            write_geotiff(path, read_labels(finished.labels), words.class_names, place)
        written += 1
    rest = f"; {without} pictures do not say where they lie" if without else ""
    return f"{wanted.task.output}/*{LABEL_TIFF}: {written} label maps{rest}"


_WRITERS: dict[str, Callable[[FinishedFolder, _Wanted], str]] = {
    "coco": _write_coco,
    "yolo": _write_yolo,
    "label_studio": _write_label_studio,
    "geotiff": _write_geotiffs,
}


class _JsonList:
    """A list in a JSON file whose entries are written one by one."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.is_empty = out, True

    def __enter__(self) -> _JsonList:
        self.out.write("[")
        return self

    def add(self, entry: object) -> None:
        """Write an entry."""
        self.out.write("\n" if self.is_empty else ",\n")
        self.is_empty = False
        json.dump(entry, self.out)

    def __exit__(self, *_: object) -> None:
        self.out.write("]")


def _is_ours(path: Path) -> bool:
    """Whether a file is one that a format wrote."""
    marks = {COCO: COCO_BEGINNING, YOLO: _YOLO_MARK}
    try:
        if mark := marks.get(path.name):
            with path.open(encoding="utf-8") as file:
                return file.read(len(mark)) == mark
        contents = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(contents, list) and all(
            prediction["model_version"] == MODEL_VERSION for task in contents for prediction in task["predictions"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
