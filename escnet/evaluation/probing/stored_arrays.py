"""Large arrays that are computed once: memory-mapped files, known by what they were made of."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.runs.run_folder import read_json, require_same_conditions, write_json
from escnet.safe_files import replacing

GIB = 1 << 30


def stored_array(
    path: Path,
    identity: Mapping[str, Any],
    count: int,
    batches: Callable[[], Iterable[np.ndarray]],
    limit: float,
) -> np.ndarray:
    """An array in a file, mapped and read-only; computed and written first where there is none.

    Beside `path`, a .npy file, stands a .json file with the identity. The array has its name only once it is complete.

    Args:
        path: of the file.
        identity: all that the values depend on, as JSON holds it.
        count: n, the rows of the array.
        batches: gives them, in order, as arrays (b, ...) of one type and of one shape but for b.
        limit: bytes that the file may have.

    Returns:
        (n, ...)

    Raises:
        ResultsError: the file was made of something else, is damaged, or would be too large for the limit or the disk.
        ValueError: the batches have another number of rows than n.
    """
    if path.is_file():
        known = read_json(path.with_suffix(".json"))
        require_same_conditions(path, known if isinstance(known, dict) else {}, dict(identity))
    else:
        # First, so that a complete array is never without it.
        write_json(path.with_suffix(".json"), dict(identity))
        _write(path, count, batches(), limit)
    return _mapped(path, count)


def delete_stored(folder: Path) -> None:
    """Delete all arrays of a folder, and what a killed run left of them."""
    for pattern in ("*.npy", "*.json", ".*.npy.*.tmp", ".*.json.*.tmp"):
        for path in folder.glob(pattern):
            path.unlink()


def _write(path: Path, count: int, batches: Iterable[np.ndarray], limit: float) -> None:
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink()
    with replacing(path) as temporary:
        array, filled = None, 0
        for batch in batches:
            if array is None:
                shape = (count, *batch.shape[1:])
                _check_size(path, shape, batch.dtype, limit)
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=batch.dtype, shape=shape)
            if filled + len(batch) > count:
                raise ValueError(f"{path}: {count} rows were expected, and there are more")
            array[filled : filled + len(batch)] = batch
            filled += len(batch)
        if array is None or filled < count:
            raise ValueError(f"{path}: {count} rows were expected, and there are {filled}")
        array.flush()


def _check_size(path: Path, shape: tuple[int, ...], dtype: np.dtype, limit: float) -> None:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    free = shutil.disk_usage(path.parent).free
    what = f"{path}: {'x'.join(map(str, shape))} values of {dtype} take {size / GIB:.2f} GiB"
    remedy = "take fewer images (NAME[:1000]) or a smaller --image-size"
    if size > limit:
        raise ResultsError(f"{what}, and {limit / GIB:.2f} are allowed: allow more with --disk-limit, or {remedy}")
    if size > free:
        raise ResultsError(f"{what}, and {free / GIB:.2f} are free on the disk: {remedy}, or take another --output")


def _mapped(path: Path, count: int) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ResultsError(f"{path}: cannot be read ({error}); delete it with --restart") from error
    if len(array) != count:
        raise ResultsError(f"{path}: has {len(array)} rows, not {count}; delete it with --restart")
    return array
