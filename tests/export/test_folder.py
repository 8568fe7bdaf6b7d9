"""Tests of exported folders: what is written, that it agrees with PyTorch, and that no other is handed out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from escnet import OnnxSegmenter, Segmenter, Vocabulary
from escnet.export import folder as exporting
from escnet.export.comparison import Agreement, compare, made_pictures
from escnet.export.folder import Check, ExportForm
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


def test_nothing_in_the_files_tells_where_they_were_made(exported: Path) -> None:
    here = str(Path(__file__).parents[2]).encode()
    assert not [file.name for file in exported.iterdir() if here in file.read_bytes()]


def test_nothing_is_left_of_graphs_that_disagree(
    segmenter: Segmenter, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_write", lambda *_: {})
    monkeypatch.setattr(exporting, "OnnxSegmenter", lambda *_: None)
    monkeypatch.setattr(exporting, "compare", lambda *_: Agreement(3, 0.5, 0.4, 0.1, 0.0))
    with pytest.raises(exporting.DisagreementError, match=r"only 50\.000% .* 99\.900% are asked for"):
        exporting.export_folder(segmenter, tmp_path / "out", ExportForm(), check, {}, print)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(segmenter: Segmenter, check: Check, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already"):
        exporting.export_folder(segmenter, tmp_path, ExportForm(), check, {}, print)


@pytest.mark.parametrize(
    "form", [{"kind": "pt2", "precision": "fp16"}, {"kind": "pt2", "is_whole": True}, {"words": Vocabulary(["cat"])}]
)
def test_what_does_not_go_together_is_refused(form: dict) -> None:
    with pytest.raises(ValueError, match=r"torch\.export|one graph"):
        ExportForm(**form)


def test_another_system_and_sliding_windows_are_refused(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotExportableError, match="Linear cannot be exported; ESC-Net, SAM-CLIP and"):
        require_exportable(torch.nn.Linear(1, 1))
    monkeypatch.setattr(segmenter.model, "inference", replace(segmenter.model.inference, sliding=object()))
    with pytest.raises(NotExportableError, match=r"set TEST\.SLIDING\.ENABLED False"):
        require_exportable(segmenter.model)
