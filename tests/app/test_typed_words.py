"""Words from a browser: the command line's form, limits, and never a file of the server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from escnet.app.limits import Limits
from escnet.app.typed_words import typed_words
from escnet.vocabulary import Vocabulary, VocabularyError

LIMITS = Limits(words=4, word_length=20)


def test_words_are_as_the_command_line_has_them() -> None:
    names, background = typed_words("cat, building|edifice", " sky\n sea ", LIMITS)
    assert Vocabulary(names, background) == Vocabulary.parse("cat, building|edifice", "sky\nsea")


def test_a_file_of_the_server_is_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("password, key\n")
    assert Vocabulary.parse("secret").names == ("password", "key")
    names, background = typed_words("secret", "secret", LIMITS)
    assert (names, background) == (["secret"], ["secret"])
    assert Vocabulary(names).names == ("secret",)
    listed = tmp_path / "words.txt"
    listed.write_text("password\n")
    names, _ = typed_words(str(listed), "", Limits(words=4, word_length=len(str(listed))))
    with pytest.raises(VocabularyError, match="is the name of a file") as refused:
        Vocabulary(names)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "background", "message"),
    [
        ("", "", "the vocabulary is empty: give at least one class name"),
        (" \n", "sky", "the vocabulary is empty"),
        ("a, b, c", "d, e", "there are 5 words, where this page takes 4: .*--max-words"),
        ("a" * 21, "", '"a+..." has 21 characters, where this page takes 20'),
        ("a,; b", "", "has commas and"),
        ("a", "b" * 81, "the background words have 81 characters, where this page takes 80"),
    ],
)
def test_what_is_refused(text: str, background: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        typed_words(text, background, LIMITS)


def test_a_path_with_a_separator_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was looked at")

    monkeypatch.setattr(os.path, "exists", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    assert typed_words("/etc/passwd", "~/.ssh", LIMITS) == (["/etc/passwd"], ["~/.ssh"])
