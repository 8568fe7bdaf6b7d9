"""The parents of a merged model, each behind its interface."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch.nn import functional as F

from escnet.config import load_config
from escnet.meta_arch.clip import ClassifyingClip
from escnet.meta_arch.parents import build_parent
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.clip import build_clip

CONFIG = "configs/mojiscenes/escnet.yaml"


@pytest.fixture(scope="module")
def clip() -> ClassifyingClip:
    return build_parent("clip", load_config(CONFIG, ["MODEL.DEVICE", "cpu"]))


def test_clip_is_that_of_the_configuration(clip: ClassifyingClip) -> None:
    reference, tokenizer = build_clip("escnet-moji", "shipped:clip")
    assert isinstance(reference, open_clip.CLIP)
    assert not clip.training
    assert clip.image_size == (128, 128)
    assert clip.logit_scale == reference.logit_scale.exp()
    sentences = ["a photo of a pear, a whale on sand; and grass", "sand " * 200]
    expected = F.normalize(reference.encode_text(tokenizer(sentences, reference.context_length)), dim=-1)
    torch.testing.assert_close(clip.sentence_features(sentences), expected)
    assert not clip.sentence_features(sentences).requires_grad


def test_sam_is_that_of_the_configuration() -> None:
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu"])
    sam = build_parent("sam", cfg)
    assert isinstance(sam, PromptableSam)
    assert sam.input_size == 128
    own = build_parent("sam", load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.SAM.WEIGHTS", ""]), "shipped:sam")
    for one, other in zip(sam.parameters(), own.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_unknown_parent() -> None:
    with pytest.raises(ValueError, match="there is no system dino; choose of clip, sam"):
        build_parent("dino", load_config(CONFIG))
