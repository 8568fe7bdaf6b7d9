"""The error that all weight files share, and the digest by which a file is known."""

from __future__ import annotations

import hashlib
from pathlib import Path


class WeightsError(RuntimeError):
    """Weights that are not there or do not fit; the message names the file, what is wrong and what to do."""


def file_sha256(path: str | Path) -> str:
    """The SHA-256 digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_sha256(path: str | Path, sha256: str, remedy: str = "delete it and fetch it again") -> None:
    """Check the SHA-256 digest of a file.

    Raises:
      WeightsError: if it is another one.
    """
    found = file_sha256(path)
    if found != sha256:
        raise WeightsError(f"{path}: the SHA-256 is {found}, not {sha256}; {remedy}")


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
