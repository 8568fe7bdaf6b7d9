"""Reading a shard from its beginning to its end: the bytes of its samples, and where it breaks off."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from webdataset import gopen
from webdataset.tariterators import base_plus_ext, tar_file_iterator

from escnet.data.shards.accounting import ShardError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
ANNOTATIONS_SUFFIX = "json"
# What a damaged archive, or a connection that breaks off, raises in the library.
_READING_ERRORS = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError)


class RawSample(NamedTuple):
    """A sample as it is stored.

    Attributes:
        key: its name in the shard.
        image: contents of the image file.
        annotations: contents of the JSON file beside it; None where there is none, or it was not asked for.
    """

    key: str
    image: bytes
    annotations: bytes | None


class ShardContents(NamedTuple):
    """What was read of a shard.

    Attributes:
        samples: those that have an image, in the order of the archive.
        fault: why no more could be read; "" where the archive ends as it should.
        others: number of members that are neither images nor their annotations, by suffix.
    """

    samples: list[RawSample]
    fault: str
    others: Counter[str]


@contextmanager
def open_shard(url: str) -> Iterator[BinaryIO]:
    """Open a path or a URL for reading, as the webdataset library does.

    Raises:
        ShardError: a ``pipe:``, which would run a command.
        OSError: there is no such file, or it cannot be fetched.
    """
    if url.startswith("pipe:"):
        raise ShardError(f"{url}: runs a command, which a list of shards may not; give paths or URLs")
    with gopen(url) as stream:
        yield stream


def read_shard(url: str, with_annotations: bool) -> ShardContents:
    """Read the samples of a shard into memory, up to where it is damaged.

    Members of one key make a sample, wherever in the shard they stand. Of members of one key and suffix the first
    counts, and so of several images of one key.

    Args:
        url: path or URL of a tar archive, which may be compressed.
        with_annotations: also read the JSON members.
    """
    wanted = (*IMAGE_SUFFIXES, ANNOTATIONS_SUFFIX) if with_annotations else IMAGE_SUFFIXES
    images: dict[str, bytes] = {}
    annotations: dict[str, bytes] = {}
    others: Counter[str] = Counter()
    faults: list[str] = []

    def is_wanted(name: str) -> bool:
        suffix = (base_plus_ext(name)[1] or "").lower()
        if suffix not in (*IMAGE_SUFFIXES, ANNOTATIONS_SUFFIX):
            others[suffix or "without suffix"] += 1
        return suffix in wanted

    def note(error: BaseException) -> bool:
        faults.append(_reason(error))
        return True

    try:
        with open_shard(url) as stream:
            for member in tar_file_iterator(stream, handler=note, select_files=is_wanted):
                key, suffix = base_plus_ext(member["fname"])
                parts = annotations if suffix.lower() == ANNOTATIONS_SUFFIX else images
                parts.setdefault(key, member["data"])
    except ShardError:
        raise
    except _READING_ERRORS as error:
        note(error)
    samples = [RawSample(key, image, annotations.get(key)) for key, image in images.items()]
    return ShardContents(samples, faults[0] if faults else "", others)


def _reason(error: BaseException) -> str:
    # The library appends the object that it was reading from to the message.
    message = str(error.strerror if isinstance(error, OSError) and error.strerror else error).split(" @ <")[0]
    return " ".join(message.split()) or type(error).__name__
