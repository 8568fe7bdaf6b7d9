"""Stored embeddings: joined by key, and refused where they do not fit."""

from __future__ import annotations

import stat
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from escnet.data.shards.accounting import ShardError
from escnet.data.shards.batches import image_batches
from escnet.data.shards.embeddings import (
    Teacher,
    check_embeddings,
    embeddings_path,
    read_embeddings,
    read_teacher,
    write_embeddings,
)
from escnet.data.shards.index import Shard, find_shards

TEACHER = Teacher("ViT-L-14", "ab" * 32, 224, 3)


@pytest.fixture
def with_embeddings(write_pictures: Callable[..., Path]) -> Callable[..., Path]:
    """Shards with embeddings whose first number is that of the picture."""

    def write(absent: str = "", teacher: Teacher = TEACHER) -> Path:
        folder = write_pictures((3, 4))
        numbers = iter(range(7))
        for shard in find_shards(folder):
            rows = {f"p{n:03d}": torch.tensor([n, 0.5, -1.0]) for n in (next(numbers) for _ in range(shard.samples))}
            rows.pop(absent, None)
            write_embeddings(embeddings_path(shard, teacher.name), teacher, rows)
        return folder

    return write


def test_embeddings_come_with_their_images(with_embeddings: Callable[..., Path]) -> None:
    folder = with_embeddings()
    settings = {"batch_size": 7, "seed": 0, "embeddings": "ViT-L-14", "embedding_dim": 3}
    for num_workers in (0, 1):
        for batch in islice(image_batches(folder, **settings, num_workers=num_workers), 2):
            assert batch.embeddings.dtype == torch.float32 and batch.embeddings.shape == (7, 3) and not batch.broken
            assert [f"p{int(number):03d}" for number in batch.embeddings[:, 0]] == batch.keys


def test_a_sample_without_embedding_is_broken(with_embeddings: Callable[..., Path]) -> None:
    batch = next(image_batches(with_embeddings("p004"), batch_size=7, seed=0, embeddings="ViT-L-14"))
    assert "p004" not in batch.keys and len(batch.keys) == 7
    (broken,) = batch.broken
    assert (broken.key, broken.reason) == ("p004", "ViT-L-14 has no stored embedding of it")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_embeddings(path, TEACHER, {"ä/1": torch.tensor([0.1, 0.2, 0.3]), "b": torch.ones(3)})
    assert read_teacher(path) == TEACHER
    stored = read_embeddings(path)
    assert list(stored) == ["ä/1", "b"] and stored["b"].dtype == torch.half
    assert torch.allclose(stored["ä/1"].float(), torch.tensor([0.1, 0.2, 0.3]), atol=1e-4)
    assert path.stat().st_mode & stat.S_IRGRP
    write_embeddings(path, TEACHER, {})
    assert read_teacher(path) == TEACHER and read_embeddings(path) == {}


def test_embeddings_that_do_not_fit_are_refused_at_the_start(with_embeddings: Callable[..., Path]) -> None:
    folder = with_embeddings()
    second = embeddings_path(find_shards(folder)[1], "ViT-L-14")

    def refused(message: str, **settings: object) -> None:
        with pytest.raises(ShardError, match=message):
            image_batches(folder, batch_size=2, seed=0, **{"embeddings": "ViT-L-14", **settings})

    refused("has embeddings of 3 numbers where 768 are expected", embedding_dim=768)
    refused(r"000\.ViT-H-14\.safetensors: the shard has no stored embeddings.*embed_teacher\.py", embeddings="ViT-H-14")
    refused("cannot name a teacher", embeddings="../x")
    for other in (TEACHER._replace(weights_sha256="cd" * 32), TEACHER._replace(image_size=336)):
        write_embeddings(second, other, {"p003": torch.ones(3)})
        refused(r"001\.ViT-L-14\.safetensors: was made by .*, and that of the first shard by")
    second.write_bytes(second.read_bytes()[:40])
    refused("holds no stored embeddings, or is damaged")
    save_file({"embeddings": torch.ones(2, 3)}, second)
    refused("holds no stored embeddings, or is damaged")
    second.unlink()
    refused(r"001\.ViT-L-14\.safetensors: the shard has no stored embeddings")


def test_keys_that_do_not_belong_to_the_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"embeddings": torch.ones(2, 3), "keys": torch.tensor(list(b'["a"]'), dtype=torch.uint8)}, path)
    with pytest.raises(ShardError, match="keys and embeddings do not belong together"):
        read_embeddings(path)


def test_embeddings_of_a_server_are_refused() -> None:
    with pytest.raises(ShardError, match="read from local files alone"):
        check_embeddings([Shard("http://nowhere/a.tar", 1, 1, "images")], "teacher")
