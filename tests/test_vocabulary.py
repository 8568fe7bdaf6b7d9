"""Tests of the vocabulary: what it holds, what it refuses, and the cache of embeddings."""

from __future__ import annotations

import pickle

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
