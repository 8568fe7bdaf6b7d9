"""The files that the page gives away of a result: label map, COCO JSON, overlay."""

from __future__ import annotations

import json
import mimetypes
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.app.view_payload import data_url

if TYPE_CHECKING:
    from escnet.segmentation_result import SegmentationResult

KINDS = ("labels", "coco", "overlay")


def download(result: SegmentationResult, kind: str, picture_name: str) -> dict[str, str]:
    """One file of a result: its "name", made from that of the picture, and its contents as the data URL "url".

    Args:
        result: of which.
        kind: one of `KINDS`.
        picture_name: as the user calls the picture.

    Raises:
        ValueError: there is no such kind.
    """
    stem = Path(picture_name).stem or "picture"
    # Writers write to paths; nothing of it outlives the call.
    with tempfile.TemporaryDirectory() as folder:
        if kind == "labels":
            path = Path(folder) / f"{stem}_labels.png"
            result.save_labels(path)
        elif kind == "overlay":
            path = Path(folder) / f"{stem}_overlay.png"
            result.save_overlay(path)
        elif kind == "coco":
            path = Path(folder) / f"{stem}_coco.json"
            path.write_text(json.dumps(result.to_coco(file_name=picture_name)), encoding="utf-8")
        else:
            raise ValueError(f'there is no file "{kind}"; there are {", ".join(KINDS)}')
        return {"name": path.name, "url": data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0])}
