"""OnnxSegmenter: an image and words in, masks out, from exported graphs: ONNX Runtime and NumPy, without PyTorch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from escnet.data.images import MAX_PIXELS, any_picture
from escnet.exported.card import CARD, ONNX, PROGRAM, TOKENIZER, WHOLE, ExportedFilesError, read_card
from escnet.exported.label_map import label_map
from escnet.exported.narrowing import Arrays, Choice, segment
from escnet.exported.onnx_graph import CPU, OnnxGraph
from escnet.exported.text_encoder import OnnxTextEncoder
from escnet.segmentation_result import SegmentationResult
from escnet.vocabulary import Vocabulary, VocabularyError
from escnet.word_lists import WordList

_OPENED_BY = {ONNX: "escnet.OnnxSegmenter", PROGRAM: "escnet.ProgramSegmenter"}


class ExportedSegmenter(ABC):
    """An exported model, ready to segment any image by any words; of which kind, its subclasses say.

    Args:
        path: the folder that tools/export.py wrote, or the card.json in it.
        threads: as many as the machine has cores for 0.

    Raises:
        ExportedFilesError: for a folder that is missing, incomplete, or of another form or kind.
        ImportError: without what runs the graphs, tokenizers or ftfy.
    """

    kind: ClassVar[str]

    def __init__(self, path: str | os.PathLike, threads: int = 0) -> None:
        folder = Path(path)
        self.folder = folder.parent if folder.name == CARD else folder
        self.card = read_card(self.folder)
        if self.card["kind"] != self.kind:
            raise ExportedFilesError(f"{self.folder}: open it by {_OPENED_BY[self.card['kind']]}")
        self._graphs = {
            name: self.open_graph(self.folder / graph["file"], graph, threads)
            for name, graph in self.card["graphs"].items()
        }
        self._choice = Choice(**self.card["choice"])
        words = self.card["words"]
        self.words = None if words is None else Vocabulary(words["names"], words["background"], words["templates"])
        self._text = None
        if self.words is None:
            text = self.card["text"]
            self._text = OnnxTextEncoder(
                self._graphs["text"], self.folder / TOKENIZER, text["context_length"], text["start"], text["end"]
            )

    @abstractmethod
    def open_graph(self, path: Path, graph: dict[str, Any], threads: int) -> Any:
        """A graph, as the card has it: called with arrays by name, it gives arrays by name."""

    def __call__(
        self,
        image: Any,
        vocabulary: WordList | str | Vocabulary | None = None,
        background: WordList | str = (),
        value_range: tuple[float, float] | None = None,
        max_pixels: int | None = MAX_PIXELS,
    ) -> SegmentationResult:
        """Segment one image; arguments and errors as of `Segmenter.__call__`, but that no prompts are taken.

        A model with words of its own (`words`) is given none.
        """
        # Wrong words should be told before the image is encoded.
        words = self.vocabulary(vocabulary, background)
        return self.encode(image, value_range, max_pixels)(words)

    def encode(
        self, image: Any, value_range: tuple[float, float] | None = None, max_pixels: int | None = MAX_PIXELS
    ) -> ExportedImage:
        """Encode an image once, to be segmented by as many vocabularies as are wanted; as `Segmenter.encode`.

        A model of one file is run as a whole with each of them.

        Raises:
            ImageError, ValueError: as a call does.
        """
        pixels = any_picture(image, value_range, max_pixels)
        given = {"image": np.ascontiguousarray(pixels)}
        return ExportedImage(self, pixels, given if WHOLE in self._graphs else self._graphs["encode"](given))

    def vocabulary(self, vocabulary: WordList | str | Vocabulary | None, background: WordList | str = ()) -> Vocabulary:
        """The words of a call as a Vocabulary with the templates of the card; a Vocabulary is left as it is.

        Raises:
            VocabularyError: for words that cannot be used, or background words beside a Vocabulary; for none, or, to a
                model with words of its own, others.
        """
        if self.words is not None:
            if vocabulary is None and not background:
                return self.words
            given = Vocabulary.of(
                self.words.names if vocabulary is None else vocabulary, background, self.words.templates
            )
            if given != self.words:
                raise VocabularyError(
                    f"{self.folder}: was exported for the words {', '.join(self.words.class_names)}; leave others out, "
                    "or export the model without --words"
                )
            return self.words
        if vocabulary is None:
            raise VocabularyError("there are no words; give at least one")
        return Vocabulary.of(vocabulary, background, self.card["templates"])

    def text_features(self, vocabulary: Vocabulary) -> np.ndarray:
        """(rows, D) L2-normalised features of the rows of a vocabulary.

        Raises:
            ExportedFilesError: the model has words of its own, and no text encoder.
        """
        if self._text is None:
            raise ExportedFilesError(f"{self.folder}: was exported for words of its own, without CLIP's text encoder")
        return self._text.encode(vocabulary)

    def segmented(self, features: Arrays, vocabulary: Vocabulary, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """What `encode` gave, by words: classes (H, W) int32, their scores (H, W) float32, and the (M,) rows kept."""
        given = dict(features)
        if self._text is not None:
            given["text"] = self._text.encode(vocabulary)
            if self.card["subtracts_empty"]:
                given["empty"] = self._text.encode_empty(vocabulary.templates)
        if WHOLE in self._graphs:
            found = self._graphs[WHOLE](given)
            best, scores, rows = found["labels"], found["scores"], found["kept"]
            # A model with words of its own knows their classes.
            return (best if self._text is None else self._classes(vocabulary)[best]), scores, rows
        logits, rows = segment(self._graphs, self._choice, given, given["text"])
        best, scores = label_map(logits, size)
        return self._classes(vocabulary)[rows][best], scores, rows

    @staticmethod
    def _classes(vocabulary: Vocabulary) -> np.ndarray:
        return np.asarray(vocabulary.row_to_class, dtype=np.int32)


class OnnxSegmenter(ExportedSegmenter):
    """An exported model, run by ONNX Runtime and NumPy without PyTorch; see docs/export.md.

        segmenter = OnnxSegmenter("exported")
        result = segmenter("photo.jpg", ["cat", "grass"])
        result.save_overlay("photo_overlay.png")

    Args:
        path: the folder that tools/export.py wrote, or the card.json in it.
        threads: of ONNX Runtime; 0 for as many as the machine has cores.
        providers: of ONNX Runtime, what it computes by, such as "CUDAExecutionProvider" of onnxruntime-gpu.

    Raises:
        ExportedFilesError: for a folder that is missing, incomplete, or of another form or kind.
        ImportError: without onnxruntime, tokenizers or ftfy.
        ValueError: for a provider that there is not.
    """

    kind = ONNX

    def __init__(self, path: str | os.PathLike, threads: int = 0, providers: Sequence[str] = (CPU,)) -> None:
        self.providers = tuple(providers)
        super().__init__(path, threads)

    def open_graph(self, path: Path, graph: dict[str, Any], threads: int) -> OnnxGraph:
        """An ONNX file."""
        return OnnxGraph(path, threads, self.providers)


@dataclass(frozen=True)
class ExportedImage:
    """An image that `OnnxSegmenter.encode` has encoded: a call with words costs no further pass of the image encoder.

    Attributes:
        segmenter: by which.
        pixels: (H, W, 3) uint8 RGB.
        features: what the graph of the image encoder has of it, by name.
    """

    segmenter: ExportedSegmenter
    pixels: np.ndarray = field(repr=False)
    features: Arrays = field(repr=False)

    def __call__(
        self, vocabulary: WordList | str | Vocabulary | None = None, background: WordList | str = ()
    ) -> SegmentationResult:
        """Segment the image; words as for `OnnxSegmenter.__call__`.

        Raises:
            VocabularyError: for words that cannot be used.
        """
        words = self.segmenter.vocabulary(vocabulary, background)
        labels, scores, rows = self.segmenter.segmented(self.features, words, self.pixels.shape[:2])
        return SegmentationResult(labels, scores, self.pixels, words, considered=len(rows))
