"""Tests of the exported tokenizer: tokens equal to open_clip's."""

from __future__ import annotations

from pathlib import Path

import pytest
from open_clip.tokenizer import SimpleTokenizer

from escnet.export.text import tokenizer_file
from escnet.exported.text_encoder import OnnxTextEncoder
from escnet.pretrained.clip import build_clip
from escnet.vocabulary import Vocabulary, VocabularyError

CLASSES = sorted((Path(__file__).parents[2] / "escnet" / "data" / "classes").iterdir())
ODD = [
    "", "don't  stop", "it'S", "&lt;b&gt; &amp;amp; x", "Ünïcödé straße", "日本語 テスト", "🙂 smile 👩‍👩‍👧",
    "’quoted’", "<start_of_text> a <end_of_text>",
    "a\tb\nc  d", "x" * 200, "٣٤٥ 1234", "ﬁsh", "'ſ ab", "a\u00a0b", "İstanbul",
    "e\u0301 é", "''''s", "###!!",
]  # fmt: skip


@pytest.mark.parametrize("name", ["clip", "miniature"])
def test_tokens_are_those_of_open_clip(name: str, tmp_path: Path) -> None:
    tokenizer = SimpleTokenizer() if name == "clip" else build_clip("escnet-moji")[1]
    file = tmp_path / "tokenizer.json"
    file.write_text(tokenizer_file(tokenizer), encoding="utf-8")
    encoder = OnnxTextEncoder(None, file, 77, *tokenizer.all_special_ids)
    texts = ODD + [line for path in CLASSES for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(texts) > 2000
    start, end = tokenizer.all_special_ids
    wrong = [text for text in texts if encoder.tokens(text) != [start, *tokenizer.encode(text), end]]
    assert not wrong


def test_a_text_that_is_too_long_is_refused_before_it_is_cut(tmp_path: Path) -> None:
    tokenizer = build_clip("escnet-moji")[1]
    file = tmp_path / "tokenizer.json"
    file.write_text(tokenizer_file(tokenizer), encoding="utf-8")
    encoder = OnnxTextEncoder(None, file, 8, *tokenizer.all_special_ids)
    with pytest.raises(VocabularyError, match="the text encoder takes 8; shorten"):
        encoder.encode(Vocabulary(["one two three four five six seven"]))


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be exported"):
        tokenizer_file(object())
