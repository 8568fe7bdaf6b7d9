"""Features of whole images, computed once for all that is asked of them, and kept in a file."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pictures

from escnet.data.images import ImageError, read_image
from escnet.data.stream import build_evaluation_loader
from escnet.evaluation.loop import evaluation_mode
from escnet.evaluation.runs.conditions import Conditions
from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.runs.run_folder import require_same_conditions
from escnet.meta_arch.interfaces import ClassifyingModel
from escnet.progress import progress_bar
from escnet.safe_files import write_safetensors

CROPS = ("centre", "none")
# Seconds after which what has been computed is written, so that a kill costs no more than these.
SAVE_PERIOD = 120.0
_FEATURES, _SIZES, _DESCRIPTION = "features", "file_sizes", "escnet"


@dataclass(frozen=True)
class EmbeddingOptions:
    """How images are embedded.

    Attributes:
        crop: "centre", as CLIP is evaluated: the shorter side is brought to the model's, bicubic, and the middle square
            is cut out. "none": the model gets whole images, which it resizes to its own size.
        batch_size: images at a time; without a crop only those of equal size.
        num_workers: processes that read ahead.

    Raises:
        ValueError: an unknown crop, or a batch without images.
    """

    crop: str = "centre"
    batch_size: int = 64
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop must be one of {CROPS}, got {self.crop!r}")
        if self.batch_size < 1:
            raise ValueError(f"a batch needs an image, got {self.batch_size}")


@dataclass(frozen=True)
class ImageEmbeddings:
    """The features of a set of images.

    Attributes:
        names: of the n images that could be read, in the order that was asked for.
        features: (n, D) L2-normalised, on the CPU.
        unreadable: why each other image could not be read, by name.
        digest: SHA-256 of the names and file sizes of the n images.
    """

    names: tuple[str, ...]
    features: Tensor
    unreadable: dict[str, str]
    digest: str


class EmbeddingStore:
    """A safetensors file of features by image, for one model and one way to read images.

    Args:
        path: of the file; None to keep nothing.
        conditions: what the features depend on.

    Raises:
        ResultsError: the file has features of other weights or another way to read images, or cannot be read.
    """

    def __init__(self, path: Path | None, conditions: Conditions | None = None) -> None:
        self._path, self._conditions = path, conditions or {}
        self._features: dict[str, Tensor] = {}
        self._sizes: dict[str, int] = {}
        self._saved = time.monotonic()
        if path is not None and path.exists():
            self._read(path)

    def has(self, name: str, size: int) -> bool:
        """Whether an image has a feature, computed when its file had this size in bytes."""
        return self._sizes.get(name) == size

    def add(self, names: Sequence[str], sizes: Sequence[int], features: Tensor) -> None:
        """Keep features (n, D), in the file too if the last time was long ago."""
        self._features.update(zip(names, features.float().cpu(), strict=True))
        self._sizes.update(zip(names, sizes, strict=True))
        if time.monotonic() - self._saved >= SAVE_PERIOD:
            self.save()

    def features(self, names: Sequence[str]) -> Tensor:
        """(n, D) features of images that all have one."""
        return torch.stack([self._features[name] for name in names])

    def save(self) -> None:
        """Write the file, never half of it."""
        self._saved = time.monotonic()
        if self._path is None or not self._features:
            return
        tensors = {
            _FEATURES: self.features(list(self._features)),
            _SIZES: torch.tensor([self._sizes[name] for name in self._features]),
        }
        description = json.dumps({"conditions": self._conditions, "images": list(self._features)})
        write_safetensors(self._path, tensors, {_DESCRIPTION: description})

    def _read(self, path: Path) -> None:
        try:
            with safetensors.safe_open(path, "pt") as file:
                description = json.loads(file.metadata()[_DESCRIPTION])
                features, sizes = file.get_tensor(_FEATURES), file.get_tensor(_SIZES)
            names, conditions = description["images"], description["conditions"]
            self._features = dict(zip(names, features, strict=True))
            self._sizes = dict(zip(names, sizes.tolist(), strict=True))
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path}: cannot be read as embeddings ({error!r}); remove it") from None
        require_same_conditions(path, conditions, self._conditions)


def embed_images(
    model: ClassifyingModel,
    root: Path,
    names: Sequence[str],
    options: EmbeddingOptions | None = None,
    store: EmbeddingStore | None = None,
) -> ImageEmbeddings:
    """Embed images, those that the store has excepted. What cannot be read is told and left out.

    Args:
        model: on its device.
        root: folder of the images.
        names: their paths below it.
        options: how.
        store: where features are kept; what has been computed is written there after an interruption too.

    Raises:
        ValueError: the centre is to be cut out for a model whose input is not square, or no image can be read.
    """
    options, store = options or EmbeddingOptions(), store or EmbeddingStore(None)
    sizes = {name: _file_size(root / name) for name in names}
    missing = [name for name, size in sizes.items() if not store.has(name, size)]
    unreadable: dict[str, str] = {}
    if missing:
        samples = _read_ahead(root, missing, _crop_size(model, options.crop), options, unreadable)
        with evaluation_mode(model):
            try:
                for batch in _batches(samples, options.batch_size):
                    given = [name for name, _ in batch]
                    store.add(given, [sizes[name] for name in given], _embed(model, [image for _, image in batch]))
            finally:
                store.save()
    readable = tuple(name for name in sizes if name not in unreadable)
    if not readable:
        raise ValueError(f"{root}: not one of {len(sizes)} images can be read: {next(iter(unreadable.values()))}")
    digest = hashlib.sha256("\n".join(f"{name} {sizes[name]}" for name in readable).encode()).hexdigest()
    return ImageEmbeddings(readable, store.features(readable), unreadable, digest)


class _Reader:
    """Reads an image as (3, H, W) uint8, or says why it cannot; called in other processes, too.

    Arrays, as a tensor on its way between two processes makes the first one complain when the second is stopped.
    """

    def __init__(self, root: Path, side: int | None) -> None:
        self._root, self._side = root, side

    def __call__(self, record: dict[str, Any]) -> tuple[str, np.ndarray | str]:
        name = record["name"]
        try:
            image = read_image(self._root / name)
        except ImageError as error:
            return name, str(error)
        if self._side is not None:
            return name, centre_square(Image.fromarray(image), self._side).numpy()
        return name, image.transpose(2, 0, 1)


def centre_square(image: Image.Image, side: int) -> Tensor:
    """(3, side, side) uint8: the shorter side resized to `side`, bicubic, then the middle, as open_clip does."""
    resized = pictures.resize(image, side, InterpolationMode.BICUBIC)
    return pictures.pil_to_tensor(pictures.center_crop(resized, [side, side]))


def _crop_size(model: ClassifyingModel, crop: str) -> int | None:
    if crop == "none":
        return None
    height, width = model.image_size
    if height != width:
        raise ValueError(f"the middle square is cut out for a square input, and the model's is {height}x{width}")
    return height


def _read_ahead(
    root: Path, names: Sequence[str], side: int | None, options: EmbeddingOptions, unreadable: dict[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """The images that can be read; why the others cannot goes to `unreadable`."""
    records = [{"name": name} for name in names]
    loader = build_evaluation_loader(records, _Reader(root, side), options.num_workers)
    for ((name, image),) in progress_bar(loader, total=len(names), desc="images", unit="image"):
        if isinstance(image, str):
            unreadable[name] = image
        else:
            yield name, torch.from_numpy(image)


def _batches(samples: Iterator[tuple[str, Tensor]], size: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Up to so many images of equal shape in a row."""
    batch: list[tuple[str, Tensor]] = []
    for name, image in samples:
        if batch and (len(batch) == size or batch[0][1].shape != image.shape):
            yield batch
            batch = []
        batch.append((name, image))
    if batch:
        yield batch


@torch.no_grad()
def _embed(model: ClassifyingModel, images: Sequence[Tensor]) -> Tensor:
    return model.summary(model.encode(torch.stack(list(images))))


def _file_size(path: Path) -> int:
    """In bytes; -1 of a file that is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
