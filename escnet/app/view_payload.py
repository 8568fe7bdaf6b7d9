"""What the page's view gets of an answer: the picture, and a label map with scores that the browser decodes itself."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from escnet.drawing.palette import palette

if TYPE_CHECKING:
    from escnet.segmentation_result import SegmentationResult

# The label of pixels that belong to no class.
NOTHING = 65535
_JPEG_QUALITY = 92


def result_payload(result: SegmentationResult) -> dict[str, Any]:
    """Of a label map: "picture" and "map" as data URLs, "width", "height", and "classes", the largest first.

    Of a class: "id" in the map, "name", "colour", "share" of the pixels, "score", the mean over them.
    """
    colours = palette(len(result.class_names))
    summary = result.summary()
    return {
        **_maps(result.image, result.labels, result.scores),
        "classes": [
            {
                "id": entry["id"],
                "name": entry["name"],
                "colour": colours[entry["id"]].tolist(),
                "share": entry["fraction"],
                "score": entry["mean_score"],
            }
            for entry in summary["classes"]
        ],
        "absent": [name for name in result.class_names if name not in {entry["name"] for entry in summary["classes"]}],
    }


def mask_payload(image: np.ndarray, mask: np.ndarray, quality: float) -> dict[str, Any]:
    """The same of one mask that no word has: its score is the IoU that the model expects.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        quality: as the model says it, which may be a little outside 0..1.
    """
    score = float(np.clip(quality, 0, 1))
    entry = {"id": 0, "name": "what is pointed at", "colour": palette(1)[0].tolist()}
    return {
        **_maps(image, np.where(mask, 0, NOTHING), np.where(mask, score, 0.0)),
        "classes": [entry | {"share": float(mask.mean()), "score": score}],
        "absent": [],
    }


def map_picture(labels: np.ndarray, scores: np.ndarray) -> Image.Image:
    """Labels (H, W) below 65536 in red (the low byte) and green, scores (H, W) of 0..1 as 0..255 in blue."""
    channels = [labels & 255, labels >> 8, np.rint(np.clip(scores, 0, 1) * 255)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def data_url(contents: bytes, kind: str) -> str:
    """The contents of a file of a media type, such as "image/png", as a URL."""
    return f"data:{kind};base64,{base64.b64encode(contents).decode('ascii')}"


def picture_url(picture: Image.Image, file_format: str) -> str:
    """A picture as the data URL of a "PNG" or "JPEG" file."""
    file = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if file_format == "JPEG" else {"compress_level": 3}
    picture.save(file, format=file_format, **options)
    return data_url(file.getvalue(), f"image/{file_format.lower()}")


def _maps(image: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    return {
        "width": image.shape[1],
        "height": image.shape[0],
        "picture": picture_url(Image.fromarray(image), "JPEG"),
        "map": picture_url(map_picture(labels, scores), "PNG"),
    }
