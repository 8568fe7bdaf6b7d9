"""The pictures of folders that are to become shards, each with a key of its own, in a shuffled order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from escnet.data.folder import IMAGE_SUFFIXES
from escnet.data.shards.accounting import ShardError
from escnet.data.shards.draws import Branch, random_state

# The webdataset library takes what is named like this for its own.
_RESERVED = re.compile(r"^__(.*)__$")


class Picture(NamedTuple):
    """A picture to be put into a shard.

    Attributes:
        key: its name there.
        path: the file.
        name: its path below the folder that was given, without suffix.
    """

    key: str
    path: str
    name: str


def find_pictures(folders: Sequence[Path], seed: int) -> list[Picture]:
    """The pictures in folders and the folders in them, but for hidden ones, shuffled.

    The order depends on the names and the seed alone. A key is the path below the folder, without suffix and dots; the
    folder's own name comes first where there are several.

    Raises:
        ShardError: a folder is missing, or there is no picture in any.
    """
    found: dict[str, Picture] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ShardError(f"{folder}: there is no such folder; give folders with pictures")
        prefix = f"{folder.resolve().name}/" if len(folders) > 1 else ""
        for path in _files(folder):
            name = path.relative_to(folder).with_suffix("").as_posix()
            key = _free_key(_key(prefix + name), path.suffix, found)
            found[key] = Picture(key, str(path), name)
    if not found:
        raise ShardError(
            f"no pictures in {', '.join(map(str, folders))}; those are looked for that end in "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    pictures = list(found.values())
    return [pictures[place] for place in random_state(seed, Branch.SHARDS).permutation(len(pictures))]


def _files(root: Path) -> Iterator[Path]:
    """The pictures below a folder by name, each folder once, though links may lead to it several times."""
    entered: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                yield Path(folder, name)


def _key(name: str) -> str:
    return "/".join(_RESERVED.sub(r"\1", part) or "_" for part in name.replace(".", "_").split("/"))


def _free_key(key: str, suffix: str, taken: dict[str, Picture]) -> str:
    """The key, or if it is taken, the key with the suffix of the file, or with a number."""
    if key not in taken:
        return key
    key, number = f"{key}_{suffix[1:].lower()}", 2
    free = key
    while free in taken:
        free, number = f"{key}_{number}", number + 1
    return free
