"""An encoded image asked with prompts: SAM's answers, label maps of words that are pointed at, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor
from torch.nn import functional as F

from escnet import Segmenter, Vocabulary, WordPrompts
from escnet.meta_arch.interfaces import Prompts
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.sam import build_sam
from escnet.vocabulary import VocabularyError
from escnet.word_prompts import PromptError

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = (
    "MODEL.CLIP.NAME", "escnet-mini", "MODEL.SAM.NAME", "mini", "MODEL.CLIP.IMAGE_SIZE", "(64, 64)",
    "MODEL.CLIP.WEIGHTS", "", "MODEL.SAM.WEIGHTS", "",
)  # fmt: skip
SAM_CLIP = (*TINY, "MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.IMAGE_SIZE", "(128, 128)")
BOX = (20, 30, 70, 100)


def build(*opts: str) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter.from_config(CONFIGS / "mojiscenes/clip_guided_sam.yaml", opts=(*TINY, *opts), device="cpu")


def photo(size: tuple[int, int] = (128, 128)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def a_mask(size: tuple[int, int] = (128, 128)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[size[0] // 4 : size[0] // 2, size[1] // 3 :] = True
    return mask


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return build()


@pytest.fixture(scope="module")
def sam(segmenter: Segmenter) -> PromptableSam:
    """The SAM of which the model was built: its adapters have not learned anything yet."""
    sam, model = build_sam("mini").eval(), segmenter.model
    sam.image_encoder.load_state_dict(model.encoder.encoder.state_dict())
    sam.prompt_encoder.load_state_dict(model.prompt_encoder.state_dict())
    sam.mask_decoder.load_state_dict(model.mask_decoder.state_dict())
    return PromptableSam(sam)


@torch.no_grad()
def sam_logits(sam: PromptableSam, pixels: np.ndarray, prompts: Prompts, multimask: bool = False) -> torch.Tensor:
    return sam.masks(sam.encode(torch.from_numpy(pixels).permute(2, 0, 1)), prompts, multimask=multimask).logits


def test_before_training_a_box_and_a_mask_of_a_word_give_sams_mask(segmenter: Segmenter, sam: PromptableSam) -> None:
    pixels, size = photo((60, 90)), (60, 90)
    # The mask's logits are those of the configuration, 0 and 255; half of 60 and 90 pixels are cells of 64.
    region = F.adaptive_avg_pool2d(torch.from_numpy(a_mask(size))[None].float(), (64, 64)) >= 0.5
    scale = torch.tensor([128 / 90, 128 / 60] * 2)
    box = (torch.tensor([[10.0, 5.0, 50.0, 40.0]]) + 0.5) * scale - 0.5
    prompts = Prompts.from_boxes(box).with_masks(255.0 * region.float())
    expected = F.interpolate(sam_logits(sam, pixels, prompts), size, mode="bilinear", align_corners=False)[0] > 0
    answer = segmenter.encode(pixels).masks("cat", box=(10, 5, 50, 40), mask=a_mask(size))
    assert answer.masks.dtype == bool and answer.masks.shape == (1, *size) and 0 < answer.masks.mean() < 1
    assert np.array_equal(answer.masks, expected.numpy())


def test_words_that_are_pointed_at_compete_by_the_masks_that_sam_draws(
    segmenter: Segmenter, sam: PromptableSam
) -> None:
    pixels, other = photo((64, 64)), ~a_mask((64, 64))
    given = {
        "cat": WordPrompts(box=(5, 8, 40, 50), mask=a_mask((64, 64))),
        "lawn": {"points": [(50, 9)], "mask": other},
    }
    result = segmenter(pixels, ["cat", "grass, lawn"], prompts=given)
    boxes, points = torch.tensor([[10.5, 16.5, 80.5, 100.5]]), torch.tensor([[[100.5, 18.5]]])
    masks = [255.0 * torch.from_numpy(mask)[None].float() for mask in (a_mask((64, 64)), other)]
    drawn = [
        sam_logits(sam, pixels, prompts)[0, 0].sigmoid()
        for prompts in (
            Prompts.from_boxes(boxes).with_masks(masks[0]),
            Prompts(points, torch.ones(1, 1)).with_masks(masks[1]),
        )
    ]
    similarity = result.correlations[0] * segmenter.model.logit_scale
    by_clip = F.interpolate(similarity.softmax(dim=1), (64, 64), mode="bilinear", align_corners=False)[0]
    expected = by_clip.lerp(torch.stack(drawn), segmenter.model.mask_share)
    # The picture has the size of the masks, so that nothing is resized.
    assert (expected.argmax(dim=0).numpy() == result.labels).mean() > 0.999
    without = segmenter(pixels, ["cat", "grass, lawn"])
    assert not np.array_equal(without.labels, result.labels)


def test_numbers_reach_a_model_of_the_images_size_unchanged(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, model = [], segmenter.model
    with_prompts = model.with_prompts

    def see(features: Any, given: Any) -> Any:
        seen.append(given)
        return with_prompts(features, given)

    monkeypatch.setattr(model, "with_prompts", see)
    points, labels, box = [(0, 0), (127, 3.5), (0.1, 77), (64, 64)], [1, 0, 1, 1], (-0.5, 20, 99.25, 127)
    given = {"wall": {"points": points, "labels": labels, "box": box}, "grass": {"points": [(5, 6)]}}
    segmenter(photo(), ["cat", "grass"], ["sky", "wall"], prompts=given)
    segmenter.encode(photo())("cat, grass", "sky, wall", given)
    for prompts in seen:
        assert sorted(prompts) == [1, 3]
        assert torch.equal(prompts[3].points, torch.tensor([points]))
        assert torch.equal(prompts[3].labels, torch.tensor([labels]).float())
        assert torch.equal(prompts[3].boxes, torch.tensor([box])) and prompts[3].masks is None
        assert prompts[1].points.tolist() == [[[5, 6]]] and prompts[1].boxes is None
    assert len(seen) == 2


@pytest.mark.parametrize("word", [None, "cat"])
def test_masks_are_those_of_segment_anythings_predictor(segmenter: Segmenter, word: str | None) -> None:
    encoded = segmenter.encode(photo())
    predictor = SamPredictor(segmenter.model.as_sam(None if word is None else Vocabulary([word])))
    predictor.set_image(photo())
    for points, labels, box in (([(30, 40), (90, 12)], [1, 0], None), ((), (), BOX), ([(30.5, 40)], [1], BOX)):
        for multimask in (False, True):
            masks, quality, _ = predictor.predict(
                np.array(points) if points else None,
                np.array(labels) if points else None,
                None if box is None else np.array(box),
                multimask_output=multimask,
            )
            answer = encoded.masks(word, points, labels, box, multimask=multimask)
            assert answer.masks.shape == masks.shape == (3 if multimask else 1, 128, 128)
            assert (answer.masks == masks).mean() > 0.9999
            np.testing.assert_allclose(answer.quality, quality, atol=1e-4)
            assert np.array_equal(answer.likeliest, answer.masks[answer.quality.argmax()])


def test_a_word_alone_is_answered_with_its_own_prompts(segmenter: Segmenter) -> None:
    pixels = photo((60, 90))
    encoded = segmenter.encode(pixels)
    answer = encoded.masks("cat|kitty")
    with torch.no_grad():
        features = segmenter.model.encode(torch.from_numpy(pixels).permute(2, 0, 1))
        expected = segmenter.model.word_masks(features, Vocabulary(["cat, kitty"]), (60, 90))
    assert np.array_equal(answer.masks, expected.numpy())


def test_many_threads_ask_for_masks_of_different_words(segmenter: Segmenter) -> None:
    encoded, words = segmenter.encode(photo()), [f"thing {number}" for number in range(6)]
    expected = [segmenter.encode(photo()).masks(word, box=BOX) for word in words]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda word: encoded.masks(word, box=BOX), 4 * words))
    for answer, right in zip(answers, 4 * expected, strict=True):
        np.testing.assert_allclose(answer.quality, right.quality, atol=1e-5)


def test_without_prompts_nothing_changes(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(photo((50, 70)))
    expected = segmenter(photo((50, 70)), "cat, grass", "wall")
    encoded("cat, grass", "wall", {"cat": {"points": [(3, 4)]}})
    encoded.masks("cat", box=(3, 4, 20, 30))
    for prompts in (None, {}):
        again = encoded("cat, grass", "wall", prompts)
        assert np.array_equal(again.labels, expected.labels) and np.array_equal(again.scores, expected.scores)


def test_wrong_prompts_are_told_before_the_image_is_encoded(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter.model, "encode", None)
    Image.new("L", (9, 9), 1).save(tmp_path / "small.png")
    for given, message in (
        ({"dog": {"points": [(3, 4)]}}, '"dog", which is not in the vocabulary'),
        ({"cat": {"points": [(128, 4)]}}, r'prompts of "cat": the point \(128, 4\) is outside'),
        ({"cat": {"mask": tmp_path / "small.png"}}, r'prompts of "cat": the mask .*small\.png is 9 pixels wide'),
    ):
        with pytest.raises(PromptError, match=message):
            segmenter(photo(), "cat, grass", prompts=given)
    with pytest.raises(PromptError, match="nothing to point at"):
        segmenter("absent.png", "cat, grass", prompts={"cat": {}})


def test_other_systems_draw_masks_without_words(tmp_path: Path) -> None:
    windows = ("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "(128, 192)", "TEST.SLIDING.WINDOW", "(128, 128)")
    pixels = photo((60, 90))
    models = [build(*SAM_CLIP, *opts) for opts in ((), windows)]
    answers = [model.encode(pixels).masks(points=[(30, 40)], multimask=True) for model in models]
    assert answers[0].masks.shape == (3, 60, 90) and answers[0].quality.shape == (3,)
    assert np.array_equal(answers[0].masks, answers[1].masks)
    encoded = models[0].encode(pixels)
    with pytest.raises(PromptError, match="SamClip draws masks from prompts without words; leave the word out"):
        encoded.masks("cat", box=BOX)
    with pytest.raises(PromptError, match=r"give points, a box or a mask$"):
        encoded.masks()
    with pytest.raises(PromptError, match="SamClip does not take prompts for words"):
        encoded("cat, grass", prompts={"cat": {"points": [(3, 4)]}})


def test_masks_that_cannot_be_drawn_are_refused(segmenter: Segmenter) -> None:
    encoded = segmenter.encode(photo())
    with pytest.raises(PromptError, match="give points, a box or a mask, or a word"):
        encoded.masks()
    with pytest.raises(PromptError, match="labels has 1 of them, points 0"):
        encoded.masks("cat", labels=[1])
    with pytest.raises(PromptError, match="outside the image"):
        encoded.masks("cat", points=[(128, 3)])
    with pytest.raises(VocabularyError, match="empty"):
        encoded.masks("", points=[(1, 3)])
    dense = build("MODEL.META_ARCHITECTURE", "DenseClip").encode(photo())
    with pytest.raises(PromptError, match="DenseClip draws no masks from prompts"):
        dense.masks(points=[(1, 3)])


def test_without_mask_prompts_a_given_mask_has_logits_of_its_own() -> None:
    model = build("MODEL.GUIDED.MASK_PROMPT", "False").model
    region = torch.tensor([[[True, False]]])
    assert model.mask_prompt(region).tolist() == [[[[8, -8]]]]
    assert build("MODEL.GUIDED.MASK_LEVELS", "(-3.0, 5.0)").model.mask_prompt(region).tolist() == [[[[5, -3]]]]
