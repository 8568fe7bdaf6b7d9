"""The SAM-CLIP that ships, end to end: pictures are drawn, named and outlined, and the figures are its card's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from escnet.config import load_config
from escnet.miniature.examination import Examination, write_examination
from escnet.miniature.judging import judge
from escnet.predictor import Segmenter
from escnet.pretrained.shipped import FOLDER

CONFIGS = Path(__file__).parents[2] / "configs/mojiscenes"


@pytest.mark.slow
def test_it_names_and_outlines_as_its_card_says(tmp_path: Path) -> None:
    write_examination(tmp_path, Examination(words=240, objects=40), workers=1)
    cfg = load_config(CONFIGS / "sam_clip.yaml", ["MODEL.DEVICE", "cpu"])
    found = judge(Segmenter.from_config(cfg, "shipped:sam_clip").model, tmp_path, (96,))
    card = json.loads((FOLDER / "sam_clip.json").read_text(encoding="utf-8"))["figures"]
    # A quarter and a fifth of its pictures.
    assert found["accuracy"][96] == pytest.approx(card["accuracy"]["96"], abs=6)
    assert found["iou"][96] == pytest.approx(card["iou"]["96"], abs=4)
