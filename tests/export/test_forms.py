"""Tests of the forms of an export: one file, words of its own, fewer bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from escnet import OnnxSegmenter, Segmenter, Vocabulary
from escnet.export import folder as exporting
from escnet.export.comparison import compare, made_pictures
from escnet.export.folder import Check, ExportForm, export_folder
from escnet.export.precision import lower
from escnet.exported.card import WORDS_KEY, ExportedFilesError
from escnet.vocabulary import VocabularyError

WORDS = Vocabulary(["cat", "tree|bush", "house"], background=["sky", "grass"], templates=["{}"])


@pytest.fixture(scope="module")
def written(exported: Path) -> Iterator[None]:
    """Graphs that are there already are copied, which saves the minute that making them takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "trace", lambda _: None)
        patch.setattr(exporting, "write_onnx", lambda _, __, path: shutil.copy(exported / path.name, path))
        yield


@pytest.fixture(scope="module")
def of_words(written: None, segmenter: Segmenter, check: Check, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "words"
    export_folder(segmenter, folder, ExportForm(is_whole=True, words=WORDS), check, {}, print)
    return folder


def test_one_file_with_words_of_its_own(of_words: Path, segmenter: Segmenter) -> None:
    assert {file.name for file in of_words.iterdir()} == {"model.onnx", "card.json"}
    exported, picture = OnnxSegmenter(of_words), made_pictures(seed=4)[0]
    found = compare(exported, segmenter, made_pictures(seed=4), WORDS)
    assert found.labels > 0.999
    assert found.score_difference < 1e-4
    result = exported(picture)
    assert result.class_names == ("cat", "tree,bush", "house", "background")
    assert result.considered == 5
    np.testing.assert_array_equal(exported.encode(picture)(WORDS).labels, result.labels)


def test_words_of_a_file_are_in_it_and_no_others_are_taken(of_words: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(of_words / "model.onnx").metadata_props}
    assert json.loads(metadata[WORDS_KEY]) == list(WORDS.class_names)
    exported = OnnxSegmenter(of_words)
    with pytest.raises(VocabularyError, match=r"exported for the words cat, tree,bush, .*; leave others out"):
        exported(made_pictures()[0], "dog")
    with pytest.raises(ExportedFilesError, match="without CLIP's text encoder"):
        exported.text_features(WORDS)


def test_one_file_whose_words_are_an_input(written: None, segmenter: Segmenter, check: Check, tmp_path: Path) -> None:
    found = export_folder(segmenter, tmp_path / "one", ExportForm(is_whole=True), check, {}, print)
    assert found.labels > 0.999
    exported, picture = OnnxSegmenter(tmp_path / "one"), made_pictures(seed=6)[1]
    for words in (WORDS, Vocabulary(["cat"])):
        assert (exported(picture, words).labels == segmenter(picture, words).labels).mean() > 0.999
    with pytest.raises(VocabularyError, match="there are no words"):
        exported(picture)


@pytest.mark.parametrize(("precision", "share", "least"), [("fp16", 0.55, 0.999), ("int8", 0.55, 0.9)])
def test_fewer_bits(
    precision: str, share: float, least: float, exported: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for file in tmp_path.glob("*.onnx"):
        lower(file, precision)
    sizes = [sum(file.stat().st_size for file in folder.glob("*.onnx")) for folder in (tmp_path, exported)]
    assert sizes[0] < share * sizes[1]
    assert compare(OnnxSegmenter(tmp_path), segmenter, made_pictures(seed=1), WORDS).labels > least


def test_an_unknown_precision_and_provider_are_named(exported: Path) -> None:
    with pytest.raises(ValueError, match="'fp8'; it has to be one of fp32, fp16, int8"):
        lower(exported / "encode.onnx", "fp8")
    with pytest.raises(ValueError, match=r"ONNX Runtime has no TPU here; it has .*CPUExecutionProvider"):
        OnnxSegmenter(exported, providers=["TPU"])
