"""Tests of Segmenter: any picture and any words in, a correct and complete result out."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from escnet import Segmenter, Vocabulary
from escnet.config import ConfigError, load_config
from escnet.data.images import MAX_PIXELS, ImageError
from escnet.pretrained.files import WeightsError
from escnet.vocabulary import VocabularyError

MINI = Path(__file__).parents[1] / "configs" / "camvid" / "escnet.yaml"
SMALL = ("MODEL.CLIP.IMAGE_SIZE", "(64, 64)", "MODEL.ESC.NUM_BLOCKS", "1")


def build(**arguments) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter.from_config(MINI, opts=SMALL, device="cpu", **arguments)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return build()


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.fixture
def read_with(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """By which reader pictures are read, and with which settings."""
    calls: list[tuple[str, dict[str, Any]]] = []
    for name in ("read_image", "to_rgb"):

        def read(picture: Any, name: str = name, **settings: Any) -> np.ndarray:
            calls.append((name, settings))
            return np.zeros((8, 8, 3), np.uint8)

        monkeypatch.setattr(f"escnet.data.images.{name}", read)
    return calls


def test_files_and_pixels_are_read_with_the_settings_of_the_call(
    segmenter: Segmenter, read_with: list[tuple[str, dict[str, Any]]], photo: np.ndarray
) -> None:
    files = (b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), io.BytesIO(b"bytes"))
    for picture in ("photo.png", Path("photo.png"), *files):
        segmenter(picture, ["a", "b"], value_range=(0, 3000), max_pixels=9)
        assert read_with.pop() == ("read_image", {"value_range": (0, 3000), "max_pixels": 9})
    for picture in (photo, Image.fromarray(photo), torch.from_numpy(photo)):
        segmenter(picture, ["a", "b"], value_range=(0, 1))
        assert read_with.pop() == ("to_rgb", {"value_range": (0, 1)})
    segmenter("photo.png", ["a", "b"])
    assert read_with.pop() == ("read_image", {"value_range": None, "max_pixels": MAX_PIXELS})


def test_result_has_the_size_of_the_image_and_what_is_needed_for_drawing(
    segmenter: Segmenter, photo: np.ndarray
) -> None:
    result = segmenter(photo, ["cat", "grass"], background=["wall"])
    assert result.labels.shape == result.scores.shape == (40, 30)
    assert result.labels.dtype == np.int32 and result.scores.dtype == np.float32
    assert result.class_names == ("cat", "grass", "background")
    assert set(np.unique(result.labels)) <= {0, 1, 2}
    assert (result.scores > 0).all() and (result.scores <= 1 + 1e-6).all()
    assert np.array_equal(result.image, photo)
    assert [tuple(c.shape) for c in result.correlations] == [(1, 3, 8, 8)] * 2
    assert len(result.prompts) == 1 and result.prompts[0].labels.shape[:2] == (1, 3)
    assert not any(c.requires_grad for c in result.correlations)


def test_path_pil_and_array_give_the_same(segmenter: Segmenter, photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    expected = segmenter(photo, ["cat", "grass"])
    for picture in (path, str(path), Image.fromarray(photo)):
        result = segmenter(picture, ["cat", "grass"])
        assert np.array_equal(result.labels, expected.labels)
        assert np.allclose(result.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1000, 5), (5, 1000)])
def test_extreme_sizes(segmenter: Segmenter, shape: tuple[int, int]) -> None:
    result = segmenter(np.zeros((*shape, 3), np.uint8), ["cat", "grass"])
    assert result.labels.shape == shape
    assert np.isfinite(result.scores).all()


@pytest.mark.parametrize("convert", ["L", "RGBA", "I;16"])
def test_other_modes_are_read_as_rgb(segmenter: Segmenter, photo: np.ndarray, convert: str, tmp_path: Path) -> None:
    grey = np.repeat(photo[..., :1], 3, axis=2)
    picture = {
        "L": lambda: Image.fromarray(grey[..., 0]),
        "RGBA": lambda: Image.fromarray(np.dstack([grey, np.full(grey.shape[:2], 255, np.uint8)])),
        "I;16": lambda: Image.fromarray(grey[..., 0].astype(np.uint16) * 257),
    }[convert]()
    assert picture.mode == convert
    picture.save(tmp_path / "p.png")
    assert np.array_equal(segmenter(tmp_path / "p.png", ["a", "b"]).labels, segmenter(grey, ["a", "b"]).labels)


def test_two_vocabularies_in_turn_are_answered_like_by_a_fresh_model(segmenter: Segmenter, photo: np.ndarray) -> None:
    first, second = ["cat", "grass", "sky"], ["grass", "a tram", "cat"]
    expected = [build()(photo, first), build()(photo, second)]
    for words, answer in zip((first, second, first), (*expected, expected[0]), strict=True):
        result = segmenter(photo, words)
        assert result.class_names == tuple(words)
        assert torch.allclose(result.correlations[0], answer.correlations[0], atol=1e-6)
        assert np.allclose(result.scores, answer.scores, atol=1e-5)
    assert not np.array_equal(expected[0].correlations[0], expected[1].correlations[0])


def test_many_threads_with_more_vocabularies_than_are_remembered(segmenter: Segmenter, photo: np.ndarray) -> None:
    vocabularies = [["cat", f"thing {i}", "grass"] for i in range(20)]

    def answer(words: list[str]) -> tuple[np.ndarray, Image.Image]:
        result = segmenter(photo, words)
        return result.scores, result.overlay()

    expected = [answer(words) for words in vocabularies]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(answer, 2 * vocabularies))
    for (scores, picture), (right_scores, right_picture) in zip(answers, 2 * expected, strict=True):
        assert np.allclose(scores, right_scores, atol=1e-5)
        assert picture.size == right_picture.size


def test_many_threads_of_one_encoded_image(segmenter: Segmenter, photo: np.ndarray) -> None:
    vocabularies = [["cat", f"thing {i}", "grass"] for i in range(20)]
    expected = [segmenter(photo, words) for words in vocabularies]
    encoded = segmenter.encode(photo)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(encoded, 2 * vocabularies))
        encoded_by_many = list(pool.map(segmenter.encode, [photo] * 16))
    for answer, right in zip(answers, 2 * expected, strict=True):
        assert answer.class_names == right.class_names
        assert np.allclose(answer.scores, right.scores, atol=1e-5)
    for other in encoded_by_many:
        assert np.allclose(other(vocabularies[0]).scores, expected[0].scores, atol=1e-5)


def test_a_batch_of_any_sizes_gives_the_results_of_calls(
    segmenter: Segmenter, photo: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo[:9]).save(path)
    pictures = [photo, path, Image.fromarray(photo[:, :11]), torch.from_numpy(np.tile(photo, (2, 3, 1)))]
    results = segmenter.batch(pictures, "cat, grass, sky", ["wall"])
    assert isinstance(results, list) and len(results) == 4
    for result, picture in zip(results, pictures, strict=True):
        alone = segmenter(picture, "cat, grass, sky", ["wall"])
        assert np.array_equal(result.labels, alone.labels) and np.array_equal(result.image, alone.image)
        assert np.allclose(result.scores, alone.scores, atol=1e-5)
        assert [c.shape for c in result.correlations] == [c.shape for c in alone.correlations]
        assert [p.points.shape for p in result.prompts] == [p.points.shape for p in alone.prompts]
        assert result.summary().keys() == alone.summary().keys()


def test_a_batch_is_read_with_the_settings_of_the_call(
    segmenter: Segmenter, read_with: list[tuple[str, dict[str, Any]]], photo: np.ndarray
) -> None:
    segmenter.batch(iter(["photo.png", photo]), ["a", "b"], value_range=(0, 3000), max_pixels=9)
    assert read_with == [
        ("read_image", {"value_range": (0, 3000), "max_pixels": 9}),
        ("to_rgb", {"value_range": (0, 3000)}),
    ]


def test_an_empty_batch_has_no_results_and_wrong_words_are_told_before_a_picture_is_read(segmenter: Segmenter) -> None:
    assert segmenter.batch([], ["a", "b"]) == []
    with pytest.raises(VocabularyError, match="empty"):
        segmenter.batch(["absent.png"], [])
    with pytest.raises(ImageError, match=r"absent\.png"):
        segmenter.batch(["absent.png"], ["a", "b"])


@pytest.mark.parametrize("windows", [False, True])
def test_a_result_says_how_many_words_were_considered(photo: np.ndarray, windows: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sliding = ("TEST.SLIDING.SIZE", "(64, 128)", "TEST.SLIDING.WINDOW", "(64, 64)", "TEST.SLIDING.ENABLED", "True")
    opts = (*SMALL, "MODEL.ESC.MAX_CLASSES", "2", *(sliding if windows else ()))
    segmenter = Segmenter.from_config(MINI, opts=opts, device="cpu")
    words = ["cat", "grass", "a tram", "lake", "oven"]
    for result in segmenter.batch([photo, photo[:20]], words, ["wall", "sky"]):
        summary = result.summary()
        assert summary["words"] == 7 and len(summary["class_names"]) == 6
        assert 2 <= summary["words_considered"] <= (6 if windows else 2)
        # Maps and prompts are of the rows that the whole image kept.
        assert result.rows.shape == (1, 2) and result.correlations[-1].shape[1] == 2
        result.save_prompts(tmp_path / "prompts.png")


def test_order_of_the_words_changes_only_the_ids(segmenter: Segmenter, photo: np.ndarray) -> None:
    names = ["cat", "grass", "sky"]
    forward, backward = segmenter(photo, names), segmenter(photo, names[::-1])
    for name in names:
        # Float rounding may decide a tie between two classes otherwise.
        assert (forward.mask(name) == backward.mask(name)).mean() > 0.99


def test_model_in_training_mode_is_run_in_evaluation_mode(segmenter: Segmenter, photo: np.ndarray) -> None:
    expected = segmenter(photo, ["cat", "grass"])
    segmenter.model.train()
    result = segmenter(photo, ["cat", "grass"])
    assert not segmenter.model.training
    assert np.array_equal(result.scores, expected.scores)
    encoded = segmenter.encode(photo)
    segmenter.model.train()
    assert np.array_equal(encoded(["cat", "grass"]).scores, expected.scores)
    assert not segmenter.model.training


def test_vocabulary_in_each_form(segmenter: Segmenter) -> None:
    expected = Vocabulary(["cat", "building, edifice"], background=["sky", "wall"])
    assert segmenter.vocabulary(["cat", "building, edifice"], ["sky", "wall"]) == expected
    assert segmenter.vocabulary("cat, building|edifice", "sky, wall").rows == expected.rows
    assert segmenter.vocabulary(expected) is expected
    with pytest.raises(VocabularyError, match="own background"):
        segmenter.vocabulary(expected, ["road"])


def test_every_form_of_a_word_list_is_understood(segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "words.JSON"
    path.write_text('\ufeff["sky", "building, edifice"]', encoding="utf-8")

    def one_by_one() -> Iterator[str]:
        yield from ("sky", "building|edifice")

    rows = (("sky",), ("building", "edifice"))
    for words in (path, str(path), one_by_one(), {"sky": [], "building": "edifice"}, "sky; building|edifice"):
        assert segmenter.vocabulary(words).rows == rows
    assert segmenter.vocabulary("cat", path).rows == segmenter.vocabulary(["cat"], str(path)).rows == (("cat",), *rows)
    for words in (None, {"sky", "grass"}, ["sky; grass"], "words.txt"):
        with pytest.raises(VocabularyError):
            segmenter.vocabulary(words)
        with pytest.raises(VocabularyError):
            segmenter.vocabulary(["cat"], words)


def test_one_class_without_background_is_warned_of_once(photo: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    segmenter = build()
    caplog.clear()
    for words in (["cat"], "cat", Vocabulary(["cat"])):
        assert (segmenter(photo, words).scores > 0.999).all()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert '"cat"' in caplog.text and "background words" in caplog.text
    segmenter(photo, "dog")
    assert len(caplog.records) == 2
    caplog.clear()
    segmenter(photo, ["cat"], background=["wall"])
    assert not caplog.records


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "empty"), (["cat", ""], "class 1"), (["cat", "Cat"], "Cat"), (["cat", "very " * 90 + "long"], "long")],
)
def test_unusable_words_are_named(segmenter: Segmenter, photo: np.ndarray, words: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        segmenter(photo, words)


def test_templates_of_the_configuration_are_used() -> None:
    model = Segmenter.from_config(MINI, opts=(*SMALL, "TEST.TEMPLATES", "imagenet"), device="cpu")
    assert len(model.vocabulary(["cat"]).templates) == 80


def test_unreadable_pictures_are_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("text.jpg", "absent.jpg"):
        with pytest.raises(ImageError, match=name) as caught:
            segmenter(tmp_path / name, ["cat"])
        assert "dataset" not in str(caught.value)
    with pytest.raises(ValueError, match="list"):
        segmenter([[1, 2]], ["cat"])


def test_checkpoint_brings_every_weight(photo: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = build()
    torch.save({"model": trained.model.state_dict(), "iteration": 3}, tmp_path / "model.pth")
    torch.manual_seed(1)
    # With a checkpoint, the public weights that the configuration names are not needed.
    opts = (*SMALL, "MODEL.CLIP.WEIGHTS", "/absent/clip.pt", "MODEL.SAM.INIT", "pretrained", "MODEL.SAM.WEIGHTS", "/no")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "escnet.predictor"):
        loaded = Segmenter.from_config(MINI, tmp_path / "model.pth", opts, "cpu")
    assert not caplog.records
    words = ["cat", "grass", "sky"]
    assert np.array_equal(loaded(photo, words).scores, trained(photo, words).scores)


def test_weights_can_stand_in_the_configuration(tmp_path: Path) -> None:
    torch.save({"model": build().model.state_dict()}, tmp_path / "model.pth")
    cfg = load_config(MINI, [*SMALL, "MODEL.WEIGHTS", str(tmp_path / "model.pth"), "MODEL.CLIP.WEIGHTS", "/absent"])
    cfg.freeze()
    Segmenter.from_config(cfg, device="cpu")
    assert cfg.MODEL.CLIP.WEIGHTS == "/absent" and cfg.is_frozen()


def test_random_weights_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "escnet.predictor"):
        build()
    assert "no checkpoint" in caplog.text


def test_checkpoint_that_does_not_fit_is_refused_with_its_keys(tmp_path: Path) -> None:
    state = build().model.state_dict()
    missing = next(key for key in state if key.startswith("decoder"))
    misshapen = next(key for key, value in state.items() if key.startswith("clip_image") and value.ndim == 2)
    del state[missing]
    state[misshapen] = torch.zeros(1, 2)
    state["surplus.weight"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "other.pth")
    with pytest.raises(WeightsError) as caught:
        build(weights=tmp_path / "other.pth")
    for word in ("other.pth", missing, misshapen, "surplus.weight", "configuration"):
        assert word in str(caught.value)


def test_absent_weights_are_named() -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth"):
        build(weights="absent.pth")
    with pytest.raises(WeightsError, match='no weights "absent" ship with escnet'):
        build(weights="shipped:absent")


def test_shipped_weights(photo: np.ndarray) -> None:
    segmenter = Segmenter.from_config(MINI.parents[1] / "mojiscenes" / "escnet.yaml", "shipped:esc_net", device="cpu")
    assert segmenter(photo, ["duck", "castle", "grass"]).labels.shape == photo.shape[:2]


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.ESC.ALPHA"], "ALPHA"),
        (["MODEL.ESC.NOTHING", "1"], "NOTHING"),
        (["MODEL.ESC.ALPHA", "much"], "ALPHA"),
        (["MODEL.ESC.ALPHA.X", "1"], "KEY VALUE options"),
    ],
)
def test_unusable_options_are_named(opts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(MINI, opts)


@pytest.mark.parametrize("text", ["MODEL: [", "[1]", "MODEL: 3", "NOTHING: 1\nVERSION: 2", "_BASE_: absent.yaml", ""])
def test_unusable_configuration_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_missing_gpu_is_an_error_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cuda:1"):
        Segmenter.from_config(MINI, opts=SMALL, device="cuda:1")
    assert Segmenter.from_config(MINI, opts=SMALL).model.device.type == "cpu"


def test_scores_of_all_classes_are_kept_and_saved_if_they_are_wanted(photo: np.ndarray, tmp_path: Path) -> None:
    segmenter = Segmenter.from_config(MINI, opts=(*SMALL, "TEST.FULL_SCORES", "True"), device="cpu")
    result = segmenter(photo, ["cat", "grass"], ["wall", "sky"])
    assert result.class_scores.shape == (3, 40, 30) and result.class_scores.dtype == np.float32
    of_labels = np.take_along_axis(result.class_scores, result.labels[None], axis=0)[0]
    # Probabilities are resized for the one, logits for the other.
    assert np.abs(of_labels - result.scores).mean() < 0.02 < result.class_scores.std()
    result.save_class_scores(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz") as saved:
        assert saved["class_names"].tolist() == ["cat", "grass", "background"]
        assert saved["scores"].dtype == np.float16
        assert np.allclose(saved["scores"], result.class_scores, atol=1e-3)


def test_scores_that_were_not_computed_are_not_saved(segmenter: Segmenter, photo: np.ndarray, tmp_path: Path) -> None:
    result = segmenter(photo, ["cat", "grass"])
    assert result.class_scores is None
    with pytest.raises(ValueError, match=r"scores\.npz.*TEST\.FULL_SCORES"):
        result.save_class_scores(tmp_path / "scores.npz")
    assert not list(tmp_path.iterdir())


def test_saved_pictures(segmenter: Segmenter, photo: np.ndarray, tmp_path: Path) -> None:
    result = segmenter(photo, ["cat", "grass"])
    result.save_overlay(tmp_path / "new" / "o.jpg", alpha=0.3)
    result.save_prompts(tmp_path / "new" / "p.png", max_classes=1)
    assert {Image.open(p).format for p in (tmp_path / "new").iterdir()} == {"JPEG", "PNG"}
    with pytest.raises(ValueError, match="suffix"):
        result.save_overlay(tmp_path / "new" / "o.what")
    assert len(list((tmp_path / "new").iterdir())) == 2
