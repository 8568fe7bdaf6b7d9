"""The words to segment by: class names, synonyms, background words, templates; and a cache for their embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

BACKGROUND = "background"
SINGLE_TEMPLATE = "a photo of a {}"

Value = TypeVar("Value")


class VocabularyError(ValueError):
    """A word list or a template that cannot be used; the message names the entry."""


@dataclass(frozen=True, init=False)
class Vocabulary:
    """An immutable list of classes; equal, and of equal hash, when names, background words and templates are equal.

    A name may hold synonyms, separated by commas ("building, edifice"). Background words are extra words whose pixels
    all belong to one last class, "background", which exists only if there are such words. Two classes may share a
    synonym, as 41 words of the ADE20K-847 list do, but not their whole name.

    Arguments:
      names: the class names, at least one.
      background: background words, each with synonyms if wanted.
      templates: "single" ("a photo of a {}"), "imagenet" (the 80 templates of CLIP), or own strings that hold "{}".
      allow_duplicates: accept classes of the same name, between which no model can tell: all their pixels go to the
        first. Numbers in the literature are made so.

    Raises:
      VocabularyError: for an empty list, name or synonym, a duplicate, or a template without "{}".
    """

    names: tuple[str, ...]
    background: tuple[str, ...]
    templates: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = field(repr=False, compare=False)
    """The synonyms of each class, then of each background word: one text embedding for each."""

    def __init__(
        self,
        names: Sequence[str],
        background: Sequence[str] = (),
        templates: str | Sequence[str] = "single",
        allow_duplicates: bool = False,
    ) -> None:
        stripped = _strip_all("class", names)
        if not stripped:
            raise VocabularyError("the vocabulary is empty: give at least one class name")
        words = _strip_all("background word", background)
        classes = tuple(_split_synonyms("class", index, name) for index, name in enumerate(stripped))
        others = tuple(_split_synonyms("background word", index, name) for index, name in enumerate(words))
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
    def parse(cls, text: str, background: str = "", templates: str | Sequence[str] = "single") -> Vocabulary:
        """Read the form of the command line: commas separate classes, "|" separates synonyms.

        Arguments:
          text: "cat, grass, building|edifice", or the path of a .txt file with one class per line, where blank lines
            do not count and both "," and "|" separate synonyms.
          background: background words in the same form; "" for none.
          templates: as for the constructor.

        Raises:
          VocabularyError: as the constructor, and for a .txt file that cannot be read.
        """
        return cls(_parse_names(text), _parse_names(background) if background.strip() else (), templates)

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
    """Keeps the `capacity` most recently used values; the key must hold all that the value depends on."""

    def __init__(self, capacity: int = 8) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, but must be at least 1")
        self.capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value of `key`; when it is not kept, compute and keep it, and drop the least recently used."""
        if key not in self._values:
            self._values[key] = compute()
        self._values.move_to_end(key)
        while len(self._values) > self.capacity:
            self._values.popitem(last=False)
        return self._values[key]

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()


def _strip_all(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise VocabularyError(f'"{names}" is one string, not a list of names; Vocabulary.parse reads a string')
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise VocabularyError(f"{kind} {index} is {name!r}, not a string")
    return tuple(name.strip() for name in names)


def _split_synonyms(kind: str, index: int, name: str) -> tuple[str, ...]:
    if not name:
        raise VocabularyError(f"{kind} {index} is empty")
    synonyms = tuple(word.strip() for word in name.split(","))
    if not all(synonyms):
        raise VocabularyError(f'{kind} {index}, "{name}", has an empty synonym')
    seen: set[str] = set()
    for word in synonyms:
        if word.casefold() in seen:
            raise VocabularyError(f'{kind} {index}, "{name}", has the synonym "{word}" twice')
        seen.add(word.casefold())
    return synonyms


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


def _parse_names(text: str) -> list[str]:
    if not text.strip().endswith(".txt"):
        return [name.replace("|", ",") for name in text.split(",")]
    path = Path(text.strip()).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path}: cannot be read as a UTF-8 list of classes, one per line ({error})") from None
    return [line.replace("|", ",") for line in lines if line.strip()]
