"""Embeddings of images: read as open_clip does, computed once, kept in a file that knows its model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from escnet.evaluation import embeddings as module
from escnet.evaluation.embeddings import EmbeddingOptions, EmbeddingStore, centre_square, embed_images
from escnet.evaluation.runs.image_results import ResultsError
from escnet.meta_arch.interfaces import ClassifyingModel
from escnet.vocabulary import Vocabulary

CONDITIONS = {"model": {"all weights sha256": "a"}, "crop": "centre"}


class MeanColour(ClassifyingModel):
    """The feature of an image is its mean colour; counts the images that it sees."""

    def __init__(self, image_size: tuple[int, int] = (8, 8)) -> None:
        super().__init__()
        self.image_size, self.seen, self.shapes = image_size, 0, []

    def encode(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        self.shapes.append(tuple(images.shape))
        return images.float().mean(dim=(2, 3))

    def summary(self, features: Tensor) -> Tensor:
        return torch.nn.functional.normalize(features, dim=-1)

    def text_features(self, vocabulary: Vocabulary) -> Tensor:
        raise AssertionError("no words are asked for here")

    sentence_features = text_features


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 20)) -> None:
    Image.fromarray(np.full((*size, 3), colour, dtype=np.uint8)).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, colour in (("red", (200, 0, 0)), ("green", (0, 100, 0)), ("blue", (0, 0, 50))):
        save(tmp_path / f"{name}.png", colour)
    return tmp_path


NAMES = ("red.png", "green.png", "blue.png")


@pytest.mark.parametrize("size", [(40, 60), (61, 43), (20, 37)])
def test_the_centre_is_cut_as_open_clip_does(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    reference = open_clip.image_transform(32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    expected = reference(Image.fromarray(pixels))
    torch.testing.assert_close(centre_square(Image.fromarray(pixels), 32).float() / 255, expected)


def test_features_in_the_order_that_was_asked_for(images: Path) -> None:
    found = embed_images(MeanColour(), images, ("blue.png", "red.png"))
    assert found.names == ("blue.png", "red.png")
    torch.testing.assert_close(found.features, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))


def test_whole_images_and_the_middle(images: Path) -> None:
    model = MeanColour()
    embed_images(model, images, NAMES, EmbeddingOptions(batch_size=2))
    assert model.shapes == [(2, 3, 8, 8), (1, 3, 8, 8)]
    save(images / "tall.png", (9, 9, 9), (30, 12))
    whole = MeanColour((8, 4))
    embed_images(whole, images, (*NAMES, "tall.png"), EmbeddingOptions("none", batch_size=2))
    assert whole.shapes == [(2, 3, 12, 20), (1, 3, 12, 20), (1, 3, 30, 12)]
    with pytest.raises(ValueError, match="the model's is 8x4"):
        embed_images(whole, images, NAMES)


def test_what_is_in_the_file_is_not_computed_again(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "embeddings.safetensors"
    first = embed_images(MeanColour(), images, NAMES[:2], store=EmbeddingStore(path, CONDITIONS))
    model = MeanColour()
    again = embed_images(model, images, NAMES[:2], store=EmbeddingStore(path, CONDITIONS))
    assert model.seen == 0
    assert again.digest == first.digest
    torch.testing.assert_close(again.features, first.features, rtol=0, atol=0)

    more = embed_images(model, images, NAMES[::-1], store=EmbeddingStore(path, CONDITIONS))
    assert model.seen == 1
    assert more.names == NAMES[::-1]
    assert more.digest != first.digest

    save(images / "red.png", (0, 0, 200), (30, 31))  # another picture, of another size in bytes
    changed = embed_images(model, images, ("red.png",), store=EmbeddingStore(path, CONDITIONS))
    assert model.seen == 2
    torch.testing.assert_close(changed.features, torch.tensor([[0.0, 0.0, 1.0]]))


def test_embeddings_of_other_weights_are_refused(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "embeddings.safetensors"
    embed_images(MeanColour(), images, NAMES, store=EmbeddingStore(path, CONDITIONS))
    other = CONDITIONS | {"model": {"all weights sha256": "b"}}
    with pytest.raises(ResultsError, match=r"model\.all weights sha256 was a, is b.*--restart"):
        EmbeddingStore(path, other)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ResultsError, match="cannot be read as embeddings"):
        EmbeddingStore(path, CONDITIONS)


def test_an_unreadable_image_is_told_and_tried_again(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "embeddings.safetensors"
    (images / "green.png").write_bytes(b"no image")
    found = embed_images(MeanColour(), images, (*NAMES, "none.png"), store=EmbeddingStore(path, CONDITIONS))
    assert found.names == ("red.png", "blue.png")
    assert found.unreadable.keys() == {"green.png", "none.png"}
    assert "is not an image" in found.unreadable["green.png"]
    save(images / "green.png", (0, 7, 0))
    assert embed_images(MeanColour(), images, NAMES, store=EmbeddingStore(path, CONDITIONS)).names == NAMES
    with pytest.raises(ValueError, match=r"not one of 1 images can be read: .*none\.png"):
        embed_images(MeanColour(), images, ("none.png",))


def test_what_was_computed_before_an_interruption_stands(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(MeanColour):
        def encode(self, pixels: Tensor) -> Tensor:
            if self.seen == 2:
                raise KeyboardInterrupt
            return super().encode(pixels)

    path = tmp_path / "embeddings.safetensors"
    options = EmbeddingOptions(batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        embed_images(Interrupted(), images, NAMES, options, EmbeddingStore(path, CONDITIONS))
    model = MeanColour()
    assert embed_images(model, images, NAMES, options, EmbeddingStore(path, CONDITIONS)).names == NAMES
    assert model.seen == 1

    # A kill gives no time to write: from time to time it is written meanwhile.
    path.unlink()
    monkeypatch.setattr(module, "SAVE_PERIOD", 0.0)
    store = EmbeddingStore(path, CONDITIONS)
    store.add(["red.png"], [1], torch.ones(1, 3))
    assert EmbeddingStore(path, CONDITIONS).has("red.png", 1)


def test_refused_options() -> None:
    with pytest.raises(ValueError, match="crop must be one of"):
        EmbeddingOptions("left")
    with pytest.raises(ValueError, match="a batch needs an image"):
        EmbeddingOptions(batch_size=0)
