"""CLIP-Guided SAM: SAM at the start, SAM's interface kept, words alone, a label map of competing masks."""

from __future__ import annotations

import sys
from dataclasses import replace
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
from escnet.layers.semantic_adapter import WordSignals
from escnet.layers.similarity_prompts import SimilarityPrompter
from escnet.meta_arch.clip_guided_sam import ClipGuidedSam
from escnet.meta_arch.interfaces import AskedWords, Prompts
from escnet.meta_arch.mask_scores import MaskScores
from escnet.meta_arch.sam import PromptableSam
from escnet.meta_arch.text_prompting import TextPrompting
from escnet.predictor import Segmenter
from escnet.pretrained.files import WeightsError
from escnet.pretrained.sam import SAM_SIZES, build_sam
from escnet.vocabulary import Vocabulary, VocabularyError

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = Vocabulary(["cat", "grass, lawn", "car"])
RANDOM = ("MODEL.CLIP.WEIGHTS", "", "MODEL.SAM.WEIGHTS", "", "MODEL.DEVICE", "cpu")
TINY = ("MODEL.CLIP.NAME", "escnet-mini", "MODEL.SAM.NAME", "mini", "MODEL.CLIP.IMAGE_SIZE", "(64, 80)", *RANDOM)


def make_model(*opts: str, learned: bool = False) -> ClipGuidedSam:
    """A tiny one; after a training, as far as its adapters are concerned, if wanted."""
    torch.manual_seed(0)
    model = build_model(load_config(CONFIGS / "mojiscenes/clip_guided_sam_paper.yaml", [*TINY, *opts])).eval()
    if learned:
        for module in (model.encoder.plain, model.encoder.semantic):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def sam_of(model: ClipGuidedSam) -> PromptableSam:
    """The SAM that a model was built of."""
    sam = build_sam("mini").eval()
    sam.image_encoder.load_state_dict(model.encoder.encoder.state_dict())
    sam.prompt_encoder.load_state_dict(model.prompt_encoder.state_dict())
    sam.mask_decoder.load_state_dict(model.mask_decoder.state_dict())
    return PromptableSam(sam)


def make_images(count: int = 1, size: tuple[int, int] = (60, 80)) -> Tensor:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def prompts(count: int) -> Prompts:
    generator = torch.Generator().manual_seed(2)
    boxes = 100 * torch.rand(count, 4, generator=generator).sort(dim=1).values
    return Prompts(100 * torch.rand(count, 2, 2, generator=generator), torch.tensor([[1.0, 0.0]] * count), boxes)


@torch.no_grad()
def test_untrained_it_answers_as_sam_to_the_bit() -> None:
    model, image = make_model("MODEL.GUIDED.MASK_PROMPT", "False"), make_images()
    sam = sam_of(model)
    expected = sam.masks(sam.encode(image), prompts(1), multimask=True)
    for words in (None, Vocabulary(["cat"])):
        found = model.masks(model.encode(image), prompts(1), words, multimask=True)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.quality, expected.quality)


@torch.no_grad()
def test_a_word_brings_its_mask_prompt_unless_there_is_one() -> None:
    model, image = make_model("MODEL.GUIDED.MASK_LEVELS", "(-3.0, 5.0)"), make_images()
    sam = sam_of(model)
    features, word = model.encode(image), Vocabulary(["cat"])
    similarity = correlation_maps(features.clip.dense, model.clip_text.encode(word), 3)[0]
    stretched = (similarity - similarity.min()) / (similarity.max() - similarity.min())
    fine = F.interpolate(stretched[None], model.mask_size, mode="bilinear", align_corners=False)
    hint = torch.where(fine > 0.8, 5.0, -3.0)
    expected = sam.masks(sam.encode(image), replace(prompts(1), masks=hint))
    assert torch.equal(model.masks(features, prompts(1), word).logits, expected.logits)
    own = replace(prompts(1), masks=torch.randn(1, 1, *model.mask_size))
    expected = sam.masks(sam.encode(image), own)
    assert torch.equal(model.masks(features, own, word).logits, expected.logits)


