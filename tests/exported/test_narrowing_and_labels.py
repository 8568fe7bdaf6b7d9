"""Tests of OnnxSegmenter's own computations, against PyTorch's; tests/export has those of whole exported models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from escnet.exported.card import FORM, ExportedFilesError
from escnet.exported.label_map import label_map
from escnet.exported.narrowing import highest
from escnet.exported.segmenter import OnnxSegmenter
from escnet.layers.class_choice import highest as torch_highest
from escnet.meta_arch.label_map import label_map as torch_label_map


@pytest.mark.parametrize("size", [(5, 7), (16, 12), (33, 50), (61, 9), (301, 200)])
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_the_label_map_is_pytorchs(size: tuple[int, int], rows: int) -> None:
    logits = 5 * torch.randn(rows, 16, 12, generator=torch.Generator().manual_seed(rows))
    wanted, wanted_scores = torch_label_map(logits, size)
    labels, scores = label_map(logits.numpy(), size)
    assert (labels == wanted.numpy()).mean() > 0.9995
    np.testing.assert_allclose(scores, wanted_scores.numpy(), atol=1e-5)


def test_the_label_map_does_not_depend_on_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    whole = label_map(logits, (90, 70))
    monkeypatch.setattr("escnet.exported.label_map.STRIP_ELEMENTS", 1000)
    for found, wanted in zip(label_map(logits, (90, 70)), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_highest_shares_are_those_that_pytorch_takes() -> None:
    shares = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert highest(shares.numpy(), 12).tolist() == torch_highest(shares[None], 12)[0].tolist()


@pytest.mark.parametrize("card", [None, "{", "[]", json.dumps({"form": 99})])
def test_a_folder_that_is_no_export_is_named_with_the_remedy(tmp_path: Path, card: str | None) -> None:
    if card is not None:
        (tmp_path / "card.json").write_text(card)
    with pytest.raises(ExportedFilesError, match=r"card\.json: .*give the folder that tools/export\.py wrote"):
        OnnxSegmenter(tmp_path)


# As tools/export.py writes it, but for what says what the model was.
CARD = {
    "form": FORM, "kind": "onnx", "graphs": {}, "text": None, "words": None, "templates": ["{}"],
    "subtracts_empty": False, "choice": {},
}  # fmt: skip


def test_a_card_that_lacks_something_is_named(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({key: CARD[key] for key in CARD if key != "choice"}))
    with pytest.raises(ExportedFilesError, match=r"card\.json: has no choice; give the folder"):
        OnnxSegmenter(tmp_path)


@pytest.mark.parametrize("file", ["encode.onnx", "../encode.onnx"])
def test_a_graph_that_is_missing_or_elsewhere_is_named(tmp_path: Path, file: str) -> None:
    (tmp_path / "card.json").write_text(json.dumps(CARD | {"graphs": {"encode": {"file": file}}}))
    with pytest.raises(ExportedFilesError, match=r"encode\.onnx: is named in card\.json"):
        OnnxSegmenter(tmp_path)
