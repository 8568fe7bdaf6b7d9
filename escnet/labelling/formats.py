"""What `--format` writes of an output folder: made anew from its reports and label maps, whoever wrote them when.

So a killed call that goes on, several calls into one folder, and a call without the option before, end in the same
files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

import yaml

from escnet.annotations.coco import annotations, categories
from escnet.annotations.georeference import read_georeference, write_geotiff
from escnet.annotations.label_studio import MODEL_VERSION, to_label_studio
from escnet.annotations.yolo import to_yolo
from escnet.data.coco_writing import image_entry
from escnet.data.images import read_labels
from escnet.labelling.engine import LabellingTask
from escnet.labelling.finished_pictures import FinishedFolder, finished_pictures
from escnet.labelling.pictures import LABEL_TIFF, LabellingError
from escnet.safe_files import replacing

# The files of the folder; `LABELS_FOLDER` holds NAME.txt.
COCO, LABEL_STUDIO, YOLO, LABELS_FOLDER = "annotations.json", "label_studio.json", "data.yaml", "labels"
# By which a file is known to be made here, so that it may be made again.
_COCO_MARK = "Masks that escnet predicted"
_YOLO_MARK = "# Written by escnet. The pictures belong into the folder images, beside the folder labels."
# Where Label Studio serves files of its own machine, below its LOCAL_FILES_DOCUMENT_ROOT.
_LOCAL_FILES = "/data/local-files/?d="


def check_formats(formats: Sequence[str], output: Path, names: Sequence[str], overwrite: bool) -> None:
    """See that formats can be written, before anything takes long.

    Args:
        formats: of `escnet.annotations.FORMATS`.
        output: the folder.
        names: of the outputs of each picture.
        overwrite: whatever is there may be replaced.

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
        there = [name for name in names if (folder / f"{name}.txt").exists()]
        if there:
            raise LabellingError(
                f"{folder / there[0]}.txt: is there, but no {YOLO}, as --format writes both; choose another --output, "
                f"or replace it with --overwrite"
            )


def write_formats(formats: Sequence[str], task: LabellingTask) -> list[str]:
    """Write the formats of all that is finished in the output folder of a task, each file never half-written.

    Args:
        formats: of `escnet.annotations.FORMATS`.
        task: what was done; pictures in the folder that were segmented otherwise are left out.

    Returns:
        a line for each format, for the user.

    Raises:
        ImageError: a label map that cannot be read.
        DiskFullError: there is no room for a file.
    """
    if not formats:
        return []
    folder = finished_pictures(task.output, task.vocabulary, task.origin)
    lines = [_WRITERS[kind](folder, task) for kind in formats]
    if folder.others:
        lines.append(
            f"left out, as segmented with other words or settings, or without a label map as PNG: {len(folder.others)}"
        )
    return lines


def _write_coco(folder: FinishedFolder, task: LabellingTask) -> str:
    files = folder.relative()
    names = task.vocabulary.names
    count = 0
    # A large collection has more masks than fit into memory, but one picture's always do.
    with replacing(task.output / COCO) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.write(f'{{"info": {json.dumps({"description": _COCO_MARK})},\n"categories": ')
        json.dump(categories(names), out)
        images = []
        for number, finished in enumerate(folder.pictures, start=1):
            entry = image_entry(number, files[finished.name], finished.size)
            images.append(entry if finished.page is None else {**entry, "page": finished.page})
        out.write(',\n"images": ')
        json.dump(images, out)
        out.write(',\n"annotations": ')
        with _JsonList(out) as listed:
            for number, finished in enumerate(folder.pictures, start=1):
                masks = finished.image(task.vocabulary).class_masks()
                for entry in annotations(masks, number, first_id=count + 1):
                    listed.add(entry)
                    count += 1
        out.write("}\n")
    return f"{task.output / COCO}: {count} masks in {len(folder.pictures)} images"


def _write_yolo(folder: FinishedFolder, task: LabellingTask) -> str:
    lines = 0
    # Lines of other words would mean other classes in the new data.yaml.
    for name in folder.others:
        (task.output / LABELS_FOLDER / f"{name}.txt").unlink(missing_ok=True)
    contents = {"train": "images", "val": "images", "names": dict(enumerate(task.vocabulary.names))}
    with replacing(task.output / YOLO) as temporary:
        text = yaml.safe_dump(contents, sort_keys=False, allow_unicode=True)
        temporary.write_text(f"{_YOLO_MARK}\n{text}", encoding="utf-8")
    for finished in folder.pictures:
        text = to_yolo(finished.image(task.vocabulary))
        lines += text.count("\n")
        with replacing(task.output / LABELS_FOLDER / f"{finished.name}.txt") as temporary:
            temporary.write_text(text, encoding="ascii")
    return f"{task.output / YOLO} and {LABELS_FOLDER}: {lines} polygons in {len(folder.pictures)} images"


def _write_label_studio(folder: FinishedFolder, task: LabellingTask) -> str:
    files = folder.relative()
    with replacing(task.output / LABEL_STUDIO) as temporary, temporary.open("w", encoding="utf-8") as out:
        with _JsonList(out) as listed:
            for finished in folder.pictures:
                entry = to_label_studio(finished.image(task.vocabulary), f"{_LOCAL_FILES}{quote(files[finished.name])}")
                if finished.page is not None:
                    entry["data"]["page"] = finished.page
                listed.add(entry)
        out.write("\n")
    return f"{task.output / LABEL_STUDIO}: {len(folder.pictures)} tasks"


def _write_geotiffs(folder: FinishedFolder, task: LabellingTask) -> str:
    written = without = 0
    for finished in folder.pictures:
        place = read_georeference(finished.source())
        if place is None:
            without += 1
            continue
        path = task.output / f"{finished.name}{LABEL_TIFF}"
        write_geotiff(path, read_labels(finished.labels), task.vocabulary.class_names, place)
        written += 1
    rest = f"; {without} pictures do not say where they lie" if without else ""
    return f"{task.output}/*{LABEL_TIFF}: {written} label maps{rest}"


_WRITERS: dict[str, Callable[[FinishedFolder, LabellingTask], str]] = {
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
    try:
        text = path.read_text(encoding="utf-8")
        if path.name == YOLO:
            return text.startswith(_YOLO_MARK)
        contents = json.loads(text)
        if path.name == COCO:
            return contents["info"]["description"] == _COCO_MARK
        return isinstance(contents, list) and all(
            prediction["model_version"] == MODEL_VERSION for task in contents for prediction in task["predictions"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
