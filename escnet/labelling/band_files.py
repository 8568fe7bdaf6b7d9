"""Label maps and scores too large for memory: TIFF files that are written by rows, and read by columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from escnet.data.images import ImageError
from escnet.labelling.large_files import gdal_reason, open_large, small_cache, without_place_warning
from escnet.safe_files import DiskFullError

# Side of the tiles of a file.
_BLOCK = 256


class BandWriter:
    """A picture of one channel as a TIFF in compressed tiles, written from the top to the bottom.

    Args:
        path: of the file.
        size: (H, W).
        dtype: uint8 or uint16.
        georeference: from `LargePicture.georeference`.
        scale: what a value has to be multiplied by, as the file says.
        no_data: the value of pixels without data, which the file declares.
        tags: of the channel.

    Raises:
        DiskFullError: when there is no space left.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        dtype: str,
        georeference: dict[str, Any],
        scale: float = 1.0,
        no_data: int | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        import rasterio

        self.path, self._pending, self._written = path, np.empty((0, size[1]), dtype), 0
        with without_place_warning():
            self._file = rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=size[0],
                width=size[1],
                count=1,
                dtype=dtype,
                tiled=True,
                blockxsize=_BLOCK,
                blockysize=_BLOCK,
                compress="deflate",
                BIGTIFF="IF_SAFER",
                nodata=no_data,
                **georeference,
            )
        if tags:
            self._file.update_tags(1, **tags)
        if scale != 1:
            self._file.scales = (scale,)

    def write(self, rows: np.ndarray) -> None:
        """Append rows (h, W); whole rows of tiles go to the file."""
        self._pending = np.concatenate([self._pending, rows.astype(self._pending.dtype)])
        self._flush(len(self._pending) // _BLOCK * _BLOCK)

    def close(self) -> None:
        """Write what is left, and end the file."""
        self._flush(len(self._pending))
        with _full_disk_told(self.path):
            self._file.close()

    def _flush(self, rows: int) -> None:
        from rasterio.windows import Window

        if rows:
            with _full_disk_told(self.path):
                window = Window(0, self._written, self._pending.shape[1], rows)
                self._file.write(self._pending[:rows], 1, window=window)
            self._written, self._pending = self._written + rows, self._pending[rows:]


def read_columns(path: Path) -> Iterator[np.ndarray]:
    """The columns of a file that `BandWriter` wrote, (H, w) each, from the left to the right; as wide as its tiles.

    Raises:
        ImageError: the file is damaged.
    """
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    with small_cache(path), open_large(path) as file:
        for left in range(0, file.width, _BLOCK):
            try:
                yield file.read(1, window=Window(left, 0, min(_BLOCK, file.width - left), file.height))
            except RasterioError as error:
                raise ImageError(f"{path}: is truncated or damaged ({gdal_reason(error)}); segment it again") from error


def copy_as_png(source: Path, target: Path) -> None:
    """Write a TIFF of one channel as a PNG, row by row."""
    import rasterio.shutil

    # Beside the PNG there would be a file with what a PNG cannot say.
    with rasterio.Env(GDAL_PAM_ENABLED=False), without_place_warning(), _full_disk_told(target):
        rasterio.shutil.copy(source, target, driver="PNG")


@contextmanager
def _full_disk_told(path: Path) -> Iterator[None]:
    """GDAL does not say why it cannot write, and at times not that it could not."""
    import shutil

    from rasterio.errors import RasterioError

    error = None
    try:
        yield
    except RasterioError as failed:
        error = failed
    if shutil.disk_usage(path.parent).free < 1 << 20:
        raise DiskFullError(f"{path}: not written, No space left on device; free some and run it again") from error
    if error is not None:
        raise OSError(f"{path}: cannot be written ({gdal_reason(error)})") from error
