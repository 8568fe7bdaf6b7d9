"""Pictures that are too large for memory, read row by row, and what GDAL holds of files meanwhile."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from escnet.data.images import ImageError, exif_orientation
from escnet.data.pixels import array_to_rgb

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

# GDAL's names of formats, by the first bytes of a file. Its others may lead to further files, or to the network.
_FORMATS = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
}
# Of GDAL's cache, which takes a twentieth of the machine's memory by default; here a row is read and written once.
_CACHE_BYTES = 1 << 27


class LargePicture:
    """A TIFF, BigTIFF, PNG or JPEG of any size, whose rows are read as they are needed.

    Grey pictures and those with a colour table become RGB; transparent pixels are composited on white.

    Args:
        path: of the file.
        value_range: the values of black and of white, without which a picture has to have 8 bits: a part of it does
            not tell the range of the whole.

    Raises:
        ImageError: the file is missing, of another format, turned by its EXIF orientation, has other bands than those
            of a picture, or values whose range is not told.
    """

    def __init__(self, path: Path, value_range: tuple[float, float] | None = None) -> None:
        self.path, self.value_range = path, value_range
        self._file = open_large(path)
        try:
            self.size = (self._file.height, self._file.width)
            self._colours = _colour_table(self._file)
            self._bands = _picture_bands(self._file, path)
            self._check_values()
            _check_upright(path)
        except ImageError:
            self._file.close()
            raise

    def __enter__(self) -> LargePicture:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, W, 3) uint8 RGB.

        Raises:
            ImageError: the file is damaged there.
        """
        with self._window(start, stop) as window:
            values = np.moveaxis(self._file.read(self._bands, window=window), 0, -1)
        if self._colours is not None:
            values = self._colours[values[..., 0]]
        elif values.shape[2] == 2:
            values = np.concatenate([np.repeat(values[..., :1], 3, axis=2), values[..., 1:]], axis=2)
        return array_to_rgb(values, str(self.path), self.value_range)

    @property
    def has_empty(self) -> bool:
        """Whether the file declares some of its pixels to be without data."""
        from rasterio.enums import MaskFlags

        return not all(MaskFlags.all_valid in flags for flags in self._file.mask_flag_enums)

    def empty_rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, W) bool, the pixels that are without data.

        Raises:
            ImageError: the file is damaged there.
        """
        with self._window(start, stop) as window:
            return self._file.dataset_mask(window=window) == 0

    @property
    def georeference(self) -> dict[str, Any]:
        """What rasterio writes of a picture's place on the earth; empty for one without."""
        place: dict[str, Any] = {}
        if self._file.crs is not None:
            place["crs"] = self._file.crs
        if not self._file.transform.is_identity:
            place["transform"] = self._file.transform
        elif self._file.gcps[0]:
            place |= {"gcps": self._file.gcps[0], "crs": self._file.gcps[1]}
        return place

    @contextmanager
    def _window(self, start: int, stop: int) -> Iterator[Window]:
        """The window of these rows, in which a file that is damaged there is told."""
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        try:
            yield Window(0, start, self.size[1], stop - start)
        except RasterioError as error:
            raise ImageError(
                f"{self.path}: is truncated or damaged in the rows {start} to {stop} ({gdal_reason(error)}); copy or "
                "download it again"
            ) from error

    def _check_values(self) -> None:
        types = {self._file.dtypes[band - 1] for band in self._bands}
        if types != {"uint8"} and self.value_range is None:
            raise ImageError(
                f"{self.path}: has values of {', '.join(sorted(types))}, and what is black and white in the whole is "
                "not known from a part; say it with --value-range BLACK WHITE, such as 0 4095"
            )
        if self._colours is not None and types != {"uint8"}:
            raise ImageError(f"{self.path}: has a colour table for {types}; save it with 8 bits, or as RGB")


@contextmanager
def small_cache(path: Path) -> Iterator[None]:
    """Keep what GDAL holds of files small, while one is read or written.

    Raises:
        ImageError: when there is no library; the message names the path.
    """
    rasterio = _library(path)
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES):
        yield


def open_large(path: Path) -> DatasetReader:
    """Open a TIFF, PNG or JPEG, known by its first bytes.

    Raises:
        ImageError: it is missing, of another format, or cannot be opened.
    """
    rasterio = _library(path)
    if not path.is_file():
        raise ImageError(f"{path}: does not exist, or is no file; check the path")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        driver = next((name for magic, name in _FORMATS.items() if start.startswith(magic)), None)
        if driver is None:
            raise ImageError(f"{path}: is no TIFF, PNG or JPEG; convert it, or segment it without --tile")
        with without_place_warning():
            return rasterio.open(path.absolute(), driver=driver)
    except rasterio.errors.RasterioError as error:
        raise ImageError(
            f"{path}: cannot be opened as {driver} ({gdal_reason(error)}); download it again, or convert it"
        ) from error


def _library(path: Path) -> ModuleType:
    try:
        import rasterio
    except ImportError as error:
        raise ImageError(f"{path}: large pictures need rasterio; pip install 'escnet[large]'") from error
    return rasterio


def gdal_reason(error: Exception) -> str:
    """What GDAL says, which rasterio puts below a sentence without content."""
    return str(error.__cause__ or error).strip()


def _colour_table(file: DatasetReader) -> np.ndarray | None:
    """(256, 3) uint8, of a picture whose values are numbers of colours."""
    from rasterio.enums import ColorInterp

    if file.count != 1 or file.colorinterp[0] != ColorInterp.palette:
        return None
    table = np.zeros((256, 3), np.uint8)
    for value, colour in file.colormap(1).items():
        table[value] = colour[:3]
    return table


def _picture_bands(file: DatasetReader, path: Path) -> list[int]:
    """The numbers of the bands that make a picture: grey, or red, green and blue, and transparency if there is any."""
    from rasterio.enums import ColorInterp

    kinds = {kind: band for band, kind in zip(file.indexes, file.colorinterp, strict=True)}
    alpha = [kinds[ColorInterp.alpha]] if ColorInterp.alpha in kinds else []
    colours = [kinds.get(kind) for kind in (ColorInterp.red, ColorInterp.green, ColorInterp.blue)]
    if None not in colours:
        return [*colours, *alpha]
    rest = [band for band in file.indexes if band not in alpha]
    if len(rest) in (1, 3):
        return [*rest, *alpha]
    raise ImageError(
        f"{path}: has {file.count} bands, and does not say which are red, green and blue; make a file of these three, "
        "such as with gdal_translate -b 3 -b 2 -b 1 -colorinterp red,green,blue"
    )


def _check_upright(path: Path) -> None:
    orientation = exif_orientation(path)
    if orientation != 1:
        raise ImageError(
            f"{path}: is turned by its EXIF orientation ({orientation}), and is read by the rows that it has in the "
            "file; save it upright first, or segment it without --tile"
        )


@contextmanager
def without_place_warning() -> Iterator[None]:
    """Without the warning that a picture has no place on the earth."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
