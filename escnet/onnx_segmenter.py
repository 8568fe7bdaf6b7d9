"""OnnxSegmenter: an image and words in, masks out, from exported graphs: ONNX Runtime and NumPy, without PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from escnet.data.images import MAX_PIXELS, any_picture
from escnet.onnx_text_encoder import OnnxTextEncoder
from escnet.segmentation_result import SegmentationResult
from escnet.vocabulary import Vocabulary
from escnet.word_lists import WordList

CARD, TOKENIZER = "card.json", "tokenizer.json"
# Of the card's own form: another number is another form.
FORM = 1
# Elements of the largest temporary array while labels are brought to the image's size.
STRIP_ELEMENTS = 1 << 22


class ExportedFilesError(ValueError):
    """Exported files that are missing, damaged or of another form; the message names the file."""


class OnnxSegmenter:
    """An exported model, ready to segment any image by any words; see docs/export.md.

        segmenter = OnnxSegmenter("exported")
        result = segmenter("photo.jpg", ["cat", "grass"])
        result.save_overlay("photo_overlay.png")

    Args:
        path: the folder that tools/export.py wrote, or the card.json in it.
        threads: of ONNX Runtime; 0 for as many as the machine has cores.

    Raises:
        ExportedFilesError: for a folder that is missing, incomplete, or of another form.
        ImportError: without onnxruntime, tokenizers or ftfy.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 0) -> None:
        folder = Path(path)
        self.folder = folder.parent if folder.name == CARD else folder
        self.card = read_card(self.folder)
        self._graphs = {name: _open_graph(self.folder / file, threads) for name, file in self.card["graphs"].items()}
        text = self.card["text"]
        self._words = OnnxTextEncoder(
            self._graphs["text"], self.folder / TOKENIZER, text["context_length"], text["start"], text["end"]
        )

    def __call__(
        self,
        image: Any,
        vocabulary: WordList | str | Vocabulary,
        background: WordList | str = (),
        value_range: tuple[float, float] | None = None,
        max_pixels: int | None = MAX_PIXELS,
    ) -> SegmentationResult:
        """Segment one image; arguments and errors as of `Segmenter.__call__`, but that no prompts are taken."""
        # Wrong words should be told before the image is encoded.
        words = self.vocabulary(vocabulary, background)
        return self.encode(image, value_range, max_pixels)(words)

    def encode(
        self, image: Any, value_range: tuple[float, float] | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> OnnxEncodedImage:
        """Encode an image once, to be segmented by as many vocabularies as are wanted; as `Segmenter.encode`.

        Raises:
            ImageError, ValueError: as a call does.
        """
        pixels = any_picture(image, value_range, max_pixels)
        features = self._graphs["encode"].run(None, {"image": np.ascontiguousarray(pixels)})
        return OnnxEncodedImage(self, pixels, features)

    def vocabulary(self, vocabulary: WordList | str | Vocabulary, background: WordList | str = ()) -> Vocabulary:
        """The words of a call as a Vocabulary with the templates of the card; a Vocabulary is left as it is.

        Raises:
            VocabularyError: for words that cannot be used, or background words beside a Vocabulary.
        """
        return Vocabulary.of(vocabulary, background, self.card["templates"])

    def text_features(self, vocabulary: Vocabulary) -> np.ndarray:
        """(rows, D) L2-normalised features of the rows of a vocabulary."""
        return self._words.encode(vocabulary)

    def logits(self, features: list[np.ndarray], text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segment by the words that are kept: the most likely by CLIP's maps, then by a first pass.

        Args:
            features: of one image, from `encode`.
            text: (N, D).

        Returns:
            (M, H', W') logits and (M,) the rows of the vocabulary that they belong to.
        """
        choice, rows = self.card["choice"], np.arange(len(text))
        if 0 < choice["most"] < len(rows):
            (shares,) = self._graphs["rank"].run(None, {"dense": features[0], "text": text})
            rows = rows[_highest(shares[0], choice["most"])]
        if 0 < choice["keep"] < len(rows):
            shares = self._first_pass(features, text[rows])
            number = choice["keep"]
            if choice["keep_share"] > 0:
                number = int(np.clip((shares >= choice["keep_share"]).sum(), choice["keep_least"], number))
            rows = rows[_highest(shares, number)]
        return self._run("segment", features, text[rows])[0][0], rows

    def _first_pass(self, features: list[np.ndarray], text: np.ndarray) -> np.ndarray:
        """(M,) the share by which a first pass ranks words: by graphs of its own, or the shares of a whole pass."""
        return (
            self._run("first", features, text)[0][0]
            if "first" in self._graphs
            else (self._run("segment", features, text)[1][0])
        )

    def _run(self, name: str, features: list[np.ndarray], text: np.ndarray) -> list[np.ndarray]:
        graph = self._graphs[name]
        names = [given.name for given in graph.get_inputs()]
        return graph.run(None, dict(zip(names, [*features, text], strict=True)))


@dataclass(frozen=True)
class OnnxEncodedImage:
    """An image that `OnnxSegmenter.encode` has encoded: a call with words costs no further pass of the image encoder.

    Attributes:
        segmenter: by which.
        pixels: (H, W, 3) uint8 RGB.
        features: what the graph of the image encoder has of it.
    """

    segmenter: OnnxSegmenter
    pixels: np.ndarray = field(repr=False)
    features: list[np.ndarray] = field(repr=False)

    def __call__(self, vocabulary: WordList | str | Vocabulary, background: WordList | str = ()) -> SegmentationResult:
        """Segment the image; words as for `OnnxSegmenter.__call__`.

        Raises:
            VocabularyError: for words that cannot be used.
        """
        words = self.segmenter.vocabulary(vocabulary, background)
        logits, rows = self.segmenter.logits(self.features, self.segmenter.text_features(words))
        best, scores = label_map(logits, self.pixels.shape[:2])
        labels = np.asarray(words.row_to_class, dtype=np.int32)[rows][best]
        return SegmentationResult(labels, scores, self.pixels, words, considered=len(rows))


def read_card(folder: Path) -> dict[str, Any]:
    """What tools/export.py wrote of its graphs.

    Raises:
        ExportedFilesError: it, or a file that it names, is missing, or of another form.
    """
    path = folder / CARD
    remedy = "give the folder that tools/export.py wrote"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExportedFilesError(f"{path}: cannot be read ({type(error).__name__}); {remedy}") from None
    if not isinstance(card, dict) or card.get("form") != FORM:
        raise ExportedFilesError(f"{path}: is not a card of form {FORM}; {remedy}, of this version of escnet")
    for file in (*card["graphs"].values(), TOKENIZER):
        if Path(file).name != file or not (folder / file).is_file():
            raise ExportedFilesError(f"{folder / file}: is named in {CARD}, but is not there; {remedy}, whole")
    return card


def label_map(logits: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Resize logits bilinearly and take the best row of each pixel, a strip of the image at a time.

    Args:
        logits: (M, h, w).
        size: (H, W) of the image.

    Returns:
        The index of the best row (H, W) int64, and its probability (H, W) float32; the softmax's normaliser is computed
        on the grid of the logits and resized with them, as PyTorch's label map does.
    """
    greatest = logits.max(axis=0)
    normaliser = greatest + np.log(np.exp(logits - greatest).sum(axis=0))
    stacked = np.concatenate([logits, normaliser[None]]).astype(np.float32)
    labels, scores = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float32)
    for rows, strip in _resized_strips(stacked, size):
        best = strip[:-1].argmax(axis=0)
        labels[rows] = best
        scores[rows] = np.exp(np.take_along_axis(strip, best[None], axis=0)[0] - strip[-1])
    return labels, scores


def _resized_strips(maps: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, (M, rows, W)) of maps (M, h, w) resized to (H, W), pixels from the middle of the outermost points on."""
    above, below, down = _neighbours(size[0], maps.shape[1])
    left, right, across = _neighbours(size[1], maps.shape[2])
    step = max(1, STRIP_ELEMENTS // (len(maps) * size[1]))
    for start in range(0, size[0], step):
        rows = slice(start, min(start + step, size[0]))
        first = maps[:, above[rows]]
        strip = first + (maps[:, below[rows]] - first) * down[rows, None]
        yield rows, strip[..., left] * (1 - across) + strip[..., right] * across


def _neighbours(pixels: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two points between which each pixel lies, and the weight of the second."""
    position = np.maximum((np.arange(pixels) + 0.5) * (points / pixels) - 0.5, 0)
    first = np.minimum(position.astype(np.int64), points - 1)
    return first, np.minimum(first + 1, points - 1), (position - first).astype(np.float32)


def _highest(shares: np.ndarray, number: int) -> np.ndarray:
    """The places of the highest shares, so many, in order; the first of equals."""
    return np.sort(np.argsort(-shares, kind="stable")[:number])


def _open_graph(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("exported graphs need ONNX Runtime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common base
        raise ExportedFilesError(f"{path}: ONNX Runtime cannot open it ({str(error).splitlines()[0]})") from None