@pytest.mark.parametrize("word", [None, Vocabulary(["cat"])])
def test_segment_anything_takes_it_for_sam(word: Vocabulary | None) -> None:
    model = make_model("MODEL.GUIDED.MASK_PROMPT", "False")
    photo = make_images()[0].permute(1, 2, 0).numpy()
    ours, sams = SamPredictor(model.as_sam(word)), SamPredictor(sam_of(model).sam)
    asked = [
        {"point_coords": np.array([[20.0, 30.0], [50.0, 10.0]]), "point_labels": np.array([1, 0])},
        {"box": np.array([10.0, 5.0, 60.0, 40.0]), "multimask_output": False},
        {"mask_input": np.ones((1, *model.mask_size), np.float32), "box": np.array([10.0, 5.0, 60.0, 40.0])},
    ]
    for predictor in (ours, sams):
        predictor.set_image(photo)
    for question in asked:
        for found, expected in zip(ours.predict(**question), sams.predict(**question), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_word_changes_what_segment_anything_sees_and_prompts_it() -> None:
    model = make_model(learned=True)
    photo = make_images()[0].permute(1, 2, 0).numpy()
    answers = []
    for word in (None, Vocabulary(["cat"]), Vocabulary(["car"])):
        predictor = SamPredictor(model.as_sam(word))
        predictor.set_image(photo)
        answers.append(predictor.predict(box=np.array([10.0, 5.0, 60.0, 40.0]))[2])
    assert not any(np.allclose(a, b) for a, b in zip(answers, [*answers[1:], answers[0]], strict=True))
    with pytest.raises(ValueError, match="one word at a time, and the vocabulary has 3"):
        model.as_sam(WORDS)
    with pytest.raises(ValueError, match="IMAGE_SIZE is 64, and segment_anything's interface"):
        make_model("MODEL.GUIDED.IMAGE_SIZE", "64").as_sam(None)


@torch.no_grad()
def test_a_word_alone_is_asked_by_points_and_a_mask_read_off_its_similarity() -> None:
    model, image = make_model(learned=True), make_images()
    features = model.encode(image)
    text = model.clip_text.encode(WORDS)
    similarity = correlation_maps(features.clip.dense, text, 3)[0]
    signals = WordSignals(text, similarity, torch.zeros(3, dtype=torch.long))
    embedding = model.encoder.finish(features.state, signals)
    found = SimilarityPrompter(5, 0.8)(similarity, (64, 64), torch.rand(5, generator=torch.Generator().manual_seed(0)))
    points = 2 * (found.points.cells + 0.5) - 0.5
    own = Prompts(points, found.points.labels, masks=255.0 * found.region[:, None])
    expected = model.masks(replace_state(model, features, embedding), own)
    answer = model.masks(features, None, WORDS)
    torch.testing.assert_close(answer.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer.quality, expected.quality, atol=1e-4, rtol=1e-4)


def replace_state(model: ClipGuidedSam, features: object, embedding: Tensor) -> object:
    """Features whose embedding without words is the one given."""
    return replace(features, remembered={"": (embedding,)})


@torch.no_grad()
def test_points_drawn_several_times_give_the_mean_mask() -> None:
    image = make_images()
    often = make_model("MODEL.GUIDED.POINT_DRAWS", "3", learned=True)
    answer = often.masks(often.encode(image), None, WORDS)
    numbers = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    features = often.encode(image)
    _, similarity = often.embed(features, WORDS)
    embedding = often.embed(features, WORDS)[0]
    single = [TextPrompting().ask(often, embedding, similarity, 128, row[None]) for row in numbers]
    mean = sum(one.logits.sigmoid() for one in single) / 3
    torch.testing.assert_close(answer.logits.sigmoid(), mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answer.quality, sum(one.quality for one in single) / 3)
    assert not torch.allclose(single[0].logits, single[1].logits)


@torch.no_grad()
def test_in_use_points_are_always_the_same_and_another_seed_draws_others() -> None:
    image = make_images()
    model, other = make_model(learned=True), make_model("MODEL.GUIDED.POINT_SEED", "1", learned=True)
    logits = [m.segment(m.encode(image), WORDS).logits for m in (model, model, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


@torch.no_grad()
@pytest.mark.parametrize("presence", [("quality",), ("clip",), ("inside",), ("quality", "clip", "inside")])
def test_masks_compete_by_the_presence_of_their_words(presence: tuple[str, ...]) -> None:
    model, image = make_model("MODEL.GUIDED.PRESENCE", str(presence), learned=True), make_images()
    features = model.encode(image)
    segmentation = model.segment(features, WORDS)
    answer = model.masks(features, None, WORDS)
    masks, text = answer.logits[:, 0], model.clip_text.encode(WORDS)
    correlation = correlation_maps(features.clip.dense, text, 3)
    probability = F.interpolate(
        (correlation * model.logit_scale).softmax(dim=1), (64, 64), mode="bilinear", align_corners=False
    )[0]
    # What nothing asks for is not computed.
    assert (features.clip.pooled is not None) == ("clip" in presence)
    pooled = make_model("MODEL.GUIDED.PRESENCE", "('clip',)", learned=True).encode(image).clip.pooled
    by_hand = {
        "quality": answer.quality[:, 0].clamp(0, 1),
        "clip": (text @ F.normalize(pooled[0], dim=0) * model.logit_scale).softmax(dim=0),
        "inside": torch.stack(
            [p[m > 0].sum() / (m > 0).sum().clamp(min=1) for p, m in zip(probability, masks, strict=True)]
        ),
    }
    score = torch.ones(3)
    for kind in presence:
        score = score * by_hand[kind]
    scores = MaskScores(probability, 0.8)
    scores.add(torch.arange(3), masks, score)
    torch.testing.assert_close(segmentation.logits[0], scores.logits(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(segmentation.correlations[0], correlation)


@torch.no_grad()
def test_chunks_of_words_and_batches_of_images_change_nothing() -> None:
    images = make_images(3)
    whole, chunked = make_model(learned=True), make_model("MODEL.GUIDED.WORD_CHUNK", "2", learned=True)
    together = whole.segment(whole.encode(images), WORDS)
    torch.testing.assert_close(
        chunked.segment(chunked.encode(images), WORDS).logits, together.logits, atol=1e-4, rtol=1e-3
    )
    for number, image in enumerate(images):
        alone = whole.segment(whole.encode(image), WORDS)
        torch.testing.assert_close(alone.logits[0], together.logits[number], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_words_of_several_images_are_answered_each_by_its_own() -> None:
    model, images = make_model(learned=True), make_images(2)
    owners, rows = torch.tensor([1, 0, 1]), torch.tensor([0, 0, 2])
    features = model.of_images(model.encode(images), owners)
    for given in (None, prompts(3)):
        answer = model.masks(features, given, AskedWords(WORDS, rows))
        for number, (owner, row) in enumerate(zip(owners.tolist(), rows.tolist(), strict=True)):
            own = None if given is None else prompts_of(given, number)
            word = Vocabulary([WORDS.names[row]])
            alone = model.masks(model.encode(images[owner]), own, word)
            torch.testing.assert_close(answer.logits[number], alone.logits[0], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_one_word_is_heard_once_for_any_number_of_prompts() -> None:
    model, image, word = make_model(learned=True), make_images(), Vocabulary(["cat"])
    features, passes = model.encode(image), []
    model.encoder.encoder.neck.register_forward_hook(lambda *_: passes.append(1))
    one, three = model.masks(features, prompts(1), word), model.masks(features, prompts(3), word)
    again = model.masks(features, prompts(1), word)
    assert len(passes) == 1
    assert torch.equal(one.logits, again.logits)
    for number in range(3):
        alone = model.masks(model.encode(image), prompts_of(prompts(3), number), word)
        torch.testing.assert_close(three.logits[number], alone.logits[0], atol=1e-4, rtol=1e-3)


def prompts_of(given: Prompts, number: int) -> Prompts:
    own = slice(number, number + 1)
    return Prompts(given.points[own], given.labels[own], given.boxes[own])


@torch.no_grad()
def test_the_masks_of_words_are_those_of_the_paper_each_by_itself() -> None:
    model, image = make_model(learned=True), make_images()
    features = model.encode(image)
    masks = model.word_masks(features, WORDS, (30, 40))
    logits = model.masks(features, None, WORDS).logits
    expected = F.interpolate(logits, (30, 40), mode="bilinear", align_corners=False)[:, 0] > 0
    assert torch.equal(masks, expected)
    with pytest.raises(ValueError, match="features of 2 images"):
        model.word_masks(model.encode(make_images(2)), WORDS, (30, 40))


@torch.no_grad()
def test_only_the_words_that_clip_ranks_highest_are_asked_for() -> None:
    model, image = make_model("MODEL.GUIDED.MAX_WORDS", "2", learned=True), make_images()
    segmentation = model.segment(model.encode(image), WORDS)
    assert segmentation.rows.shape == (1, 2) and segmentation.logits.shape == (1, 2, 64, 64)
    kept = Vocabulary([WORDS.names[row] for row in segmentation.rows[0]])
    alone = make_model(learned=True).segment(model.encode(image), kept)
    torch.testing.assert_close(segmentation.logits, alone.logits, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_what_a_user_points_at_is_drawn_so_and_is_there() -> None:
    model, image = make_model(learned=True), make_images()
    features = model.encode(image)
    given = model.with_prompts(features, {1: prompts(1)})
    with_prompts, without = model.segment(given, WORDS), model.segment(features, WORDS)
    mask = model.masks(features, prompts(1), Vocabulary([WORDS.names[1]])).logits[0, 0]
    expected = (
        0.2
        * F.interpolate(
            (without.correlations[0] * model.logit_scale).softmax(dim=1), (64, 64), mode="bilinear", align_corners=False
        )[0, 1]
        + 0.8 * mask.sigmoid()
    )
    torch.testing.assert_close(with_prompts.logits[0, 1].exp(), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(with_prompts.logits[0, [0, 2]], without.logits[0, [0, 2]])
    with pytest.raises(ValueError, match="features of 2"):
        model.with_prompts(model.encode(make_images(2)), {0: prompts(1)})


@torch.no_grad()
def test_the_norm_of_the_published_code_is_over_all_tokens_of_a_channel() -> None:
    model = make_model("MODEL.GUIDED.NORM", "cells", "MODEL.GUIDED.CLIP_PIXELS", "sam")
    pixels = torch.rand(1, 3, 128, 128) * 255
    seen = F.interpolate(pixels, (64, 80), mode="bilinear", align_corners=False, antialias=True)
    clip = model.clip_image(model.normalise(seen), projected=True)
    tokens = torch.cat([clip.pooled[:, :, None], clip.projected.flatten(2)], dim=2)
    expected = (tokens / tokens.norm(dim=2, keepdim=True))[:, :, 1:].unflatten(2, (8, 10))
    torch.testing.assert_close(model.encode_pixels(pixels).vision, expected)


@torch.no_grad()
def test_what_all_words_have_in_common_is_left_out_of_what_enters_sam() -> None:
    plain, model = make_model(), make_model("MODEL.GUIDED.SUBTRACT_EMPTY", "True")
    features, known = model.encode(make_images()), plain.encode(make_images())
    _, similarity = model.embed(features, WORDS)
    text = F.normalize(model.clip_text.encode(WORDS) - model.clip_text.encode_empty(WORDS.templates), dim=-1)
    torch.testing.assert_close(similarity, correlation_maps(features.vision, text, model.smoothing)[0])
    assert torch.equal(model.similarity(features, WORDS), similarity)
    assert not torch.allclose(similarity, plain.similarity(known, WORDS), atol=0.01)
    # Label maps and masks are drawn with the same words; CLIP's own map stays what it is.
    ours, theirs = model.segment_features(features, WORDS), plain.segment_features(known, WORDS)
    assert torch.equal(ours.correlations[0], theirs.correlations[0])
    # What is drawn of prompts is what was asked with.
    torch.testing.assert_close(ours.prompts[0].probability[0], similarity)
    assert not torch.allclose(ours.logits, theirs.logits)
    drawn = [x.word_masks(y, WORDS, (60, 80)) for x, y in ((model, features), (plain, known))]
    assert not torch.equal(*drawn)


def test_at_another_size_of_images_prompts_mean_the_same_places() -> None:
    small = make_model("MODEL.GUIDED.IMAGE_SIZE", "64", "MODEL.GUIDED.MASK_PROMPT", "False")
    assert small.input_size == 64 and small.mask_size == (32, 32)
    with torch.no_grad():
        features = small.encode(make_images())
        found = small.masks(features, Prompts.from_boxes(torch.tensor([[9.5, 19.5, 49.5, 39.5]])))
        assert found.logits.shape == (1, 1, 32, 32)
        assert small.segment(features, WORDS).logits.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("trained", "clip", "expected"),
    [
        ("('adapters', 'mask_decoder', 'prompt_encoder')", "attention", {"adapters", "decoder", "prompts", "clip"}),
        ("('adapters',)", "none", {"adapters"}),
        ("('mask_decoder',)", "none", {"decoder"}),
        ("('prompt_encoder',)", "attention", {"prompts", "clip"}),
    ],
)
def test_each_part_that_learns_can_be_switched(trained: str, clip: str, expected: set[str]) -> None:
    model = make_model("MODEL.GUIDED.TRAIN", trained, "MODEL.CLIP.TRAIN", clip)
    parts = {
        "encoder.plain": "adapters",
        "encoder.semantic": "adapters",
        "mask_decoder": "decoder",
        "prompt_encoder": "prompts",
        "clip_image": "clip",
    }
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {part for name in learning for prefix, part in parts.items() if name.startswith(prefix)} == expected
    assert all(name.startswith(tuple(parts)) for name in learning)
    assert all(".attn." in name for name in learning if name.startswith("clip_image"))


def test_low_rank_matrices_start_at_sam_and_learn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("MODEL.GUIDED.LORA", "2", "MODEL.GUIDED.ADAPTERS", "()", "MODEL.GUIDED.TRAIN", "('adapters',)")
    model = make_model(*options, "MODEL.CLIP.TRAIN", "none", "MODEL.GUIDED.MASK_PROMPT", "False")
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    # Two matrices for each of two blocks: 64 channels in, 192 out.
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 2 * (64 + 192)
    assert not model.encoder.hears_words
    sam = build_sam("mini").eval()
    state = {name.replace("qkv.base_layer", "qkv"): value for name, value in model.encoder.encoder.state_dict().items()}
    sam.image_encoder.load_state_dict({name: value for name, value in state.items() if "lora_" not in name})
    sam.prompt_encoder.load_state_dict(model.prompt_encoder.state_dict())
    sam.mask_decoder.load_state_dict(model.mask_decoder.state_dict())
    image, promptable = make_images(), PromptableSam(sam)
    with torch.no_grad():
        found = model.masks(model.encode(image), prompts(1), Vocabulary(["cat"]))
        assert torch.equal(found.logits, promptable.masks(promptable.encode(image), prompts(1)).logits)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"MODEL.GUIDED.LORA is 2, which needs PEFT .*escnet\[lora\]"):
        make_model(*options)


def test_the_numbers_of_parameters_are_those_of_the_paper() -> None:
    model = ClipGuidedSam(load_config(CONFIGS / "clip_guided_sam/paper.yaml", RANDOM))
    learning = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}

    def count(prefix: str) -> int:
        return sum(number for name, number in learning.items() if name.startswith(prefix))

    assert count("encoder.") == 16_556_544
    assert count("mask_decoder.") == 4_058_340
    assert count("prompt_encoder.") == 6_220
    assert count("clip_image.") == 28_348_416
    assert sum(learning.values()) == 48_969_520


def test_published_constants_are_a_variant_that_does_not_start_as_sam() -> None:
    cfg = load_config(CONFIGS / "clip_guided_sam/published_code.yaml")
    own = cfg.MODEL.GUIDED
    assert (own.SCALE, own.ZERO_START, own.INNER_SKIP, own.NORM, own.CLIP_PIXELS) == (0.5, False, True, "cells", "sam")
    keys = ("SCALE", "ZERO_START", "INNER_SKIP", "NORM", "CLIP_PIXELS")
    options = [part for key in keys for part in (f"MODEL.GUIDED.{key}", str(own[key]))]
    model, image = make_model(*options, "MODEL.GUIDED.MASK_PROMPT", "False"), make_images()
    with torch.no_grad():
        sam = sam_of(model)
        expected = sam.masks(sam.encode(image), prompts(1))
        assert not torch.allclose(model.masks(model.encode(image), prompts(1)).logits, expected.logits, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("MODEL.GUIDED.NORM", "tokens"), "NORM is 'tokens'"),
        (("MODEL.GUIDED.CLIP_PIXELS", "imagenet"), "CLIP_PIXELS is 'imagenet'"),
        (("MODEL.GUIDED.MASK_LEVELS", "(1.0, 1.0)"), "MASK_LEVELS is"),
        (("MODEL.GUIDED.PRESENCE", "()"), "PRESENCE is"),
        (("MODEL.GUIDED.PRESENCE", "('iou',)"), "PRESENCE is"),
        (("MODEL.GUIDED.TRAIN", "('clip',)"), "TRAIN has 'clip'"),
        (("MODEL.GUIDED.BLOCKS", "(2,)"), "BLOCKS has 2"),
        (("MODEL.GUIDED.IMAGE_SIZE", "60"), "IMAGE_SIZE is"),
        (("TEST.SLIDING.ENABLED", "True"), "no sliding windows"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options: tuple[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_model(*options)


def test_questions_that_make_no_sense_are_refused() -> None:
    model = make_model()
    features = model.encode(make_images())
    with pytest.raises(ValueError, match="neither prompts nor words"):
        model.masks(features, None)
    with pytest.raises(ValueError, match="3 words for 2 prompts"):
        model.masks(features, prompts(2), WORDS)
    with pytest.raises(TypeError, match="set TASK to promptable"):
        model.train()([{"image": make_images()[0], "sem_seg": torch.zeros(60, 80).long(), "vocabulary": WORDS}])


def test_a_checkpoint_of_another_sam_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"model": make_model().state_dict()}, path)
    options = [*TINY, "MODEL.GUIDED.BOTTLENECK", "0.5"]
    with pytest.raises(WeightsError, match=r"encoder\.plain\.0\.down.*Use the configuration it was trained with"):
        Segmenter.from_config(CONFIGS / "mojiscenes/clip_guided_sam_paper.yaml", path, options)
    sam = tmp_path / "sam.pth"
    torch.save(build_sam("mini").state_dict(), sam)
    with pytest.raises(WeightsError, match=r"sam\.pth.*image_encoder"):
        make_model("MODEL.SAM.NAME", "moji", "MODEL.SAM.WEIGHTS", str(sam))


def test_words_that_cannot_be_used_are_refused() -> None:
    model = make_model()
    with pytest.raises(VocabularyError, match=r"is too long: .* tokens, and the text encoder takes 77"):
        model.segment(model.encode(make_images()), Vocabulary(["cat", "very " * 80 + "long"]))
    with pytest.raises(VocabularyError, match="the vocabulary is empty"):
        Segmenter(model)(make_images()[0], [])


@pytest.mark.slow
@torch.no_grad()
def test_at_full_size_it_starts_as_sam_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of each kind of block one, at the size of all twelve: in windows and global, with plain adapters and with words.
    monkeypatch.setitem(SAM_SIZES, "vit_b", replace(SAM_SIZES["vit_b"], encoder_depth=4, global_blocks=(1, 3)))
    options = [*RANDOM, "MODEL.GUIDED.BLOCKS", "(-2, -1)"]
    model = ClipGuidedSam(load_config(CONFIGS / "clip_guided_sam/paper.yaml", options)).eval()
    sam = build_sam("vit_b").eval()
    sam.image_encoder.load_state_dict(model.encoder.encoder.state_dict())
    assert [block.window_size for block in sam.image_encoder.blocks] == [14, 0, 14, 0]
    assert model.encoder.semantic_blocks == [2, 3] and len(model.encoder.plain) == 4
    image = make_images(size=(480, 640))
    features = model.encode(image)
    embedding, similarity = model.embed(features, Vocabulary(["cat"]))
    assert torch.equal(embedding, PromptableSam(sam).encode(image))
    assert embedding.shape == (1, 256, 64, 64) and similarity.shape == (1, 32, 32)
