"""Files that may lie elsewhere: paths and fsspec's URLs, s3://bucket/prefix, listed, opened and read with patience."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from escnet.labelling.corpus.units import UnreadableUnitError
from escnet.labelling.pictures import LabellingError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Answer = TypeVar("Answer")
# A network is asked again after so many seconds, then given up.
_WAITS = (0.5, 2.0, 8.0)


def is_url(path: str) -> bool:
    """Whether it is not a local path."""
    return "://" in path


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """What serves a URL, and the path there.

    Raises:
        LabellingError: the protocol is not known, or needs a package that is missing.
    """
    from fsspec.core import url_to_fs

    protocol = url.split("://")[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
        name = package.get(protocol, "the package that it names")
        raise LabellingError(f"{url}: {protocol}:// needs a package ({error}): pip install {name}") from None
    except ValueError as error:
        raise LabellingError(f"{url}: {error}; give a path, or a URL that fsspec knows, such as s3://") from None


def open_file(path: str) -> BinaryIO:
    """Open a path or a URL for reading; what lies elsewhere is fetched in blocks, as it is read.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_url(path):
        return open(path, "rb")
    system, inside = file_system(path)
    return system.open(inside, "rb")


def read_url(url: str) -> bytes:
    """The contents of a file elsewhere, asked for several times.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    system, inside = file_system(url)
    return patiently(lambda: system.cat_file(inside))


def patiently(call: Callable[[], Answer]) -> Answer:
    """What a call gives that may fail for a moment; a file that is missing is not waited for.

    Raises:
        OSError: it fails again and again.
    """
    for wait in _WAITS:
        try:
            return call()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(wait)
    return call()


def require_file(path: str) -> None:
    """See that a source is there.

    Raises:
        UnreadableUnitError: it is not.
    """
    try:
        is_there = file_system(path)[0].exists(file_system(path)[1]) if is_url(path) else os.path.isfile(path)
    except OSError as error:
        raise UnreadableUnitError(f"{path}: cannot be read ({error})") from None
    if not is_there:
        raise UnreadableUnitError(f"{path}: is not there any more; bring it back, and run the same command again")
