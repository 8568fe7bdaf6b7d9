"""Several images in one pass: of every system, each image is segmented as it is by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor

from escnet.config import load_config
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.vocabulary import Vocabulary

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = Vocabulary([f"thing {i}" for i in range(7)], background=["wall", "sky", "ground"])
SIZES = ((40, 56), (60, 35), (48, 64), (1, 9), (90, 90))
COMMON = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", "(48, 64)", "MODEL.ESC.WINDOW", "4")
WINDOWS = ("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "(48, 96)", "TEST.SLIDING.WINDOW", "(48, 64)")
# Some images keep more classes than others.
AGAIN = ("MODEL.ESC.MAX_CLASSES", "8", "MODEL.ESC.KEEP", "5", "MODEL.ESC.KEEP_SHARE", "0.12")
FEW = ("MODEL.ESC.MAX_CLASSES", "3")
SAM_CLIP = ("MODEL.SAM_CLIP.IMAGE_SIZE", "(128, 128)", "MODEL.SAM_CLIP.SCORE", "0.15", "MODEL.SAM_CLIP.LABEL_MAP")
SYSTEMS = {
    "DenseClip": ("DenseClip",),
    "DenseClip with windows": ("DenseClip", *WINDOWS),
    "ESCNet": ("ESCNet",),
    "ESCNet of few classes": ("ESCNet", *FEW),
    "ESCNet of two passes": ("ESCNet", "MODEL.ESC.PASSES", "2"),
    "ESCNet of the classes of a first pass": ("ESCNet", *AGAIN),
    "CostAggregation": ("CostAggregation", "MODEL.ESC.AUX_LOSS", "0.0"),
    "CostAggregation of the classes of a first pass": ("CostAggregation", "MODEL.ESC.AUX_LOSS", "0.0", *AGAIN),
    "ESCNet of the classes of a first pass with windows": ("ESCNet", *AGAIN, *WINDOWS),
    "ESCNet with windows": ("ESCNet", *WINDOWS),
    "ESCNet of few classes with windows": ("ESCNet", *WINDOWS, *FEW),
    "ClipThenSam": ("ClipThenSam", "MODEL.ESC.ALPHA", "0.3"),
    "SamClip": ("SamClip", *SAM_CLIP, "clip"),
    "SamClip with windows": ("SamClip", *SAM_CLIP, "clip", *WINDOWS),
    "SamClip of both heads": ("SamClip", *SAM_CLIP, "both"),
}


def make_model(architecture: str, *options: str) -> SegmentingModel:
    torch.manual_seed(0)
    file = "mojiscenes/escnet.yaml" if architecture == "SamClip" else "camvid/escnet.yaml"
    cfg = load_config(CONFIGS / file, [*COMMON, "MODEL.META_ARCHITECTURE", architecture, *options])
    model = build_model(cfg).eval()
    for block in getattr(model, "blocks", ()):  # as after some training: the refined maps differ from the given ones
        torch.nn.init.normal_(block.fusion.change.weight, std=0.5)
    if architecture == "CostAggregation":  # likewise: the classes differ by more than rounding
        torch.nn.init.normal_(model.aggregator.embed.weight, std=2.0)
    return model


def make_images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in SIZES]


@pytest.fixture(scope="module", params=SYSTEMS)
def model(request: pytest.FixtureRequest) -> SegmentingModel:
    return make_model(*SYSTEMS[request.param])


@torch.no_grad()
def test_an_image_of_a_batch_is_segmented_as_by_itself(model: SegmentingModel) -> None:
    images = make_images()
    together = model.segment(model.encode(images), WORDS)
    for index, image in enumerate(images):
        ours, alone = together.of_image(index), model.segment(model.encode(image), WORDS)
        torch.testing.assert_close(ours.logits.softmax(dim=1), alone.logits.softmax(dim=1), atol=1e-5, rtol=1e-4)
        for name in ("rows", "map_rows", "first_rows"):
            one, other = getattr(ours, name), getattr(alone, name)
            assert one is other is None or torch.equal(one, other)
        assert len(ours.correlations) == len(alone.correlations) and len(ours.prompts) == len(alone.prompts)
        torch.testing.assert_close(ours.correlations, alone.correlations, atol=1e-5, rtol=1e-4)
        for one, other in zip(ours.prompts, alone.prompts, strict=True):
            assert torch.equal(one.assignment, other.assignment) and torch.equal(one.points, other.points)


def test_outputs_of_a_batch_have_the_sizes_of_their_images_and_the_labels_of_each_alone(model: SegmentingModel) -> None:
    inputs = [{"image": image, "vocabulary": WORDS} for image in make_images()]
    inputs[1] |= {"height": 21, "width": 70}
    outputs = model(inputs)
    assert [tuple(out["labels"].shape) for out in outputs] == [SIZES[0], (21, 70), *SIZES[2:]]
    for out, given in zip(outputs, inputs, strict=True):
        (alone,) = model([given])
        assert torch.equal(out["labels"], alone["labels"])
        assert out["words_considered"] == alone["words_considered"]
        torch.testing.assert_close(out["scores"], alone["scores"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_images_of_one_size_may_come_as_one_tensor(model: SegmentingModel) -> None:
    images = [image for image in make_images() if tuple(image.shape[1:]) == (48, 64)] * 2
    listed, stacked = (model.segment(model.encode(given), WORDS).logits for given in (images, torch.stack(images)))
    torch.testing.assert_close(listed, stacked, atol=1e-5, rtol=1e-4)


def test_one_pass_of_the_image_encoder_serves_a_batch() -> None:
    model, calls = make_model("ESCNet", *WINDOWS), []
    model.clip_image.register_forward_hook(lambda module, given, out: calls.append(len(given[0])))
    model([{"image": image} for image in make_images()], WORDS)
    assert calls == [5, 5, 5]  # the whole images, then each of two windows


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        make_model("DenseClip").encode([])
