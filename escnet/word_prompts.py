"""What a user points at: points, a box or a mask for a word, in pixels of an image, and as a model takes them."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from escnet.data.images import ImageError, read_mask
from escnet.meta_arch.interfaces import PromptableModel, Prompts, SegmentingModel
from escnet.pretrained.files import file_sha256
from escnet.prompt_values import PromptError, as_box, as_labels, as_mask, as_points, box_text, shown
from escnet.vocabulary import BACKGROUND, Vocabulary

__all__ = [
    "NamedPrompts",
    "PromptError",
    "PromptsOfWords",
    "WordPrompts",
    "model_prompts",
    "prompts_by_row",
    "takes_word_prompts",
]

# From the middle of a pixel to its edge.
_HALF = 0.5


@dataclass(frozen=True, eq=False)
class WordPrompts:
    """What a user points at for one object, in pixels of the image as it is read, which is upright.

        WordPrompts(points=[(120, 80), (10, 10)], labels=[1, 0])
        WordPrompts(box=(90, 40, 200, 160))
        WordPrompts(mask="cat.png")

    (0, 0) is the middle of the upper left pixel, for points and boxes alike, as for segment_anything's SamPredictor:
    an image of W by H pixels is (-0.5, -0.5, W - 0.5, H - 0.5).

    Args:
        points: (x, y) of each.
        labels: of each point 1 on the object, 0 beside it; None: all are on it.
        box: (x1, y1, x2, y2), its left, upper, right and lower edge.
        mask: (H, W) bool, of integers those that are not 0; or the path of a picture, of which those pixels are inside
            that are neither black nor transparent. It refines points or a box: SAM learned from no mask alone.

    Raises:
        PromptError: nothing is given, or what is given is none of this.
    """

    points: Sequence[Sequence[float]] = ()
    labels: Sequence[int] | None = None
    box: Sequence[float] | None = None
    mask: np.ndarray | Tensor | str | PathLike | None = None

    def __post_init__(self) -> None:
        points = as_points(self.points)
        labels, box, mask = as_labels(self.labels, len(points)), as_box(self.box), as_mask(self.mask)
        if box is None and mask is None:
            if not points:
                raise PromptError("there is nothing to point at; give points, a box or a mask")
            if not any(labels):
                raise PromptError(
                    "all points have the label 0, so that nothing says where the object is; give a point on it, with "
                    "the label 1, or a box or a mask beside these"
                )
        for name, value in (("points", points), ("labels", labels), ("box", box), ("mask", mask)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, value: WordPrompts | Mapping[str, Any]) -> WordPrompts:
        """Prompts that may be written as a mapping, {"points": [[120, 80]], "labels": [1]}.

        Raises:
            PromptError: it is none, has other keys, or what they hold cannot be used.
        """
        if isinstance(value, WordPrompts):
            return value
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping):
            raise PromptError(f'it is {shown(value)}; give WordPrompts(...), or a mapping {{"points": [[x, y]]}}')
        unknown = [key for key in value if key not in names]
        if unknown:
            raise PromptError(f"there is no {shown(unknown[0])}; there are {', '.join(names)}")
        return cls(**{key: given for key, given in value.items() if given is not None})

    def for_model(self, model: PromptableModel, size: tuple[int, int]) -> Prompts:
        """The same on the model's square input, on its device.

        Args:
            model: says how large its input is, and what it makes of a mask.
            size: (H, W) of the image.

        Raises:
            PromptError: a point or the box is outside the image, or the mask cannot be read, is empty or of another
                size.
        """
        self._check_places(size)
        region = self._region(size)
        device = next(model.parameters()).device
        factor = model.input_size / torch.tensor([size[1], size[0]], dtype=torch.double)

        def scaled(coordinates: Sequence[Any]) -> Tensor:
            pixels = torch.tensor(coordinates, dtype=torch.double).reshape(-1, 2)
            return ((pixels + _HALF) * factor - _HALF).float().to(device)

        return Prompts(
            points=scaled(self.points)[None],
            labels=torch.tensor([self.labels], dtype=torch.float, device=device),
            boxes=None if self.box is None else scaled(self.box).reshape(1, 4),
            masks=None if region is None else model.mask_prompt(_cells(region, model.mask_size).to(device)),
        )

    def record(self) -> dict[str, Any]:
        """What json.dump can write of them; it is equal for prompts that give the same masks.

        Raises:
            PromptError: the file of the mask cannot be read.
        """
        found: dict[str, Any] = {}
        if self.points:
            found |= {"points": [list(point) for point in self.points], "labels": list(self.labels)}
        if self.box is not None:
            found["box"] = list(self.box)
        if isinstance(self.mask, Path):
            try:
                found["mask"] = {"file": str(self.mask), "sha256": file_sha256(self.mask)}
            except OSError as error:
                raise PromptError(f"the mask {self.mask} cannot be read ({error.strerror}); check the path") from error
        elif self.mask is not None:
            digest = hashlib.sha256(repr(self.mask.shape).encode() + self.mask.tobytes()).hexdigest()
            found["mask"] = {"sha256": digest}
        return found

    def _check_places(self, size: tuple[int, int]) -> None:
        height, width = size
        for x, y in self.points:
            if not (-_HALF <= x <= width - _HALF and -_HALF <= y <= height - _HALF):
                raise PromptError(
                    f"the point ({x:g}, {y:g}) is outside the image, which is {width} pixels wide and {height} high; "
                    f"x goes from 0 to {width - 1}, y from 0 to {height - 1}"
                )
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            # Detectors count from the edge of the first pixel and so end at W: half a pixel is no reason to refuse.
            if min(x1, y1) < -_HALF or x2 > width or y2 > height:
                raise PromptError(
                    f"the box {box_text(self.box)} reaches outside the image, which is {width} pixels wide and "
                    f"{height} high; cut it off at its edges, (0, 0, {width}, {height})"
                )

    def _region(self, size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) bool: the mask, read if it is a file."""
        if self.mask is None:
            return None
        name = f"the mask {self.mask}" if isinstance(self.mask, Path) else "the mask"
        try:
            region = read_mask(self.mask) if isinstance(self.mask, Path) else self.mask
        except ImageError as error:
            raise PromptError(f"the mask cannot be read: {error}") from error
        if region.shape != tuple(size):
            (height, width), (own_height, own_width) = size, region.shape
            raise PromptError(
                f"{name} is {own_width} pixels wide and {own_height} high, but the image {width} and {height}; give a "
                "mask of the image's size"
            )
        if not region.any():
            raise PromptError(f"{name} is empty; mark the pixels of the object, or leave the mask out")
        return region


