"""The words to segment by: class names, synonyms, background words, templates; and a cache for their embeddings."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from escnet.word_lists import VocabularyError, WordList, list_words, parse_words, split_synonyms

__all__ = ["BACKGROUND", "SINGLE_TEMPLATE", "TextEmbeddingCache", "Vocabulary", "VocabularyError"]

BACKGROUND = "background"
SINGLE_TEMPLATE = "a photo of a {}"

Value = TypeVar("Value")


@dataclass(frozen=True, init=False)
class Vocabulary:
    """An immutable list of classes; equal, and of equal hash, when names, background words and templates are equal.

    A name may hold synonyms, separated by "," or "|" ("building, edifice"). Background words are extra words whose
    pixels all belong to one last class, "background", which exists only if there are such words. Two classes may share
    a synonym, as 41 words of the ADE20K-847 list do, but not their whole name.

    Arguments:
      names: the class names, at least one: an iterable in a fixed order, a mapping of names to their synonyms, or the
        Path of a file as `parse` takes it.
      background: background words in the same form, () for none.
      templates: "single" ("a photo of a {}"), "imagenet" (the 80 templates of CLIP), or own strings that hold "{}".
      allow_duplicates: accept classes of the same name, between which no model can tell: all their pixels go to the
        first. Numbers in the literature are made so.

    Raises:
      VocabularyError: for an empty list, name or synonym, a duplicate, a template without "{}", a set, whose order is
        not fixed, or what is no list of words at all.
    """

    names: tuple[str, ...]
    background: tuple[str, ...]
    templates: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = field(repr=False, compare=False)
    """The synonyms of each class, then of each background word: one text embedding for each."""

    def __init__(
        self,
        names: WordList,
        background: WordList = (),
        templates: str | Sequence[str] = "single",
        allow_duplicates: bool = False,
    ) -> None:
        stripped = list_words("class", names)
        if not stripped:
            raise VocabularyError("the vocabulary is empty: give at least one class name")
        words = list_words("background word", background)
        classes = tuple(split_synonyms("class", index, name) for index, name in enumerate(stripped))
        others = tuple(split_synonyms("background word", index, name) for index, name in enumerate(words))
        if not allow_duplicates:
            _refuse_duplicates(classes, others)
        _refuse_overlap(classes, others)
        for name, value in (
            ("names", stripped),
            ("background", words),
            ("templates", _resolve_templates(templates)),
            ("rows", classes + others),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def parse(
        cls, text: str | os.PathLike, background: str | os.PathLike = "", templates: str | Sequence[str] = "single"
    ) -> Vocabulary:
        """Read the form of the command line: commas separate classes, "|" separates synonyms.

        Arguments:
          text: "cat, grass, building|edifice", where semicolons or line breaks may stand for the commas; or the path of
            a file: JSON, or text with one class per line, where blank lines do not count and both "," and "|" separate
            synonyms (in a text of a single line, commas separate classes).
          background: background words in the same form; "" for none.
          templates: as for the constructor.

        Raises:
          VocabularyError: as the constructor, for a file that is missing or cannot be read, and for a text in which
            commas and other separators are mixed.
        """
        blank = isinstance(background, str) and not background.strip()
        return cls(parse_words(text), () if blank else parse_words(background), templates)

    @classmethod
    def of(
        cls, words: WordList | str | Vocabulary, background: WordList | str, templates: str | Sequence[str]
    ) -> Vocabulary:
        """The words that a segmenter is called with, in any form; a Vocabulary is left as it is.

        Arguments:
          words: class names, as for the constructor, or a text, as for `parse`; or a Vocabulary.
          background: further words in the same forms.
          templates: of words that are no Vocabulary.

        Raises:
          VocabularyError: for words that cannot be used, or background words beside a Vocabulary.
        """
        if isinstance(words, Vocabulary):
            if background:
                raise VocabularyError("a Vocabulary brings its own background words; give them to its constructor")
            return words
        if isinstance(words, str):
            words = cls.parse(words).names
        if isinstance(background, str):
            background = cls.parse(background).names if background.strip() else ()
        return cls(words, background, templates)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of the output: `names`, then "background" if there are background words."""
        return self.names + ((BACKGROUND,) if self.background else ())

    @property
    def num_classes(self) -> int:
        """How many classes the output has."""
        return len(self.class_names)

    @property
    def row_to_class(self) -> tuple[int, ...]:
        """The class of each row; every background row belongs to the last class."""
        return (*range(len(self.names)), *[len(self.names)] * len(self.background))


class TextEmbeddingCache(Generic[Value]):
    """Keeps the `capacity` most recently used values; the key must hold all that the value depends on.

    Many threads may use it at once. A copy, and a pickled one, starts empty.
    """

    def __init__(self, capacity: int = 8) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, but must be at least 1")
        self.capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[int]]:
        # A lock cannot be copied, and a copied model has other weights, of which no value is known.
        return type(self), (self.capacity,)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value of `key`; when it is not kept, compute and keep it, and drop the least recently used."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Not under the lock, so that nobody who finds his value waits for it. Two threads may compute the same one.
        value = compute()
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self.capacity:
                self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()


def _refuse_duplicates(classes: Sequence[tuple[str, ...]], background: Sequence[tuple[str, ...]]) -> None:
    for kind, entries in (("class", classes), ("background word", background)):
        first: dict[str, int] = {}
        for index, synonyms in enumerate(entries):
            name = ", ".join(synonyms)
            if name.casefold() in first:
                raise VocabularyError(f'{kind} {index}, "{name}", is the same as {kind} {first[name.casefold()]}')
            first[name.casefold()] = index


def _refuse_overlap(classes: Sequence[tuple[str, ...]], background: Sequence[tuple[str, ...]]) -> None:
    """Refuse background words that are also words of a class, and a class named as the background is."""
    owner = {word.casefold(): index for index, synonyms in enumerate(classes) for word in synonyms}
    for index, synonyms in enumerate(background):
        for word in synonyms:
            if word.casefold() in owner:
                raise VocabularyError(
                    f'background word {index}, "{word}", is also a word of class {owner[word.casefold()]}'
                )
    if background and BACKGROUND in owner:
        raise VocabularyError(
            f'class {owner[BACKGROUND]} is called "{BACKGROUND}", the name that the class of the background words has'
        )


def _resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    if templates == "single":
        return (SINGLE_TEMPLATE,)
    if templates == "imagenet":
        from open_clip import OPENAI_IMAGENET_TEMPLATES  # takes seconds, and word lists alone do not need it

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    own = (templates,) if isinstance(templates, str) else tuple(templates)
    if not own:
        raise VocabularyError("the list of templates is empty")
    for index, template in enumerate(own):
        if not isinstance(template, str) or "{}" not in template:
            raise VocabularyError(
                f'template {index}, {template!r}, has no "{{}}" for the name (or use "single" or "imagenet")'
            )
    return own
