"""Tests of exported folders: what is written, that it agrees with PyTorch, and that no other is handed out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from escnet import OnnxSegmenter, Segmenter, Vocabulary
from escnet.export import folder as exporting
from escnet.export.comparison import Agreement, compare, made_pictures
from escnet.export.graphs import NotExportableError, require_exportable


def test_the_graphs_agree_with_the_model_on_other_pictures_words_and_sizes(
    exported: Path, segmenter: Segmenter
) -> None:
    words = Vocabulary(["dog|puppy", "flower", "sky"], background=["wall", "floor"], templates=["a {}", "the {}"])
    found = compare(OnnxSegmenter(exported), segmenter, made_pictures(seed=3), words)
    assert found.labels > 0.999
    assert found.score_difference < 1e-3
    assert found.text_difference < 1e-5


def test_the_card_says_what_the_graphs_were_made_of(exported: Path, segmenter: Segmenter) -> None:
    card = json.loads((exported / "card.json").read_text())
    assert card["system"] == "SamClip"
    assert card["weights_sha256"] == exporting.weights_hash(segmenter.model)
    assert card["agreement"]["pictures"] == 2
    assert not list(exported.parent.glob(".*"))


def test_nothing_is_left_of_graphs_that_disagree(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_write", lambda *_: {})
    monkeypatch.setattr(exporting, "OnnxSegmenter", lambda *_: None)
    monkeypatch.setattr(exporting, "compare", lambda *_: Agreement(3, 0.5, 0.4, 0.1, 0.0))
    with pytest.raises(exporting.DisagreementError, match=r"only 50\.000% .* 99\.900% are asked for"):
        exporting.export_folder(segmenter, tmp_path / "out", [], Vocabulary(["cat"]), 0.999, {}, print)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already"):
        exporting.export_folder(segmenter, tmp_path, [], Vocabulary(["cat"]), 0.999, {}, print)


def test_both_heads_of_sam_clip_are_refused(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter.model, "label_map", "both")
    with pytest.raises(NotExportableError, match="set it to clip"):
        require_exportable(segmenter.model)
