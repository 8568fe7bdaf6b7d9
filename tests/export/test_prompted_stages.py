"""Tests of the stages that draw masks: against the models that they are parts of, without a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import PromptEncoder

from escnet import Segmenter, Vocabulary
from escnet.export.comparison import made_pictures
from escnet.export.graphs import Part, graphs_of, prepare
from escnet.export.prompted_stages import TraceablePromptEncoder
from escnet.exported.label_map import label_map
from escnet.exported.narrowing import Choice, segment

CONFIGS = Path(__file__).parents[2] / "configs" / "mojiscenes"
SYSTEMS = {
    "both heads": ("sam_clip.yaml", "shipped:sam_clip", ["MODEL.SAM_CLIP.LABEL_MAP", "both"]),
    "guided": ("clip_guided_sam.yaml", "shipped:clip_guided_sam", ["MODEL.GUIDED.MAX_WORDS", 4]),
    "guided, as published": (
        "clip_guided_sam.yaml",
        "shipped:clip_guided_sam",
        [
            "MODEL.GUIDED.NORM", "cells", "MODEL.GUIDED.SUBTRACT_EMPTY", False, "MODEL.GUIDED.POINT_DRAWS", 2,
            "MODEL.GUIDED.PRESENCE", "('quality', 'clip')",
        ],
    ),
}  # fmt: skip


def test_the_prompt_encoder_that_is_traced_is_segment_anythings() -> None:
    torch.manual_seed(0)
    encoder = PromptEncoder(8, (4, 4), (64, 64), 4)
    points, labels = torch.rand(5, 4, 2) * 64, torch.tensor([[1.0, 0, -1, 1]] * 5)
    boxes, masks = torch.rand(5, 4) * 64, torch.randn(5, 1, 16, 16)
    ours = TraceablePromptEncoder(encoder)
    assert list(ours.state_dict()) == list(encoder.state_dict())
    for given in (((points, labels), None, masks), ((points, labels), boxes, None), (None, boxes, None)):
        for found, wanted in zip(ours(*given), encoder(*given), strict=True):
            assert torch.equal(found, wanted)


def run(part: Part, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A part as the graph that it becomes."""
    tensors = {name: torch.as_tensor(given[name]) for name in part.inputs}
    features = [tensors.pop(name) for name in part.inputs if name.startswith("feature_")]
    with torch.no_grad():
        found = part.module(*([features] if features else []), *tensors.values())
    found = found if isinstance(found, list | tuple) else [found]
    return {name: tensor.numpy() for name, tensor in zip(part.outputs, found, strict=True)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_parts_and_what_is_between_them_give_what_the_model_gives(system: str) -> None:
    config, weights, options = SYSTEMS[system]
    segmenter = Segmenter.from_config(CONFIGS / config, weights, options, device="cpu")
    words = Vocabulary(["cat", "tree", "house", "sun", "dog", "grass"], templates=["a {}", "{}"])
    pictures = made_pictures(seed=2)[:2]
    wanted = [segmenter(picture, words) for picture in pictures]
    prepare(segmenter.model)
    graphs = graphs_of(segmenter.model, words.templates)
    parts = {name: lambda given, part=part: run(part, given) for name, part in graphs.parts.items()}
    text = segmenter.model.clip_text.encode(words).numpy()
    for picture, result in zip(pictures, wanted, strict=True):
        features = parts["encode"]({"image": picture})
        if graphs.empty is not None:
            features["empty"] = graphs.empty.numpy()
        logits, rows = segment(parts, Choice(**graphs.choice), features, text)
        labels, scores = label_map(logits, picture.shape[:2])
        assert len(rows) == (result.considered or len(words.rows))
        assert (rows[labels] == result.labels).mean() > 0.9999
        np.testing.assert_allclose(scores, result.scores, atol=1e-4)
