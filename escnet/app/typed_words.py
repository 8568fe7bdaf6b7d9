"""Words as they are typed into the page: in the form of the command line, but never the name of a file."""

from __future__ import annotations

from escnet.app.limits import Limits
from escnet.word_lists import VocabularyError, split_classes


def typed_words(text: str, background: str, limits: Limits) -> tuple[list[str], list[str]]:
    """The class names and the background words of two texts, "cat, grass, building|edifice".

    What a browser sends must not name a file of the server, so that a list here has no paths and is not to be given to
    `Vocabulary.parse`.

    Raises:
        VocabularyError: there are too many, one is too long, or separators are mixed; other faults are told by
            `Vocabulary` itself.
    """
    longest = limits.words * limits.word_length
    for kind, given in (("words", text), ("background words", background)):
        if len(given) > longest:
            raise VocabularyError(f"the {kind} have {len(given)} characters, where this page takes {longest}")
    names, others = _split(text), _split(background)
    if not names:
        raise VocabularyError("the vocabulary is empty: give at least one class name")
    if len(names) + len(others) > limits.words:
        raise VocabularyError(
            f"there are {len(names) + len(others)} words, where this page takes {limits.words}: leave some out, or "
            f"start it with --max-words"
        )
    for word in (*names, *others):
        if len(word) > limits.word_length:
            raise VocabularyError(
                f'"{word[:30]}..." has {len(word)} characters, where this page takes {limits.word_length}; shorten it'
            )
    return names, others


def _split(text: str) -> list[str]:
    return split_classes(text) if text.strip() else []
