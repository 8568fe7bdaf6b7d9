"""Tests of programs of torch.export."""

from __future__ import annotations

from pathlib import Path

import pytest

from escnet import OnnxSegmenter, ProgramSegmenter, Segmenter, Vocabulary
from escnet.export.comparison import made_pictures
from escnet.export.folder import Check, ExportForm, export_folder
from escnet.exported.card import ExportedFilesError

WORDS = Vocabulary(["cat", "tree|bush", "house"], background=["sky", "grass"], templates=["{}"])


def test_programs_of_torch_export(segmenter: Segmenter, check: Check, tmp_path: Path) -> None:
    found = export_folder(segmenter, tmp_path / "programs", ExportForm(kind="pt2"), check, {}, print)
    assert found.labels > 0.9999
    exported, picture = ProgramSegmenter(tmp_path / "programs"), made_pictures(seed=6)[1]
    # One word too, though programs are traced with several.
    for words in (WORDS, Vocabulary(["cat"])):
        assert (exported(picture, words).labels == segmenter(picture, words).labels).mean() > 0.9999
    whole_model = sum(weight.numel() * 4 for weight in segmenter.model.parameters())
    assert sum(file.stat().st_size for file in (tmp_path / "programs").glob("*.pt2")) < 1.2 * whole_model
    with pytest.raises(ExportedFilesError, match=r"open it by escnet\.ProgramSegmenter"):
        OnnxSegmenter(tmp_path / "programs")
