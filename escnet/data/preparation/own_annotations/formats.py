"""The formats of annotations: which one a file or folder has, and how it is read."""

from __future__ import annotations

from pathlib import Path

from escnet.data.errors import DatasetError
from escnet.data.json_files import read_json_file
from escnet.data.preparation.own_annotations.annotated import AnnotationSet
from escnet.data.preparation.own_annotations.coco import read_coco
from escnet.data.preparation.own_annotations.cvat import read_cvat
from escnet.data.preparation.own_annotations.label_studio import read_label_studio
from escnet.data.preparation.own_annotations.masks import read_masks
from escnet.data.preparation.own_annotations.photographs import Photographs

COCO, LABEL_STUDIO, CVAT, MASKS = "coco", "label_studio", "cvat", "masks"
FORMATS = (COCO, LABEL_STUDIO, CVAT, MASKS)
_OF_SUFFIX = {".xml": (CVAT,), ".json": (COCO, LABEL_STUDIO)}


def find_format(path: Path) -> tuple[str, Path]:
    """The format of annotations, and their file: of a folder that holds one file of annotations, that file.

    Raises:
        DatasetError: there is nothing, or nothing that is known.
    """
    remedy = (
        f"name an annotation file or a folder of masks as --annotations, and its format with --from {'|'.join(FORMATS)}"
    )
    if not path.exists():
        raise DatasetError(f"{path}: there is no such file or folder; {remedy}")
    if path.is_dir():
        files = [file for suffix in _OF_SUFFIX for file in sorted(path.glob(f"*{suffix}"))]
        if len(files) > 1:
            raise DatasetError(f"{path}: has {len(files)} annotation files, such as {files[0].name}; name one of them")
        return find_format(files[0]) if files else (MASKS, path)
    formats = _OF_SUFFIX.get(path.suffix.lower(), ())
    if len(formats) == 1:
        return formats[0], path
    if not formats:
        raise DatasetError(f"{path}: ends neither in .json nor in .xml; {remedy}")
    contents = read_json_file(path, "annotations")
    if isinstance(contents, dict) and "images" in contents:
        return COCO, path
    if isinstance(contents, list):
        return LABEL_STUDIO, path
    raise DatasetError(
        f"{path}: is neither COCO's format (images, annotations, categories) nor a list of tasks; {remedy}"
    )


def read_annotations(path: Path, kind: str | None, palette: Path | None, photographs: Photographs) -> AnnotationSet:
    """Read annotations.

    Args:
        path: file or folder.
        kind: one of `FORMATS`; None to find it.
        palette: for masks.
        photographs: that may be meant.

    Raises:
        DatasetError, ImageError: they cannot be read.
    """
    if kind is None:
        kind, path = find_format(path)
    elif path.is_dir() != (kind == MASKS):
        kind_found, path = find_format(path)
        if kind_found != kind:
            raise DatasetError(f"{path}: looks like {kind_found}, not {kind}; leave --from out, or name another file")
    if palette is not None and kind != MASKS:
        raise DatasetError(f"{palette}: --palette is for masks, but {path} is of the format {kind}; leave it out")
    if kind == MASKS:
        return read_masks(path, palette, lambda name: photographs.find(name, with_suffix=False) is not None)
    return {COCO: read_coco, LABEL_STUDIO: read_label_studio, CVAT: read_cvat}[kind](path)
