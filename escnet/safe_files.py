"""Files that are never half-written, a temporary name first, then a rename; and what is said when the disk is full."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Writers that go past Python's own files say it in words: safetensors and others; NumPy; PyTorch's zip writer, which
# finds fewer bytes in the file than it wrote.
_FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|Not enough free space to write|\d+ requested and \d+ written"
)
_ZIP_WRITER_WORDS = re.compile("unexpected pos|PytorchStreamWriter failed writing|file write failed")


class DiskFullError(OSError):
    """A file could not be written for want of space; the message names it, what stands and what to do."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that the disk or the quota is used up."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) and before not in chain:
        chain.append(before)
    if any(isinstance(link, OSError) and link.errno in _FULL for link in chain):
        return True
    if any(_FULL_WORDS.search(str(link)) for link in chain):
        return True
    # PyTorch says the same of any failure; where Python knows another reason, that one counts.
    is_unexplained = not any(isinstance(link, OSError) for link in chain)
    return is_unexplained and any(_ZIP_WRITER_WORDS.search(str(link)) for link in chain)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path` that takes the place of `path` once the block ends without error.

    A reader, and a process killed at any moment, sees the old file or the complete new one. The folder is made if
    it is missing.

    Raises:
        DiskFullError: there is no space left for the file; the old one, if any, stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_disk_full(error):
            raise
        what = "what was there before stands" if path.exists() else "there is no such file now"
        raise DiskFullError(
            f"{path}: not written, No space left on device; {what}. Free some space and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """See that a file can be written, before anything takes long for it. Its folder is made if it is missing.

    Raises:
        OSError: it cannot; the message names it.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(path))
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written ({error.strerror})", str(path)) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors by name as .safetensors, flushed to the disk, with the permissions of any other new file.

    The library by itself lets nobody but the writer read its files.

    Args:
        path: of the file.
        tensors: contiguous, none sharing memory with another.
        metadata: for the header.

    Raises:
        DiskFullError: there is no space left for the file; the old one, if any, stands.
    """
    from safetensors.torch import save_file  # takes seconds, and most files have no tensors

    with replacing(path) as temporary:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        save_file(dict(tensors), temporary, None if metadata is None else dict(metadata))
        temporary.chmod(mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())


@contextmanager
def new_folder(path: str | os.PathLike[str], replaces: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that gets its name once the block ends without error.

    A reader, and a process killed at any moment, sees no folder or the complete one; where one is replaced, the old one
    until the new one is complete.

    Args:
        path: of the folder; the one above is made if it is missing.
        replaces: an existing folder gives way; else one that holds anything is refused.

    Raises:
        FileExistsError: there is a file or a folder of this name already.
        DiskFullError: there is no space left; nothing is changed.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not (path.is_dir() and (replaces or not any(path.iterdir()))):
        raise FileExistsError(errno.EEXIST, "is there already, and is not replaced", str(path))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists() and any(path.iterdir()):
            os.rename(path, old)
        os.rename(temporary, path)
    except Exception as error:
        if old.exists() and not path.exists():
            os.rename(old, path)
        if isinstance(error, DiskFullError) or not is_disk_full(error):
            raise
        raise DiskFullError(
            f"{path}: not written, No space left on device. Free some space and run the same command again"
        ) from error
    finally:
        for folder in (temporary, old) if path.exists() else (temporary,):
            shutil.rmtree(folder, ignore_errors=True)
