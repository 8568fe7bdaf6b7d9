"""The models that ship and learned from label maps, end to end: the score on drawn pictures is the card's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.modeling import build_model

import escnet.meta_arch  # noqa: F401  registers the systems
from escnet.config import load_config
from escnet.evaluation.loop import evaluate_datasets
from escnet.miniature.world.writing import World
from escnet.miniature.world.writing import _draw_chunk as draw_chunk
from escnet.pretrained.shipped import FOLDER, shipped_weights
from escnet.training.checkpoint import SafeCheckpointer

CONFIGS = Path(__file__).parents[2] / "configs/mojiscenes"
# The hardest of the card's figures, 847 words, and the cheapest, 50 pictures.
MANY_WORDS, PICTURES = "mojiscenes_val_847[:50]", 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"),
    [("esc_net", "escnet"), ("esc_net_sam_clip", "escnet_sam_clip"), ("clip_guided_sam", "clip_guided_sam")],
)
def test_the_score_among_many_words_is_that_of_the_card(
    name: str, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    world = World(train=1)
    # The pictures of 847 words are those of "all"; others are not needed.
    draw_chunk(tmp_path / "mojiscenes", world, ("val_all", 0, PICTURES))
    options = ["MODEL.WEIGHTS", f"shipped:{name}", "MODEL.DEVICE", "cpu", "DATASETS.TEST", f'("{MANY_WORDS}",)']
    cfg = load_config(CONFIGS / f"{config}.yaml", [*options, "OUTPUT_DIR", str(tmp_path / "output")])
    model = build_model(cfg).eval()
    SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    score = evaluate_datasets(cfg, model)[MANY_WORDS]["sem_seg"]["mIoU"] / 100
    card = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert score == pytest.approx(card["figures"]["miou"][MANY_WORDS], abs=0.02)


def test_the_files_are_small() -> None:
    names = ("clip", "sam", "sam_clip", "esc_net", "esc_net_sam_clip", "clip_guided_sam")
    assert sum(shipped_weights(name).stat().st_size for name in names) < 35e6
