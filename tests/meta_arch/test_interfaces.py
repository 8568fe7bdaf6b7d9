"""The two interfaces: an image is encoded once for all words, and SAM itself answers prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from segment_anything import SamPredictor
from torch import Tensor

from escnet.config import load_config
from escnet.meta_arch.interfaces import Prompts, SegmentingModel
from escnet.meta_arch.sam import PromptableSam
from escnet.predictor import Segmenter
from escnet.pretrained.sam import build_sam
from escnet.vocabulary import Vocabulary

CONFIG = Path(__file__).parents[2] / "configs/camvid/escnet.yaml"
SYSTEMS = ("ESCNet", "DenseClip", "ClipThenSam")
WINDOWS = ("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "(48, 96)", "TEST.SLIDING.WINDOW", "(48, 64)")


def make_model(architecture: str, *opts: str) -> SegmentingModel:
    torch.manual_seed(0)
    options = ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", architecture, "MODEL.CLIP.IMAGE_SIZE", "(48, 64)"]
    return build_model(load_config(CONFIG, [*options, "MODEL.ESC.WINDOW", "4", *opts])).eval()


def make_image(size: tuple[int, int] = (60, 80)) -> Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def count_calls(model: SegmentingModel) -> list[str]:
    """Grows by a name with each call of an image encoder."""
    calls: list[str] = []
    for name, module in model.named_modules():
        if name in ("clip_image", "sam.image_encoder"):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


@pytest.mark.parametrize(
    ("architecture", "opts", "passes"),
    [
        ("ESCNet", (), 1),
        ("ESCNet", WINDOWS, 3),
        ("DenseClip", (), 1),
        ("DenseClip", WINDOWS, 3),
        ("ClipThenSam", (), 2),
    ],
)
def test_a_second_vocabulary_costs_no_second_pass_of_the_image_encoder(
    architecture: str, opts: tuple[str, ...], passes: int
) -> None:
    segmenter = Segmenter(make_model(architecture, *opts))
    calls = count_calls(segmenter.model)
    encoded = segmenter.encode(make_image().permute(1, 2, 0).numpy())
    assert len(calls) == passes
    answers = [encoded(words) for words in (["sky", "road"], ["cat", "grass, lawn", "car"], ["sky", "road"])]
    assert len(calls) == passes
    assert answers[0].class_names == ("sky", "road") and answers[1].class_names == ("cat", "grass, lawn", "car")
    assert (answers[0].labels == answers[2].labels).all()
    alone = Segmenter(make_model(architecture, *opts))(encoded.pixels, ["cat", "grass, lawn", "car"])
    assert (answers[1].labels == alone.labels).all()


@pytest.mark.parametrize("architecture", SYSTEMS)
@torch.no_grad()
def test_a_model_takes_raw_pixels_of_any_size_and_type(architecture: str) -> None:
    model, words, image = make_model(architecture), Vocabulary(["sky", "road"]), make_image((33, 51))
    logits = model.segment(model.encode(image), words).logits
    for same in (image[None], image.float(), image[None].double()):
        torch.testing.assert_close(model.segment(model.encode(same), words).logits, logits)


@pytest.mark.parametrize("architecture", SYSTEMS)
def test_what_a_system_states_is_there(architecture: str) -> None:
    model, cfg = make_model(architecture), load_config(CONFIG)
    assert model.get_submodule(model.text_encoder) and all(map(model.get_submodule, model.untraceable))
    settings = model.prediction_settings(cfg)
    assert settings["MODEL.CLIP.DENSE"] == "qk" and settings["MODEL.CLIP.IMAGE_SIZE"] == [192, 256]
    assert not any(key.startswith("TEST.SLIDING") for key in settings)
    cfg.TEST.SLIDING.ENABLED = True
    assert model.prediction_settings(cfg)["TEST.SLIDING.WINDOW"] == [384, 384]


@torch.no_grad()
def test_sam_answers_as_its_own_predictor_does() -> None:
    torch.manual_seed(0)
    sam = build_sam("mini").eval()
    model, predictor = PromptableSam(sam), SamPredictor(sam)
    image = make_image((128, 128))
    predictor.set_image(image.permute(1, 2, 0).numpy())
    features = model.encode(image)
    torch.testing.assert_close(features, predictor.get_image_embedding())
    assert (model.input_size, model.mask_size) == (128, (64, 64))

    points, labels = torch.tensor([[[30.0, 40.0], [90.0, 12.0]]]), torch.tensor([[1.0, 0.0]])
    boxes = torch.tensor([[10.0, 20.0, 100.0, 90.0]])
    for prompts, arguments in (
        (Prompts(points, labels), {"point_coords": points, "point_labels": labels}),
        (Prompts.from_boxes(boxes), {"point_coords": None, "point_labels": None, "boxes": boxes}),
        (Prompts(points, labels, boxes), {"point_coords": points, "point_labels": labels, "boxes": boxes}),
    ):
        for multimask in (False, True):
            answer = model.masks(features, prompts, multimask=multimask)
            _, quality, logits = predictor.predict_torch(**arguments, multimask_output=multimask, return_logits=True)
            torch.testing.assert_close(answer.logits, logits, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(answer.quality, quality, atol=1e-4, rtol=1e-4)
    again = model.masks(features, Prompts(points, labels).with_masks(answer.likeliest()))
    assert again.logits.shape == (1, 1, 64, 64) and again.logits.isfinite().all()


@torch.no_grad()
def test_prompts_of_several_images_are_answered_at_once() -> None:
    torch.manual_seed(0)
    model = PromptableSam(build_sam("mini").eval())
    features = model.encode(torch.stack([make_image((50, 70)), make_image((50, 70)).flip(0)]))
    points, labels = torch.tensor([[[30.0, 40.0]], [[90.0, 12.0]]]), torch.ones(2, 1)
    together = model.masks(features, Prompts(points, labels), multimask=True)
    for i in range(2):
        alone = model.masks(features[i : i + 1], Prompts(points[i : i + 1], labels[i : i + 1]), multimask=True)
        torch.testing.assert_close(together.logits[i : i + 1], alone.logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_prompts_have_no_masks() -> None:
    model = PromptableSam(build_sam("mini")).eval()
    features = model.encode(torch.zeros(3, 128, 128))
    for multimask, count in ((False, 1), (True, 3)):
        answer = model.masks(features, Prompts.from_boxes(torch.zeros(0, 4)), multimask=multimask)
        assert answer.logits.shape == (0, count, 64, 64) and answer.quality.shape == (0, count)


def test_sam_refuses_words() -> None:
    model = PromptableSam(build_sam("mini").eval())
    with pytest.raises(ValueError, match="takes no words"):
        model.masks(torch.zeros(1, 64, 16, 16), Prompts.from_boxes(torch.zeros(1, 4)), Vocabulary(["cat"]))
