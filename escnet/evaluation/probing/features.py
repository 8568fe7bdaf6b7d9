"""Hidden states of a frozen image encoder for a set of pictures, computed once for all heads, seeds and epochs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, MapDataset
from torch import Tensor
from torch.utils.data import DataLoader

from escnet.data.images import read_image
from escnet.data.label_spaces import LabelSpace, read_training_labels
from escnet.evaluation.loop import evaluation_mode
from escnet.evaluation.probing.stored_arrays import GIB, stored_array
from escnet.evaluation.runs.conditions import weights_sha256
from escnet.meta_arch.interfaces import resize
from escnet.meta_arch.representation import RepresentingModel
from escnet.progress import progress_bar

LARGEST_ID = np.iinfo(np.int16).max


@dataclass(frozen=True)
class Encoding:
    """How pictures become features.

    Attributes:
        representation: name of the hidden state.
        image_size: S, to which pictures are resized, S×S.
        label_size: L, to which the label maps of a training set are, L×L; 0 for S.
        batch_size: pictures at a time; changes speed and memory alone.
        num_workers: processes that read ahead.
        disk_limit: bytes that the features of one set may take.
    """

    representation: str = "backbone"
    image_size: int = 448
    label_size: int = 0
    batch_size: int = 8
    num_workers: int = 0
    disk_limit: float = 50.0 * GIB


class FeatureStore:
    """The features of one model, in a folder.

    Args:
        model: frozen, on its device.
        encoding: how it is asked.
        folder: of the files.

    Raises:
        ValueError: the model does not show this hidden state, or its patches do not divide the image size.
    """

    def __init__(self, model: RepresentingModel, encoding: Encoding, folder: Path) -> None:
        model.check_representation(encoding.representation)
        if encoding.image_size < 1 or encoding.image_size % model.patch_size:
            raise ValueError(
                f"the image size is {encoding.image_size}, but has to be a multiple of the patch size of "
                f"{type(model).__name__}, {model.patch_size}"
            )
        self.model, self.encoding, self.folder = model, encoding, folder
        self.identity: dict[str, Any] = {
            "model": type(model).__name__,
            "all weights sha256": weights_sha256(model),
            "representation": encoding.representation,
            "image size": encoding.image_size,
        }

    def maps(self, name: str, files: Sequence[str]) -> np.ndarray:
        """The features of each cell, (n, W, h, w) of 16 bits, mapped from a file.

        Args:
            name: of the set, and of the file.
            files: n pictures.

        Raises:
            ResultsError: as `stored_array`.
            ImageError: a picture cannot be read.
            ValueError: a feature that 16 bits do not hold.
        """
        return self._stored(name, files, pooled=False)

    def pooled(self, name: str, files: Sequence[str]) -> np.ndarray:
        """The features of whole pictures, (n, W) of 16 bits; arguments and errors as of `maps`."""
        return self._stored(name, files, pooled=True)

    def targets(self, name: str, records: Sequence[dict[str, Any]], space: LabelSpace) -> np.ndarray:
        """The labels of pictures, (n, L, L) int16, -1 where ignored.

        Args:
            name: of the set, and of the file.
            records: n of them, with `sem_seg_file_name`.
            space: what the ids mean.

        Raises:
            ResultsError: as `stored_array`.
            ImageError: a label map cannot be read, or holds unknown ids.
            ValueError: more classes than 16 bits hold.
        """
        if space.vocabulary.num_classes > LARGEST_ID:
            raise ValueError(f"{name}: {space.vocabulary.num_classes} classes, and at most {LARGEST_ID} can be probed")
        files = [record["sem_seg_file_name"] for record in records]
        side = self.encoding.label_size or self.encoding.image_size
        identity = {
            "label size": side,
            "classes": space.vocabulary.num_classes,
            "ignored id": space.ignore_label,
        } | files_identity(files)

        def batches() -> Iterator[np.ndarray]:
            for file in progress_bar(files, total=len(files), desc=f"labels of {name}", unit="image"):
                yield nearest(read_training_labels(file, space), side).astype(np.int16)[None]

        path = self.folder / f"{name}_targets.npy"
        return stored_array(path, identity, len(files), batches, self.encoding.disk_limit)

    def _stored(self, name: str, files: Sequence[str], pooled: bool) -> np.ndarray:
        identity = self.identity | {"of": "whole images" if pooled else "cells"} | files_identity(files)
        path = self.folder / f"{name}_{'pooled' if pooled else 'maps'}.npy"
        return stored_array(
            path, identity, len(files), lambda: self._batches(name, files, pooled), self.encoding.disk_limit
        )

    @torch.no_grad()
    def _batches(self, name: str, files: Sequence[str], pooled: bool) -> Iterator[np.ndarray]:
        encoding = self.encoding
        compute = self.model.pooled_representation if pooled else self.model.representation
        loader = DataLoader(
            MapDataset(DatasetFromList(list(files), copy=False), SquareReader(encoding.image_size)),
            encoding.batch_size,
            num_workers=encoding.num_workers,
            worker_init_fn=_use_one_thread,
            generator=torch.Generator(),  # else torch's global random state would be advanced
        )
        bar = progress_bar(total=len(files), desc=f"features of {name}", unit="image")
        with evaluation_mode(self.model), bar:
            for images in loader:
                yield _half(compute(images, encoding.representation), name)
                bar.update(len(images))


class SquareReader:
    """Reads a picture as (3, S, S) float pixels in 0..255."""

    def __init__(self, side: int) -> None:
        self._side = side

    def __call__(self, file: str) -> Tensor:
        pixels = torch.from_numpy(read_image(file)).permute(2, 0, 1)[None].float()
        return resize(pixels, (self._side, self._side))[0]


def nearest(labels: np.ndarray, side: int) -> np.ndarray:
    """(H, W) labels at (side, side), each that of the pixel on which the middle of the new one falls."""
    down, across = ((np.arange(side) + 0.5) * length / side for length in labels.shape)
    return labels[np.ix_(down.astype(int), across.astype(int))]


def files_identity(files: Sequence[str]) -> dict[str, Any]:
    """How many files, and a digest of their names and sizes."""
    listed = "\n".join(f"{Path(file).name} {os.path.getsize(file)}" for file in files)
    return {"files": len(files), "names and sizes sha256": hashlib.sha256(listed.encode()).hexdigest()}


def _half(features: Tensor, name: str) -> np.ndarray:
    half = features.to(torch.float16)
    if not half.isfinite().all():
        raise ValueError(
            f"features of {name}: values up to {features.abs().max().item():g}, which 16 bits do not hold; the weights "
            "are damaged, or of another model"
        )
    return half.cpu().numpy()


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
