"""The two streams of distillation: images for CLIP, with a teacher's embeddings if wanted, and images with masks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from escnet.data.shards.accounting import BrokenSample, ShardError, UnusableSampleError
from escnet.data.shards.decoding import Augmentation, check_augmentation, decode_image, draw_crop, to_square
from escnet.data.shards.embeddings import check_embeddings, embeddings_path, read_embeddings
from escnet.data.shards.index import Shard, find_shards
from escnet.data.shards.masks import draw_masks, read_masks
from escnet.data.shards.reading import RawSample
from escnet.data.shards.schedule import BatchSchedule
from escnet.data.shards.stream import ShardStream, Sharing, Slot

Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ImageBatch(NamedTuple):
    """B images.

    Attributes:
        images: (B,3,S,S) uint8 RGB.
        keys: of each.
        embeddings: (B,D) of the teacher, in single precision; None where none are asked for.
        broken: samples whose turn it was, and for which others of the batch stand.
    """

    images: Tensor
    keys: list[str]
    embeddings: Tensor | None
    broken: list[BrokenSample]


class MaskBatch(NamedTuple):
    """B images with T masks each.

    Attributes:
        images: (B,3,S,S) uint8 RGB.
        masks: (B,T,S',S') bool, none of them empty.
        keys: of each image.
        broken: samples whose turn it was, and for which others of the batch stand.
    """

    images: Tensor
    masks: Tensor
    keys: list[str]
    broken: list[BrokenSample]


def image_batches(
    sources: Sources,
    *,
    batch_size: int,
    seed: int,
    sizes: Sequence[int] = (224,),
    augmentation: Augmentation | None = None,
    embeddings: str = "",
    embedding_dim: int | None = None,
    least_side: int = 16,
    start_iteration: int = 0,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    block: int = 2,
) -> Iterator[ImageBatch]:
    """The batches of images of one rank, from an iteration on, without end.

    Batch k depends on the shards, the seed and the numbers of ranks and workers alone, so that a resumed run reads what
    an undisturbed one would have. The global random state is neither read nor changed.

    Args:
        sources: what `find_shards` takes.
        batch_size: images of the smallest size, of all ranks together.
        seed: not negative.
        sizes: sides of the images, one drawn for each batch; larger images come in smaller batches, at the same cost.
        augmentation: random crops and mirroring; None for whole images.
        embeddings: name of the teacher whose stored embeddings come along; "" for none.
        embedding_dim: numbers that an embedding must have; None for any.
        least_side: an image with a shorter side, in pixels, is a broken sample.
        start_iteration: batches that are done.
        num_workers: processes that read for each rank; 0 for this one.
        rank, world_size: which of how many processes train.
        block: shards whose samples are mixed, and lie in memory together in each worker.

    Raises:
        ShardError: shards, their index or embeddings are missing or do not fit, or there are fewer shards than workers
            of all ranks; later, a block without any sample that can serve.
        ValueError: a number out of its range, or an augmentation beside stored embeddings.
    """
    if augmentation is not None:
        check_augmentation(augmentation)
        if embeddings:
            raise ValueError(
                f"augmentation and the stored embeddings of {embeddings} exclude each other: these are of whole "
                "images, not of random crops; turn one of them off"
            )
    sharing = Sharing(seed, start_iteration, num_workers, rank, world_size, block)
    schedule = BatchSchedule(sizes, batch_size, world_size, seed)
    shards = find_shards(sources)
    if embeddings:
        check_embeddings(shards, embeddings, embedding_dim)
    return iter(_ImageStream(shards, schedule, sharing, augmentation, embeddings, least_side).loader())


def mask_batches(
    sources: Sources,
    *,
    batch_size: int,
    seed: int,
    size: int = 1024,
    masks: int = 32,
    mask_size: int | None = None,
    least_side: int = 16,
    start_iteration: int = 0,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    block: int = 2,
) -> Iterator[MaskBatch]:
    """The batches of images with masks of one rank, from an iteration on, without end; see `image_batches`.

    Args:
        sources: what `find_shards` takes; shards of the kind "masks".
        batch_size: images of all ranks together.
        size: side of the images, in pixels.
        masks: drawn of each image, again and again where it has fewer.
        mask_size: side of the masks, in pixels; None for that of the images.
        seed, least_side, start_iteration, num_workers, rank, world_size, block: as for `image_batches`.

    Raises:
        ShardError: as for `image_batches`, or shards without masks.
        ValueError: a number out of its range.
    """
    if masks < 1:
        raise ValueError(f"at least one mask is drawn of an image, got {masks}")
    mask_size = size if mask_size is None else mask_size
    if mask_size < 2:
        raise ValueError(f"masks have 2 pixels or more on a side, got {mask_size}")
    sharing = Sharing(seed, start_iteration, num_workers, rank, world_size, block)
    schedule = BatchSchedule((size,), batch_size, world_size, seed)
    shards = find_shards(sources)
    without = [shard.url for shard in shards if shard.kind != "masks"]
    if without:
        raise ShardError(
            f"{without[0]}: its index says that it has no masks; make it with tools/make_shards.py --masks"
        )
    return iter(_MaskStream(shards, schedule, sharing, masks, mask_size, least_side).loader())


class _ImageStream(ShardStream[ImageBatch]):
    def __init__(
        self,
        shards: Sequence[Shard],
        schedule: BatchSchedule,
        sharing: Sharing,
        augmentation: Augmentation | None,
        teacher: str,
        least_side: int,
    ) -> None:
        super().__init__(shards, schedule, sharing, with_annotations=False)
        self._augmentation = augmentation
        self._teacher = teacher
        self._least_side = least_side

    def slots(self, shard: Shard) -> list[Slot]:
        slots = super().slots(shard)
        stored = read_embeddings(embeddings_path(shard, self._teacher)) if self._teacher else {}
        return [
            slot if slot.content is None else slot._replace(content=(slot.content, stored.get(slot.key)))
            for slot in slots
        ]

    def decode(
        self, content: tuple[RawSample, Tensor | None], size: int, generator: np.random.RandomState
    ) -> tuple[Tensor, Tensor | None]:
        sample, embedding = content
        if self._teacher and embedding is None:
            raise UnusableSampleError(f"{self._teacher} has no stored embedding of it")
        pixels, _ = decode_image(sample.image, size, self._least_side)
        crop = draw_crop(pixels.shape[:2], self._augmentation, generator) if self._augmentation else None
        return to_square(pixels, size, crop), embedding

    def join(
        self, keys: list[str], examples: list[tuple[Tensor, Tensor | None]], broken: list[BrokenSample]
    ) -> ImageBatch:
        images, embeddings = zip(*examples, strict=True)
        stored = torch.stack(embeddings).float() if self._teacher else None
        return ImageBatch(torch.stack(images), keys, stored, broken)


class _MaskStream(ShardStream[MaskBatch]):
    def __init__(
        self,
        shards: Sequence[Shard],
        schedule: BatchSchedule,
        sharing: Sharing,
        masks: int,
        mask_size: int,
        least_side: int,
    ) -> None:
        super().__init__(shards, schedule, sharing, with_annotations=True)
        self._masks = masks
        self._mask_size = mask_size
        self._least_side = least_side

    def decode(self, content: RawSample, size: int, generator: np.random.RandomState) -> tuple[Tensor, Tensor]:
        pixels, stored = decode_image(content.image, size, self._least_side)
        masks = read_masks(content.annotations, stored)
        return to_square(pixels, size), draw_masks(masks, stored, self._mask_size, self._masks, generator)

    def join(self, keys: list[str], examples: list[tuple[Tensor, Tensor]], broken: list[BrokenSample]) -> MaskBatch:
        images, masks = zip(*examples, strict=True)
        return MaskBatch(torch.stack(images), torch.stack(masks), keys, broken)
