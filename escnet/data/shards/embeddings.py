"""A teacher's embeddings stored beside the shards, ``NAME.TEACHER.safetensors`` for ``NAME.tar``, joined by key.

They are of the whole image at one size: an image that is cropped or mirrored at random has another embedding.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from escnet.data.shards.accounting import ShardError
from escnet.data.shards.index import SHARD_SUFFIXES, Shard, is_url
from escnet.safe_files import write_safetensors

_FORMAT = "1"
_TEACHER_NAME = re.compile(r"[A-Za-z0-9_+-]+")
_REMEDY = "tools/embed_teacher.py makes them"


class Teacher(NamedTuple):
    """What embedded the images of a shard.

    Attributes:
        name: part of the name of the files: letters, digits, "_", "+" and "-".
        weights_sha256: of the image tower, by which its weights are known.
        image_size: side of the square to which each image was brought, in pixels.
        dim: numbers of an embedding.
    """

    name: str
    weights_sha256: str
    image_size: int
    dim: int


def check_teacher_name(name: str) -> None:
    """Refuse what cannot be part of a file's name.

    Raises:
        ShardError: the message says what can.
    """
    if not _TEACHER_NAME.fullmatch(name):
        raise ShardError(f"{name!r} cannot name a teacher: take letters, digits, _, + and -")


def embeddings_path(shard: Shard, teacher: str) -> Path:
    """Where the embeddings of a shard are.

    Raises:
        ShardError: the shard is no local file.
    """
    if is_url(shard.url):
        raise ShardError(f"{shard.url}: stored embeddings are read from local files alone; copy the shards")
    suffix = next(suffix for suffix in SHARD_SUFFIXES if shard.url.endswith(suffix))
    return Path(f"{shard.url.removesuffix(suffix)}.{teacher}.safetensors")


def write_embeddings(path: Path, teacher: Teacher, embeddings: Mapping[str, Tensor]) -> None:
    """Write the embeddings of a shard in half precision. Never half-written.

    Args:
        path: from `embeddings_path`.
        teacher: what made them.
        embeddings: (D,) by key.
    """
    rows = list(embeddings.values())
    keys = json.dumps(list(embeddings)).encode("utf-8")
    tensors = {
        "embeddings": torch.stack(rows).half() if rows else torch.zeros(0, teacher.dim, dtype=torch.half),
        # As a tensor, since what a header holds is read with each look at the file.
        "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8),
    }
    metadata = {
        "format": _FORMAT,
        "teacher": teacher.name,
        "weights_sha256": teacher.weights_sha256,
        "image_size": str(teacher.image_size),
    }
    write_safetensors(path, tensors, metadata)


def read_teacher(path: Path) -> Teacher:
    """What made the embeddings of a file, from its header alone.

    Raises:
        ShardError: the file is missing or damaged, or holds something else.
    """
    try:
        with _opened(path) as file:
            metadata = file.metadata() or {}
            if metadata["format"] != _FORMAT:
                raise ShardError(
                    f"{path}: is of format {metadata['format']}, this program reads {_FORMAT}; {_REMEDY} anew"
                )
            _, dim = file.get_slice("embeddings").get_shape()
        return Teacher(metadata["teacher"], metadata["weights_sha256"], int(metadata["image_size"]), int(dim))
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"{path}: holds no stored embeddings, or is damaged ({error}); {_REMEDY} anew") from error


def read_embeddings(path: Path) -> dict[str, Tensor]:
    """The (D,) half-precision embeddings of a file, by key.

    Raises:
        ShardError: the file is missing or damaged, or holds something else.
    """
    try:
        with _opened(path) as file:
            embeddings, keys = file.get_tensor("embeddings"), json.loads(bytes(file.get_tensor("keys").numpy()))
        if not isinstance(keys, list) or embeddings.ndim != 2 or len(keys) != len(embeddings):
            raise ValueError("keys and embeddings do not belong together")
        return dict(zip(keys, embeddings, strict=True))
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"{path}: holds no stored embeddings, or is damaged ({error}); {_REMEDY} anew") from error


def check_embeddings(shards: Sequence[Shard], teacher: str, dim: int | None = None) -> Teacher:
    """See that all shards have embeddings of the same teacher, from the headers of their files.

    Args:
        shards: local ones.
        teacher: its name.
        dim: which its embeddings must have; None for any.

    Raises:
        ShardError: a file is missing, other weights or another size made it, or it has another dimension.
    """
    check_teacher_name(teacher)
    first: Teacher | None = None
    for shard in shards:
        path = embeddings_path(shard, teacher)
        found = read_teacher(path)
        if dim is not None and found.dim != dim:
            raise ShardError(
                f"{path}: has embeddings of {found.dim} numbers where {dim} are expected; choose a fitting teacher"
            )
        first = first or found
        if found != first:
            raise ShardError(
                f"{path}: was made by {told(found)}, and that of the first shard by {told(first)}; remove one kind, "
                f"and {_REMEDY} anew"
            )
    if first is None:
        raise ShardError("there are no shards whose embeddings could be looked at")
    return first


def told(teacher: Teacher) -> str:
    """A teacher in a message."""
    return f"{teacher.name} (weights {teacher.weights_sha256[:12]}, {teacher.image_size} px, {teacher.dim} numbers)"


def _opened(path: Path) -> safe_open:
    if not os.path.exists(path):
        raise ShardError(f"{path}: the shard has no stored embeddings of that teacher; {_REMEDY}")
    return safe_open(path, framework="pt")
