"""Tests of the vocabulary: what it holds, what it refuses, and the cache of embeddings."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from escnet.vocabulary import TextEmbeddingCache, Vocabulary, VocabularyError


def test_synonyms_and_background_become_rows() -> None:
    vocabulary = Vocabulary([" building, edifice ", "cat"], background=["tree", "sky, heaven"])
    assert vocabulary.names == ("building, edifice", "cat")
    assert vocabulary.rows == (("building", "edifice"), ("cat",), ("tree",), ("sky", "heaven"))
    assert vocabulary.class_names == ("building, edifice", "cat", "background")
    assert vocabulary.num_classes == 3
    assert vocabulary.row_to_class == (0, 1, 2, 2)


def test_without_background_words_there_is_no_background_class() -> None:
    vocabulary = Vocabulary(["cat", "background"])
    assert vocabulary.class_names == ("cat", "background")
    assert vocabulary.row_to_class == (0, 1)


def test_equal_by_content() -> None:
    first, second = Vocabulary(["cat"], ["tree"]), Vocabulary(("cat ",), ("tree",), "a photo of a {}")
    assert first == second and hash(first) == hash(second)
    assert pickle.loads(pickle.dumps(first)) == first
    assert pickle.loads(pickle.dumps(first)).rows == first.rows
    others = [Vocabulary(["cat"]), Vocabulary(["dog"], ["tree"]), Vocabulary(["cat"], ["tree"], "the {}")]
    assert all(first != other for other in others)


def test_immutable() -> None:
    with pytest.raises(AttributeError):
        Vocabulary(["cat"]).names = ("dog",)


def test_templates() -> None:
    assert Vocabulary(["cat"]).templates == ("a photo of a {}",)
    assert Vocabulary(["cat"], templates=["{}", "the {}."]).templates == ("{}", "the {}.")
    imagenet = Vocabulary(["cat"], templates="imagenet").templates
    assert len(imagenet) == 80
    assert imagenet[0] == "a bad photo of a {}."
    assert all(template.count("{}") == 1 for template in imagenet)


@pytest.mark.parametrize(
    ("names", "background", "message"),
    [
        ([], [], "is empty"),
        (["cat", " "], [], "class 1 is empty"),
        (["cat"], ["tree", ""], "background word 1 is empty"),
        (["building,,edifice"], [], 'class 0, "building,,edifice", has an empty synonym'),
        (["cat", "dog", "Cat"], [], 'class 2, "Cat", is the same as class 0'),
        (["cat", "a, b", "A,B"], [], 'class 2, "A, B", is the same as class 1'),
        (["cat, Cat"], [], 'class 0, "cat, Cat", has the synonym "Cat" twice'),
        (["cat"], ["tree", "tree"], 'background word 1, "tree", is the same as background word 0'),
        (["dog", "cat, feline"], ["tree", "Feline"], 'background word 1, "Feline", is also a word of class 1'),
        (["cat", "background"], ["tree"], 'class 1 is called "background"'),
        ("cat", [], "Vocabulary.parse"),
        (["cat", 3], [], "class 1 is 3, not a string"),
        (b"cat", [], "Vocabulary.parse"),
        (None, [], "the class names are None"),
        (["cat"], None, "the background word names are None"),
        ({"cat", "dog"}, [], "a set, whose order is not fixed"),
        (["cat"], frozenset({"sky"}), "a set, whose order is not fixed"),
        (["sky; grass"], [], "class 0, 'sky; grass', holds ';'"),
        (["cat"], ["sky\ngrass"], "background word 0, 'sky\\\\ngrass', holds"),
        (["cat", "words.TXT"], [], 'class 1, "words.TXT", is the name of a file'),
        ({"0": "cat"}, [], 'class 0 is called "0"'),
        ({"cat": 3}, [], "class 0 is 'cat' with the synonyms 3"),
    ],
)
def test_refuses_and_names_the_entry(names: list, background: list, message: str) -> None:
    with pytest.raises(VocabularyError, match=message.replace("(", r"\(")):
        Vocabulary(names, background)


def test_two_classes_may_share_a_synonym() -> None:
    assert Vocabulary(["screen, CRT screen", "screen, projection screen"]).num_classes == 2


@pytest.mark.parametrize("templates", ["imagenet80", ["a {}", "a photo"], []])
def test_refuses_templates_without_a_place_for_the_name(templates: str | list[str]) -> None:
    with pytest.raises(VocabularyError, match="template"):
        Vocabulary(["cat"], templates=templates)


def test_parse_string() -> None:
    vocabulary = Vocabulary.parse("cat, grass, building|edifice", background="sky|heaven, tree")
    assert vocabulary == Vocabulary(["cat", "grass", "building,edifice"], ["sky,heaven", "tree"])
    assert vocabulary.rows == (("cat",), ("grass",), ("building", "edifice"), ("sky", "heaven"), ("tree",))
    assert Vocabulary.parse("cat", templates="imagenet").templates[1] == "a photo of many {}."
    with pytest.raises(VocabularyError, match="class 1 is empty"):
        Vocabulary.parse("cat,,dog")
    with pytest.raises(VocabularyError, match="class 0 is empty"):
        Vocabulary.parse("")


def test_parse_file(tmp_path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("Katze\n\nbuilding, edifice\ngrün|grünlich\n", encoding="utf-8")
    assert Vocabulary.parse(str(path)).rows == (("Katze",), ("building", "edifice"), ("grün", "grünlich"))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VocabularyError, match=r"classes\.txt: cannot be read"):
        Vocabulary.parse(str(path))
    with pytest.raises(VocabularyError, match=r"missing\.txt"):
        Vocabulary.parse(str(tmp_path / "missing.txt"))


def names_one_by_one() -> Iterator[str]:
    yield from ("cat", "building, edifice")


@pytest.mark.parametrize(
    "words",
    [
        names_one_by_one(),
        ("cat", "building|edifice"),
        {"cat": [], "building": ["edifice"]},
        {"cat": "", "building": "edifice"},
    ],
)
def test_what_lists_words_in_a_fixed_order_is_taken(words: Any) -> None:
    assert Vocabulary(words).rows == (("cat",), ("building", "edifice"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("words.txt", "\ufeffcat\nbuilding, edifice\n"),
        ("words.TXT", "cat\r\n\r\nbuilding|edifice"),
        ("words", "cat\nbuilding, edifice"),
        ("words.names", "cat, building|edifice\n"),
        ("words.list", "cat; building|edifice"),
        ("words.json", '["cat", "building, edifice"]'),
        ("words.JSON", '{"cat": [], "building": ["edifice"]}'),
        ("bom.json", '\ufeff{"cat": "", "building": "edifice"}'),
    ],
)
def test_a_file_is_read_in_every_way_in(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    expected = (("cat",), ("building", "edifice"))
    assert Vocabulary.parse(str(path)).rows == Vocabulary.parse(path).rows == Vocabulary(path).rows == expected
    assert Vocabulary.parse("sky", f" {path} ").rows == Vocabulary(["sky"], path).rows == (("sky",), *expected)


def test_a_file_beats_a_word_of_its_name_and_this_is_said(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "street").mkdir()
    assert Vocabulary.parse("street").names == ("street",)
    (tmp_path / "pets").write_text("cat\ndog")
    assert not caplog.records
    assert Vocabulary.parse("pets").names == ("cat", "dog")
    assert '"pets" is a file here' in caplog.text


@pytest.mark.parametrize(
    "text", ["sky, grass", "sky; grass", "sky\ngrass", " sky;\n\ngrass\n", "sky,\n grass", "sky\r\n \r\ngrass"]
)
def test_separators(text: str) -> None:
    assert Vocabulary.parse(text).names == ("sky", "grass")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("building, edifice; cat", 'has commas and ";"'),
        ("building, edifice\ncat", "has commas and line breaks"),
        ("sky;;grass", "class 1 is empty"),
        ("words.json", r"words\.json: there is no such file"),
        ("sky, words.txt", 'class 1, "words.txt", is the name of a file'),
        (f"{Path(__file__).parent}/", "is a folder"),
        (None, "None is not a string"),
        (["cat"], "is not a string; give a list of names to Vocabulary itself"),
    ],
)
def test_parse_refuses_what_has_two_meanings_or_none(text: Any, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.parse(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["cat",', "is not valid JSON"),
        ("3", "has to be a list of strings"),
        ('["cat", 3]', "has to be a list of strings"),
        ('{"cat": [], "cat": ["feline"]}', 'has "cat" twice'),
        ('{"0": "cat"}', 'entry 0 is called "0"'),
        ('{"cat": null}', "entry 0 is 'cat' with the synonyms None"),
        ("[]", "holds no words"),
    ],
)
def test_unusable_json_is_refused_by_its_name(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(content)
    with pytest.raises(VocabularyError, match=rf"words\.json: .*{message}"):
        Vocabulary.parse(str(tmp_path / "words.json"))


def test_a_file_without_words_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n \n")
    with pytest.raises(VocabularyError, match=r"words\.txt: holds no words"):
        Vocabulary(tmp_path / "words.txt")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as they can, so that what can go wrong between two lines does."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_cache_serves_more_threads_and_vocabularies_than_it_keeps() -> None:
    cache: TextEmbeddingCache[str] = TextEmbeddingCache(capacity=8)

    def ask(thread: int) -> bool:
        names = [f"vocabulary {i % 20}" for i in range(2000)]
        return all(cache.get(name, name.upper) == name.upper() for name in names)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))
    assert len(cache) == 8


def test_a_copy_of_a_cache_starts_empty() -> None:
    cache: TextEmbeddingCache[str] = TextEmbeddingCache(capacity=3)
    cache.get("a", lambda: "A")
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert (other.capacity, len(other)) == (3, 0)


def test_cache_drops_the_least_recently_used() -> None:
    computed = []

    def value(name: str) -> str:
        return cache.get(name, lambda: computed.append(name) or name.upper())

    cache: TextEmbeddingCache[str] = TextEmbeddingCache(capacity=2)
    assert [value(name) for name in "abacab"] == list("ABACAB")
    # c pushed b out, because a was used after it; then b pushed c out.
    assert computed == ["a", "b", "c", "b"]
    assert len(cache) == 2
    cache.clear()
    assert len(cache) == 0
    with pytest.raises(ValueError, match="capacity"):
        TextEmbeddingCache(0)
