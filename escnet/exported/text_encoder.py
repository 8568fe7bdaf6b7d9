"""Words to CLIP's text features by ONNX Runtime, without PyTorch: cleaning, tokens, the tower, and the averages."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np

from escnet.vocabulary import TextEmbeddingCache, Vocabulary, VocabularyError

# How many texts go through the tower at once.
CHUNK = 256


class OnnxTextEncoder:
    """The exported text tower of CLIP with its tokenizer: one feature for each row of a vocabulary.

    Args:
        graph: tokens (T, context length) int64 to normalised features (T, D), `embedded`.
        tokenizer_file: a tokenizer.json of the `tokenizers` library.
        context_length: the most tokens of a text, start and end included.
        start, end: their ids.

    Raises:
        ImportError: without `tokenizers` or `ftfy`.
    """

    def __init__(self, graph: Any, tokenizer_file: Path, context_length: int, start: int, end: int) -> None:
        try:
            import ftfy
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(f"words need {error.name}: pip install tokenizers ftfy") from None
        self._graph, self._fix_text = graph, ftfy.fix_text
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self.context_length, self.start, self.end = context_length, start, end
        self._cache: TextEmbeddingCache[np.ndarray] = TextEmbeddingCache()

    def encode(self, vocabulary: Vocabulary) -> np.ndarray:
        """(rows, D) float32, L2-normalised: means over templates, normalised, and over synonyms, normalised.

        Raises:
            VocabularyError: for a text that is longer than the context.
        """
        return self._cache.get(vocabulary, lambda: self._encode(vocabulary))

    def encode_empty(self, templates: tuple[str, ...]) -> np.ndarray:
        """(D,) the feature of templates without a word, as `ClipTextEncoder.encode_empty` has it."""
        texts = [template.replace("{}", "") for template in templates]
        return _normalised(self._embed([self._fitting_tokens("", text) for text in texts]).mean(axis=0))

    def tokens(self, text: str) -> list[int]:
        """A text as CLIP's tokenizer has it, start and end included, of any length."""
        cleaned = html.unescape(html.unescape(self._fix_text(text))).strip()
        cleaned = " ".join(cleaned.split()).lower()
        return [self.start, *self._tokenizer.encode(cleaned, add_special_tokens=False).ids, self.end]

    def _encode(self, vocabulary: Vocabulary) -> np.ndarray:
        templates = len(vocabulary.templates)
        texts = [
            (name, template.replace("{}", name))
            for synonyms in vocabulary.rows
            for name in synonyms
            for template in vocabulary.templates
        ]
        features = self._embed([self._fitting_tokens(name, text) for name, text in texts])
        names = _normalised(features.reshape(-1, templates, features.shape[1]).mean(axis=1))
        sizes = [len(synonyms) for synonyms in vocabulary.rows]
        if max(sizes) == 1:
            return names
        parts = np.split(names, np.cumsum(sizes)[:-1])
        return _normalised(np.stack([part.mean(axis=0) for part in parts]))

    def _fitting_tokens(self, name: str, text: str) -> list[int]:
        tokens = self.tokens(text)
        if len(tokens) > self.context_length:
            raise VocabularyError(
                f'"{name}" is too long: the text "{text}" needs {len(tokens)} tokens, and the text encoder takes '
                f"{self.context_length}; shorten the name or the template"
            )
        return tokens

    def _embed(self, texts: list[list[int]]) -> np.ndarray:
        """(T, D) of tokens. Attention is causal, so that padding behind a text does nothing."""
        tokens = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = text
        chunks = [tokens[first : first + CHUNK] for first in range(0, len(tokens), CHUNK)]
        return np.concatenate([self._graph({"tokens": chunk})["embedded"] for chunk in chunks])


def _normalised(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
