"""Word lists on the command line, in files and in Python: each becomes entries of the form "name, synonym, ..."."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

WordList = Iterable[str] | Mapping[str, str | Iterable[str]] | os.PathLike

# No word ends so: what does is a file, whether it is there or not.
_SUFFIXES = (".txt", ".json", ".csv", ".tsv", ".yaml", ".yml")


class VocabularyError(ValueError):
    """A word list or a template that cannot be used; the message names the entry."""


def list_words(kind: str, words: WordList) -> tuple[str, ...]:
    """The entries of a word list that is no string, stripped, with "," between synonyms.

    Args:
        kind: what the entries are, for messages: "class" or "background word".
        words: names in a fixed order (a generator too), each with synonyms after "," or "|"; a mapping of names to
            synonyms; or the path of a file as `read_word_file` takes it.

    Raises:
        VocabularyError: for anything else, and for an entry that is not a string, holds ";" or a line break, or is the
            name of a file.
    """
    if isinstance(words, str | bytes):
        raise VocabularyError(f'"{words!s}" is one string, not a list of names; Vocabulary.parse reads a string')
    if isinstance(words, set | frozenset):
        raise VocabularyError(f"the {kind} names are a set, whose order is not fixed: give sorted(...) or a list")
    if isinstance(words, os.PathLike):
        words = read_word_file(Path(words))
    if isinstance(words, Mapping):
        words = [_with_synonyms(f"{kind} {index}", *item) for index, item in enumerate(words.items())]
    if not isinstance(words, Iterable):
        raise VocabularyError(
            f"the {kind} names are {words!r}, but have to be a list of strings, a mapping of names to synonyms, or the "
            f"Path of a file; an empty list is ()"
        )
    return tuple(_entry(kind, index, word) for index, word in enumerate(words))


def parse_words(text: str | os.PathLike) -> list[str]:
    """The entries of a word list in the form of the command line.

    Args:
        text: "cat, grass, building|edifice": commas, or else semicolons and line breaks, separate classes, "|"
            separates synonyms. Or the path of a file that exists, of any suffix; see `read_word_file`.

    Raises:
        VocabularyError: when it is no string, mixes commas with other separators, or names a file that is missing.
    """
    if not isinstance(text, str | os.PathLike):
        raise VocabularyError(f"{text!r} is not a string; give a list of names to Vocabulary itself")
    path = Path(os.path.expanduser(text if isinstance(text, os.PathLike) else text.strip()))
    # Not is_file(): a pipe, as shells give it for <(command), is read as well. A folder may have the name of a word.
    if isinstance(text, os.PathLike) or (os.path.exists(path) and not os.path.isdir(path)):
        if not path.suffix and str(path) == path.name:
            logger.warning('"%s" is a file here and is read as a word list; rename it to mean the word', path)
        return read_word_file(path)
    if path.suffix.casefold() in _SUFFIXES and not re.search(r"[,;|\n]", text):
        raise VocabularyError(f"{path}: there is no such file; check the path of the word list")
    if os.path.isdir(path) and os.sep in text:
        raise VocabularyError(f"{path}: is a folder; give the file of the word list")
    return split_classes(text)


def read_word_file(path: Path) -> list[str]:
    """The entries of a UTF-8 file of words.

    JSON (.json) is a list of names, or an object of names with their synonyms, each a string or a list of strings. Any
    other file is text with one class a line, where blank lines do not count and "," and "|" separate synonyms; a text
    of one line is read as the command line is, commas separate its classes.

    Raises:
        VocabularyError: for a file that cannot be read, or holds no words or something else; the message names it.
    """
    try:
        # Windows puts a mark before the first name, which is none of its letters.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path}: cannot be read as a UTF-8 list of classes, one per line ({error})") from None
    entries = _json_entries(path, text) if path.suffix.casefold() == ".json" else _lines(text)
    if not entries:
        raise VocabularyError(f"{path}: holds no words; write one class a line")
    return entries


def split_classes(text: str) -> list[str]:
    """The entries of a text in the form of the command line, of which none is ever taken for the name of a file.

    Raises:
        VocabularyError: when it mixes commas with other separators.
    """
    # A line break beside another separator only wraps a long list.
    text = re.sub(r"\s*([,;])\s*", r"\1", "\n".join(text.strip().splitlines()))
    others = [name for separator, name in ((";", '";"'), ("\n", "line breaks")) if separator in text]
    if "," not in text:
        return re.split(r";|\s*\n\s*", text)
    if others:
        raise VocabularyError(
            f'"{" ".join(text.split())}" has commas and {" and ".join(others)}: separate classes by one of them, and '
            f'synonyms by "|"'
        )
    return text.split(",")


def split_synonyms(kind: str, index: int, name: str) -> tuple[str, ...]:
    """The synonyms of an entry, "building, edifice".

    Raises:
        VocabularyError: when one is empty or occurs twice.
    """
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


def _entry(kind: str, index: int, word: Any) -> str:
    if not isinstance(word, str):
        raise VocabularyError(f"{kind} {index} is {word!r}, not a string")
    name = str(word).strip().replace("|", ",")
    if separators := re.search(r"[;\n\r]", name):
        raise VocabularyError(
            f"{kind} {index}, {name!r}, holds {separators[0]!r}: give each class as an entry of its own, and separate "
            f'synonyms by ","'
        )
    if os.path.splitext(name)[1].casefold() in _SUFFIXES:
        raise VocabularyError(
            f'{kind} {index}, "{name}", is the name of a file: give the file alone, in Python as a Path; words and '
            f"files do not mix"
        )
    return name


def _with_synonyms(entry: str, name: Any, synonyms: Any) -> str:
    listed = [synonyms] if isinstance(synonyms, str) else synonyms
    if not isinstance(name, str) or not isinstance(listed, list | tuple) or not all(isinstance(s, str) for s in listed):
        raise VocabularyError(
            f"{entry} is {name!r} with the synonyms {synonyms!r}; both have to be strings, several synonyms a list"
        )
    if name.strip().isdecimal():
        raise VocabularyError(f'{entry} is called "{name}": give names with their synonyms, not ids with names')
    return ", ".join([name, *(word for word in listed if word.strip())])


def _lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return split_classes(lines[0]) if len(lines) == 1 else lines


def _json_entries(path: Path, text: str) -> list[str]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise VocabularyError(f'{path}: has "{min(twice)}" twice; give each class once')
        return dict(pairs)

    try:
        words = json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise VocabularyError(f"{path}: is not valid JSON ({error})") from None
    if isinstance(words, dict):
        return [_with_synonyms(f"{path}: entry {index}", *item) for index, item in enumerate(words.items())]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise VocabularyError(
            f"{path}: has to be a list of strings, or an object of names with their synonyms, such as "
            f'{{"building": ["edifice"], "cat": []}}'
        )
    return words
