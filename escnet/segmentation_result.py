"""What a model says of one image: label map, scores, and what is drawn and written of them."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from escnet.annotations.coco import to_coco
from escnet.annotations.label_studio import to_label_studio
from escnet.annotations.labelled_image import LabelledImage
from escnet.annotations.outlines import Outline, mask_outlines
from escnet.annotations.supervision_detections import to_supervision
from escnet.annotations.yolo import to_yolo
from escnet.data.images import write_labels
from escnet.drawing.overlay import overlay
from escnet.safe_files import replacing
from escnet.vocabulary import Vocabulary

if TYPE_CHECKING:
    from supervision import Detections
    from torch import Tensor

    from escnet.layers.pseudo_prompts import PseudoPrompts

# Of a printed result, so many of the largest classes; of a shown one, the pixels of the longer side.
NAMED_CLASSES = 3
SHOWN_PIXELS = 1600


@dataclass(frozen=True, repr=False)
class SegmentationResult:
    """What a model says of one image, H by W pixels.

    Attributes:
        labels: (H, W) int32, indices into `class_names`.
        scores: (H, W) float32, the probability of each pixel's label.
        image: (H, W, 3) uint8 RGB, the image as it was read.
        vocabulary: the words by which it was segmented.
        correlations: (1, M, h, w) each, CLIP's correlation maps, then those after each block; on the CPU.
        prompts: the pseudo prompts of each block, on the CPU.
        rows: (1, M) the vocabulary rows to which these maps belong; None for all in order.
        class_scores: (N, H, W) float32, the probability of each class at each pixel, with TEST.FULL_SCORES; else None.
        considered: how many of the vocabulary's rows competed for the pixels in the end, where the model has left out
            the others before; None for as many as have maps.
    """

    labels: np.ndarray
    scores: np.ndarray
    image: np.ndarray
    vocabulary: Vocabulary
    correlations: list[Tensor] = field(default_factory=list)
    prompts: list[PseudoPrompts] = field(default_factory=list)
    rows: Tensor | None = None
    class_scores: np.ndarray | None = None
    considered: int | None = None

    def __repr__(self) -> str:
        summary = self.summary()
        largest = ", ".join(f"{entry['name']} {entry['fraction']:.1%}" for entry in summary["classes"][:NAMED_CLASSES])
        rest = len(summary["classes"]) - NAMED_CLASSES
        more = f" and {rest} more" if rest > 0 else ""
        return f"SegmentationResult({summary['width']}x{summary['height']}: {largest}{more})"

    def _repr_png_(self) -> bytes:
        """The overlay as a PNG file, which is what a notebook shows."""
        picture = self.overlay()
        # A notebook keeps what it shows, and no screen has more pixels.
        picture.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
        file = io.BytesIO()
        picture.save(file, format="PNG")
        return file.getvalue()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each index in `labels`."""
        return self.vocabulary.class_names

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool: where the class of this name is.

        Raises:
            ValueError: when the vocabulary has no class of this name.
        """
        if name not in self.class_names:
            near = difflib.get_close_matches(name, self.class_names, n=5, cutoff=0.3) or self.class_names[:5]
            known = ", ".join(f'"{other}"' for other in near)
            raise ValueError(f'the vocabulary has no class "{name}"; it has {len(self.class_names)}, such as {known}')
        return self.labels == self.class_names.index(name)

    def summary(self) -> dict[str, Any]:
        """What json.dump can write of the image: its size, all class names, and the classes present, the largest first.

        `words` is the number of rows of the vocabulary, one for each class and each word of the background, and
        `words_considered` is how many of them competed for the pixels in the end. Where that is fewer, the model has
        left out the others, and they are not present for that reason alone.
        """
        areas = np.bincount(self.labels.ravel(), minlength=len(self.class_names))
        totals = np.bincount(self.labels.ravel(), self.scores.ravel(), minlength=len(self.class_names))
        words = len(self.vocabulary.rows)
        considered = self.considered or (words if self.rows is None else self.rows.shape[1])
        return {
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "words": words,
            "words_considered": considered,
            "class_names": list(self.class_names),
            "background": list(self.vocabulary.background),
            "templates": list(self.vocabulary.templates),
            "classes": classes_present(areas, totals, self.class_names),
        }

    def polygons(self, name: str, tolerance: float = 0.0) -> list[Outline]:
        """The outlines of the connected parts of a class, each an exterior (P, 2) and holes (Q, 2), x and y in pixels.

        They run along the edges of the pixels: filled, they are the mask. With a tolerance they have fewer corners;
        see `escnet.annotations.outlines.mask_outlines`.

        Raises:
            ValueError: when the vocabulary has no class of this name, or for a negative tolerance.
        """
        return mask_outlines(self.mask(name), tolerance)

    def to_coco(
        self, file_name: str | None = None, image_id: int = 1, objects: bool = False, background: bool = False
    ) -> dict[str, Any]:
        """The image in COCO's format: "images", "annotations" and "categories", as json.dump can write them.

        Masks are run lengths, exact to the pixel. `score` is the mean probability over the mask, `bbox` x, y, width and
        height in pixels, `category_id` the index of the class plus one.

        Args:
            file_name: of the image, below the folder of images.
            image_id: its id.
            objects: an annotation for each connected part; else one for each class that is present.
            background: also for the class of the background words.
        """
        return to_coco(self._labelled_image(), file_name, image_id, objects, background)

    def to_yolo(self, background: bool = False) -> str:
        """The image as YOLO's lines: for each connected part the index of its class, and its polygon in shares of the
        sides. The format has no holes: they are joined to the outline by ways without width, and stay holes.
        """
        return to_yolo(self._labelled_image(), background)

    def to_supervision(self, objects: bool = False, background: bool = False) -> Detections:
        """The image as `supervision.Detections`: masks, boxes, class ids and names, mean probabilities as confidence.

        Args:
            objects, background: as for `to_coco`.

        Raises:
            ImportError: supervision is not installed.
        """
        return to_supervision(self._labelled_image(), objects, background)

    def to_label_studio(
        self, image: str | None = None, brush: bool = False, background: bool = False
    ) -> dict[str, Any]:
        """The image as a task of Label Studio with predictions, as json.dump can write it.

        Its labelling configuration has to have `<Image name="image" value="$image"/>`, and `<PolygonLabels>` or
        `<BrushLabels>` with `name="label" toName="image"` and the class names.

        Args:
            image: address of the picture, as Label Studio opens it.
            brush: a brush stroke for each class, exact to the pixel; else a polygon for each connected part, whose
                holes are joined to its outline by ways without width.
            background: also for the class of the background words.
        """
        return to_label_studio(self._labelled_image(), image, brush, background)

    def _labelled_image(self) -> LabelledImage:
        return LabelledImage(self.labels, self.class_names, self.scores, bool(self.vocabulary.background))

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """The image tinted by class, with a legend; see `escnet.visualization.overlay`."""
        return overlay(self.image, self.labels, self.class_names, self.scores, alpha)

    def draw_prompts(self, max_classes: int = 6) -> Image.Image:
        """The correlation maps and pseudo prompts of the largest classes; see `escnet.drawing.prompt_sheets`."""
        # Maps are tensors; a result without them, of an exported model, does without torch.
        from escnet.drawing.prompt_sheets import draw_prompts

        return draw_prompts(
            self.image, self.labels, self.vocabulary, self.correlations, self.prompts, self.rows, max_classes
        )

    def save_overlay(self, path: str | os.PathLike, alpha: float = 0.5) -> None:
        """Write `overlay` to a file, whose suffix says the format; never half-written."""
        _save_picture(path, self.overlay(alpha))

    def save_prompts(self, path: str | os.PathLike, max_classes: int = 6) -> None:
        """Write `draw_prompts` to a file, whose suffix says the format; never half-written."""
        _save_picture(path, self.draw_prompts(max_classes))

    def save_labels(self, path: str | os.PathLike) -> None:
        """Write `labels` as a grey PNG, of 8 bits for up to 256 classes, else of 16; never half-written."""
        write_labels(path, self.labels, bits=8 if len(self.class_names) <= 256 else 16)

    def save_class_scores(self, path: str | os.PathLike) -> None:
        """Write `class_scores` as a compressed .npz: "scores" (N, H, W) float16, and "class_names". Never half-written.

        Half precision keeps three digits of a probability, in half of the memory.

        Raises:
            ValueError: when the result has no class scores.
        """
        if self.class_scores is None:
            raise ValueError(f"{path}: there are no scores of all classes to write; set TEST.FULL_SCORES True")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, scores=self.class_scores.astype(np.float16), class_names=np.array(self.class_names)
            )


def classes_present(areas: np.ndarray, totals: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """What json.dump can write of the classes that have pixels, the largest first.

    Args:
        areas: (N,) the pixels of each class.
        totals: (N,) the sum of their scores.
        class_names: N names.
    """
    present = sorted(np.flatnonzero(areas).tolist(), key=lambda c: -areas[c])
    return [
        {
            "id": c,
            "name": class_names[c],
            "pixels": int(areas[c]),
            "fraction": float(areas[c] / areas.sum()),
            "mean_score": float(totals[c] / areas[c]),
        }
        for c in present
    ]


def _save_picture(path: str | os.PathLike, picture: Image.Image) -> None:
    suffix = Path(path).suffix.lower()
    formats = Image.registered_extensions()
    if suffix not in formats:
        raise ValueError(f'{path}: "{suffix}" is not the suffix of a picture format; use .png or .jpg')
    with replacing(path) as temporary:
        picture.save(temporary, format=formats[suffix])
