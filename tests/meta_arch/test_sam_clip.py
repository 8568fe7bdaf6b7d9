"""SAM-CLIP: four answers of one pass, its SAM against segment_anything, both heads against a loop over words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from segment_anything import SamPredictor
from torch import Tensor
from torch.nn import functional as F

from escnet.config import load_config
from escnet.layers.correlation import correlation_maps
from escnet.meta_arch.interfaces import Prompts
from escnet.meta_arch.mask_scores import MaskScores
from escnet.meta_arch.sam import PromptableSam
from escnet.meta_arch.sam_clip import SamClip
from escnet.pretrained.sam import build_sam
from escnet.training.optimizer import parameter_groups
from escnet.vocabulary import Vocabulary

CONFIG = Path(__file__).parents[2] / "configs/mojiscenes/escnet.yaml"
OPTIONS = ("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.DEVICE", "cpu", "MODEL.SAM_CLIP.IMAGE_SIZE", "(128, 128)")
WORDS = Vocabulary(["pear", "whale", "grass", "sand", "key"])


def make(*options: str) -> SamClip:
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, [*OPTIONS, *options])).eval()


@pytest.fixture(scope="module")
def model() -> SamClip:
    return make()


@pytest.fixture(scope="module")
def both() -> SamClip:
    return make("MODEL.SAM_CLIP.LABEL_MAP", "both", "MODEL.SAM_CLIP.SCORE", "0.25")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.randint(0, 256, (2, 3, 96, 80), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@contextmanager
def counted(model: SamClip) -> Iterator[list[int]]:
    calls: list[int] = []
    hook = model.backbone.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        hook.remove()


@torch.no_grad()
def test_one_pass_of_the_backbone_answers_four_questions(both: SamClip, picture: Tensor) -> None:
    with counted(both) as calls:
        features = both.encode(picture)
        probability = both.classify(features, WORDS)
        masks = both.masks(both.of_images(features, torch.tensor([0, 1, 1])), Prompts.from_boxes(torch.rand(3, 4) * 64))
        refined = both.segment(features, WORDS)
        coarse = F.normalize(features.of("clip").features, dim=1)
    assert len(calls) == 1
    assert torch.allclose(probability.sum(dim=1), torch.ones(2))
    assert masks.logits.shape == (3, 1, 64, 64)
    assert refined.logits.shape == (2, 5, 64, 64) and refined.correlations[0].shape == (2, 5, 16, 16)
    expected = correlation_maps(coarse, both.text_features(WORDS), both.smoothing)
    torch.testing.assert_close(refined.correlations[0], expected)


@torch.no_grad()
def test_the_class_of_an_image_is_the_softmax_of_the_scaled_cosine(model: SamClip, picture: Tensor) -> None:
    features = model.encode(picture)
    similarity = F.cosine_similarity(
        model.clip_head(features.backbone).summary[:, None], model.text_features(WORDS)[None], dim=-1
    )
    torch.testing.assert_close(model.classify(features, WORDS), (similarity * model.logit_scale).softmax(dim=-1))


@torch.no_grad()
def test_before_training_its_masks_are_sams(model: SamClip, picture: Tensor) -> None:
    sam = PromptableSam(build_sam("moji", "shipped:sam"))
    prompts = Prompts(torch.rand(3, 2, 2) * 128, torch.tensor([[1, 0], [1, 1], [0, 1]]).float())
    rows = torch.tensor([0, 1, 1])
    own = model.masks(model.of_images(model.encode(picture), rows), prompts, multimask=True)
    theirs = sam.masks(sam.of_images(sam.encode(picture), rows), prompts, multimask=True)
    torch.testing.assert_close(own.logits, theirs.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(own.quality, theirs.quality, atol=1e-4, rtol=1e-4)


def test_segment_anythings_predictor_takes_it(model: SamClip) -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    predictor = SamPredictor(model.as_sam())
    predictor.set_image(photograph)
    for prompt in (
        {"point_coords": np.array([[30.0, 40.0]]), "point_labels": np.array([1])},
        {"box": np.array([20.0, 20.0, 90.0, 100.0])},
    ):
        masks, quality, logits = predictor.predict(**prompt, multimask_output=False)
        assert masks.shape == (1, 128, 128)
        if "box" in prompt:
            prompts = Prompts.from_boxes(torch.from_numpy(prompt["box"]).float()[None])
        else:
            prompts = Prompts(torch.from_numpy(prompt["point_coords"]).float()[None], torch.ones(1, 1))
        with torch.no_grad():
            own = model.masks(model.encode(torch.from_numpy(photograph).permute(2, 0, 1)), prompts)
        np.testing.assert_allclose(own.logits[0], logits, atol=1e-3)
        np.testing.assert_allclose(own.quality[0], quality, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (128, 64)])
@torch.no_grad()
def test_prompts_mean_the_same_place_at_every_size(size: tuple[int, int]) -> None:
    model = make("MODEL.SAM_CLIP.IMAGE_SIZE", str(size))
    assert model.mask_size == (size[0] // 2, size[1] // 2)
    features = model.encode(torch.zeros(3, 128, 128))
    captured, layer = [], model.prompt_encoder.pe_layer
    encode = layer.forward_with_coords
    layer.forward_with_coords = lambda points, shape: (captured.append(points), encode(points, shape))[1]
    model.masks(features, Prompts(torch.tensor([[[size[1] / 2 - 0.5, size[0] / 4 - 0.5]]]), torch.ones(1, 1)))
    # In pixels of SAM's input, from its edge.
    assert captured[0][0, 0].tolist() == pytest.approx([64.0, 32.0])
    if size[0] == size[1]:
        assert model.input_size == size[0]
    else:
        with pytest.raises(ValueError, match="square"):
            _ = model.input_size


@torch.no_grad()
def test_words_are_refined_by_the_sam_head_as_the_docstring_says(both: SamClip, picture: Tensor) -> None:
    features = both.encode(picture)
    result = both.segment(features, WORDS)
    probability = (result.correlations[0] * both.logit_scale).softmax(dim=1)
    fine = F.interpolate(probability, (64, 64), mode="bilinear", align_corners=False)
    asked = probability.amax(dim=(2, 3)) > 0.25
    assert asked.any() and not asked.all()
    masks = {}
    draw = both.draw
    both.draw = lambda image, scores, uniform: masks.setdefault(len(masks), draw(image, scores, uniform))
    try:
        assert torch.equal(both.segment(features, WORDS).logits, result.logits)
    finally:
        del both.draw
    for image in range(2):
        expected = MaskScores(fine[image], both.mask_share)
        expected.add(asked[image].nonzero()[:, 0], masks[image])
        torch.testing.assert_close(result.logits[image], expected.logits())


@torch.no_grad()
def test_chunks_of_words_change_nothing(both: SamClip, picture: Tensor) -> None:
    features = both.encode(picture)
    whole = both.segment(features, WORDS).logits
    both.prompt_chunk = 1
    try:
        torch.testing.assert_close(both.segment(features, WORDS).logits, whole, atol=1e-5, rtol=1e-5)
    finally:
        both.prompt_chunk = 16
    alone = both.segment(both.encode(picture[1]), WORDS).logits
    torch.testing.assert_close(alone[0], whole[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_any_word_above_the_score_the_label_map_is_the_clip_heads(picture: Tensor) -> None:
    model = make("MODEL.SAM_CLIP.LABEL_MAP", "both", "MODEL.SAM_CLIP.SCORE", "0.999")
    result = model.segment(model.encode(picture), WORDS)
    probability = (result.correlations[0] * model.logit_scale).softmax(dim=1)
    fine = F.interpolate(probability, (64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(result.logits.argmax(dim=1), fine.argmax(dim=1))


@pytest.mark.parametrize(
    ("which", "trained"), [("head", {"clip_head"}), ("all", {"clip_head", "backbone", "mask_decoder"}), ("none", set())]
)
def test_what_trains(which: str, trained: set[str]) -> None:
    model = make("MODEL.SAM_CLIP.TRAIN", which)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == trained


def test_what_sam_brought_learns_more_slowly() -> None:
    cfg = load_config(CONFIG, [*OPTIONS, "MODEL.SAM_CLIP.TRAIN", "all", "SOLVER.SAM_MULTIPLIER", "0.1"])
    rates = {group.name.split(",")[0]: group.lr for group in parameter_groups(build_model(cfg), cfg)}
    assert rates["backbone"] == rates["SAM head"] == pytest.approx(0.1 * rates["other"])


def test_every_parameter_is_saved_once(model: SamClip) -> None:
    addresses = [value.data_ptr() for name, value in model.state_dict().items() if value.numel() > 1]
    assert len(addresses) == len(set(addresses))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.SAM_CLIP.LABEL_MAP", "sam"), "LABEL_MAP"),
        (("MODEL.SAM_CLIP.TRAIN", "some"), "TRAIN"),
        (("MODEL.SAM_CLIP.POOLING", "median"), "median"),
        (("MODEL.SAM_CLIP.LABEL_MAP", "both", "TEST.SLIDING.ENABLED", "True"), "whole objects"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*options)


@torch.no_grad()
def test_a_coarser_grid_of_the_clip_head_leaves_sams_own(picture: Tensor) -> None:
    model = make("MODEL.SAM_CLIP.LABEL_MAP", "both", "MODEL.SAM_CLIP.SCORE", "0.0", "MODEL.SAM_CLIP.HEAD_CELLS", "8")
    result = model.segment(model.encode(picture), WORDS)
    assert result.correlations[0].shape == (2, 5, 8, 8) and result.logits.shape == (2, 5, 64, 64)
    assert model.representation(torch.zeros(1, 3, 128, 128), "all").shape[-2:] == (16, 16)


def test_words_are_no_prompts(model: SamClip, picture: Tensor) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match="segment"):
        model.masks(model.encode(picture[0]), Prompts.from_boxes(torch.rand(1, 4)), words=WORDS)


def test_it_can_be_fine_tuned_on_labelled_pixels() -> None:
    model = make("MODEL.SAM_CLIP.TRAIN", "all").train()
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    targets = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(1))
    targets[:, :9] = -1
    words = Vocabulary(["cat", "dog", "grass"])
    (loss,) = model.losses(images, targets, words).values()
    with torch.no_grad():
        logits = model.eval().segment(model.encode(images), words).logits
        fine = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
        picked = fine.log_softmax(dim=1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
        expected = -picked[targets >= 0].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.clip_head.parameters())
