"""Where a picture lies on the Earth, read from a GeoTIFF, and said again of its label map."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np
from PIL import ExifTags

from escnet.data.images import write_labels
from escnet.data.opening import open_image
from escnet.data.pages import Page
from escnet.safe_files import replacing

if TYPE_CHECKING:
    from rasterio import DatasetReader

# Any of these makes a TIFF a GeoTIFF: the size of a pixel, points that are tied down, a matrix, the coordinate system.
_GEOTIFF_TAGS = (33550, 33922, 34264, 34735)
_TIFF_SUFFIXES = (".tif", ".tiff")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Georeference:
    """Where a picture lies.

    Attributes:
        system: the coordinate system as well-known text; "" where none is named.
        transform: a, b, c, d, e, f: the left upper corner of column i and row j is at x = a·i + b·j + c,
            y = d·i + e·j + f.
        empty: (H, W) bool, the pixels that the file declares to be without data; None where it declares none.
    """

    system: str
    transform: tuple[float, float, float, float, float, float]
    empty: np.ndarray | None = None


def is_georeferenced(picture: Path | Page) -> bool:
    """Whether a picture is a TIFF that says where it lies, from its header."""
    if picture.suffix.lower() not in _TIFF_SUFFIXES:
        return False
    try:
        with warnings.catch_warnings(), open_image(_file(picture), None) as image:
            warnings.simplefilter("ignore")
            image.seek(picture.frame if isinstance(picture, Page) else 0)
            return any(tag in getattr(image, "tag_v2", ()) for tag in _GEOTIFF_TAGS)
    # Who reads the pixels says what is wrong with a file.
    except Exception:
        return False


def read_georeference(picture: Path | Page) -> Georeference | None:
    """Where a picture lies; None for one that does not say it. What cannot be carried over is told as a warning."""
    if not is_georeferenced(picture):
        return None
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError as error:
        logger.warning(
            "%s: lies somewhere on the Earth, which its label map will not say without rasterio (%s): "
            "pip install 'escnet[large]', and segment it again with --overwrite",
            picture,
            error,
        )
        return None
    name = f"GTIFF_DIR:{picture.frame + 1}:{picture.path}" if isinstance(picture, Page) else picture
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(name) as source:
                return _of_dataset(source, picture)
    except RasterioError as error:
        logger.warning("%s: where it lies cannot be read (%s), and its label map does not say it", picture, error)
        return None


def no_data_id(classes: int) -> int:
    """The id of pixels without data in a label map of so many classes: the largest of 8 bits, or of 16."""
    return 255 if classes <= 255 else 65535


def write_placed_labels(path: str | os.PathLike[str], labels: np.ndarray, classes: int, place: Georeference) -> None:
    """Write a label map as a grey PNG, and beside it where it lies, so that GDAL, and what reads by it, opens it there.

    NAME.png has the ids, and `no_data_id` where the picture has no data; NAME.pgw, a world file, the transform;
    NAME.png.aux.xml, as GDAL writes it, the transform, the coordinate system and the id of no data.

    Args:
        path: of the PNG.
        labels: (H, W) integers.
        classes: how many there are.
        place: of the picture that was segmented.
    """
    path = Path(path)
    a, b, c, d, e, f = place.transform
    # A world file says where the middle of the first pixel is.
    world = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
    system = f"  <SRS>{escape(place.system)}</SRS>\n" if place.system else ""
    transform = ", ".join(map(repr, (c, a, b, f, d, e)))
    band = ""
    if place.empty is not None:
        band = f'  <PAMRasterBand band="1">\n    <NoDataValue>{no_data_id(classes)}</NoDataValue>\n  </PAMRasterBand>\n'
    text = f"<PAMDataset>\n{system}  <GeoTransform>{transform}</GeoTransform>\n{band}</PAMDataset>\n"
    write_labels(path, *_stored(labels, classes, place))
    with replacing(path.with_suffix(".pgw")) as temporary:
        temporary.write_text("".join(f"{value!r}\n" for value in world), encoding="ascii")
    with replacing(path.with_name(f"{path.name}.aux.xml")) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_geotiff(
    path: str | os.PathLike[str], labels: np.ndarray, class_names: Sequence[str], place: Georeference
) -> None:
    """Write a label map as a GeoTIFF of one band, packed without loss, never half-written.

    Pixels without data have `no_data_id`, which the file declares. Each class is named in a tag of the band, CLASS_0
    and so on.

    Args:
        path: of the file.
        labels: (H, W) integers.
        class_names: the words.
        place: of the picture that was segmented.

    Raises:
        ImportError: rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise ImportError(f"{path}: GeoTIFF needs rasterio ({error}): pip install 'escnet[large]'") from error
    stored, bits = _stored(labels, len(class_names), place)
    with (
        replacing(path) as temporary,
        rasterio.open(
            temporary,
            "w",
            driver="GTiff",
            height=labels.shape[0],
            width=labels.shape[1],
            count=1,
            dtype=f"uint{bits}",
            crs=place.system or None,
            transform=rasterio.Affine(*place.transform),
            nodata=None if place.empty is None else no_data_id(len(class_names)),
            compress="deflate",
        ) as file,
    ):
        file.write(stored.astype(f"uint{bits}"), 1)
        file.update_tags(1, **class_tags(class_names))


def class_tags(class_names: Sequence[str]) -> dict[str, str]:
    """The tags of a band of labels that name its classes."""
    return {f"CLASS_{number}": name for number, name in enumerate(class_names)}


def _stored(labels: np.ndarray, classes: int, place: Georeference) -> tuple[np.ndarray, int]:
    """The ids of a file with those of pixels without data, and its bits."""
    if place.empty is None:
        return labels, 8 if classes <= 256 else 16
    no_data = no_data_id(classes)
    return np.where(place.empty, no_data, labels), 8 if no_data < 256 else 16


def _of_dataset(source: DatasetReader, picture: Path | Page) -> Georeference | None:
    from rasterio.enums import MaskFlags

    if source.transform.is_identity or _is_turned(picture):
        why = "turned by its orientation" if _is_turned(picture) else "tied down by single points, not by a matrix"
        logger.warning("%s: is %s, and where it lies is not said of its label map; warp it first", picture, why)
        return None
    is_whole = all(MaskFlags.all_valid in flags for flags in source.mask_flag_enums)
    return Georeference(
        source.crs.to_wkt() if source.crs else "",
        tuple(float(value) for value in source.transform[:6]),
        None if is_whole else source.dataset_mask() == 0,
    )


def _is_turned(picture: Path | Page) -> bool:
    with open_image(_file(picture), None) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _file(picture: Path | Page) -> Path:
    return picture.path if isinstance(picture, Page) else picture