PromptsOfWords = Mapping[str, WordPrompts | Mapping[str, Any]]


class NamedPrompts(NamedTuple):
    """Prompts, and the word for which a user has given them."""

    word: str
    prompts: WordPrompts


def prompts_by_row(
    prompts: PromptsOfWords, vocabulary: Vocabulary, kind: type[SegmentingModel]
) -> dict[int, NamedPrompts]:
    """Prompts of words as those of rows of the vocabulary, checked as far as they can be without the image.

    Args:
        prompts: by name of a class or of a background word, or by one of its synonyms.
        vocabulary: the words of the call.
        kind: the class of the model.

    Raises:
        PromptError: prompts that cannot be used, a word that is not in the vocabulary or is in several of its classes,
            two words of one class, or a model that takes no prompts for words.
    """
    if not isinstance(prompts, Mapping):
        raise PromptError(f'the prompts are {shown(prompts)}; give those of each word, {{"cat": WordPrompts(...)}}')
    if prompts:
        _require_word_prompts(kind)
    found: dict[int, NamedPrompts] = {}
    for word, value in prompts.items():
        row = _row_of(word, vocabulary)
        if row in found:
            raise PromptError(
                f'there are prompts of "{found[row].word}" and of "{word}", which are one class: join them'
            )
        with _naming(word):
            found[row] = NamedPrompts(word, WordPrompts.of(value))
    return found


def model_prompts(
    named: Mapping[int, NamedPrompts], model: PromptableModel, size: tuple[int, int]
) -> dict[int, Prompts]:
    """Prompts by rows as `SegmentingModel.with_prompts` takes them; `size` is the (H, W) of the image.

    Raises:
        PromptError: they do not fit the image; see `WordPrompts.for_model`.
    """
    found = {}
    for row, (word, prompts) in named.items():
        with _naming(word):
            found[row] = prompts.for_model(model, size)
    return found


def _require_word_prompts(kind: type) -> None:
    if not takes_word_prompts(kind):
        able = " or ".join(name for name, system in META_ARCH_REGISTRY if takes_word_prompts(system))
        raise PromptError(
            f"{kind.__name__} does not take prompts for words; leave them out, or take a configuration of {able}"
        )


def takes_word_prompts(kind: type) -> bool:
    """Whether a class of models takes what is pointed at for words."""
    is_able = issubclass(kind, SegmentingModel) and issubclass(kind, PromptableModel)
    return is_able and kind.with_prompts is not SegmentingModel.with_prompts


def _row_of(word: str, vocabulary: Vocabulary) -> int:
    """The row of a word: that of this whole name, else the only one that has it among its synonyms."""
    if not isinstance(word, str):
        raise PromptError(f"there are prompts of {shown(word)}; name a word of the vocabulary")
    wanted = [part.strip().casefold() for part in re.split(r"[,|]", word)]
    rows = [[synonym.casefold() for synonym in row] for row in vocabulary.rows]
    if wanted in rows:
        return rows.index(wanted)
    found = [index for index, row in enumerate(rows) if wanted == [synonym for synonym in row if synonym in wanted]]
    if len(found) == 1:
        return found[0]
    start = f'there are prompts of "{word}"'
    if found:
        names = (*vocabulary.names, *vocabulary.background)
        raise PromptError(f"{start}, which is in several classes; name one, {_quoted([names[i] for i in found])}")
    if wanted == [BACKGROUND] and vocabulary.background:
        raise PromptError(f"{start}; name one of its words instead, such as {_quoted(vocabulary.background[:5])}")
    known = list(dict.fromkeys(synonym for row in vocabulary.rows for synonym in row))
    near = difflib.get_close_matches(word, known, n=5, cutoff=0.3) or known[:5]
    raise PromptError(f"{start}, which is not in the vocabulary; it has {len(known)} words, such as {_quoted(near)}")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


@contextmanager
def _naming(word: str) -> Iterator[None]:
    """Says of which word the prompts are that cannot be used."""
    try:
        yield
    except PromptError as error:
        raise PromptError(f'the prompts of "{word}": {error}') from error


def _cells(region: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(1, h, w) bool: the cells of which a mask (H, W) covers half; of a smaller mask, those that it covers most."""
    cover = F.adaptive_avg_pool2d(torch.from_numpy(region)[None].float(), size)
    return cover >= cover.max().clamp(max=0.5)
