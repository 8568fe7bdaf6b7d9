"""A batch of segmentations: what is taken out for one image, and what padding counts for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from escnet.layers.pseudo_prompts import PseudoPromptGenerator
from escnet.meta_arch.segmentation import Segmentation
from escnet.vocabulary import Vocabulary

WORDS = Vocabulary([f"thing {i}" for i in range(6)], background=["wall", "sky"])
# Two rows of the first image, four of the second and three of the third; the padding says what it likes.
ROWS = torch.tensor([[1, 6, 1, 0], [0, 2, 3, 7], [4, 5, 6, -1]])
KEPT = (2, 4, 3)


def random_logits() -> Tensor:
    logits = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    logits[0, 2:] = torch.nan
    logits[2, 3:] = 1e6
    return logits


def padded() -> Segmentation:
    maps = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    prompts = PseudoPromptGenerator(num_prompts=2)(maps, 10.0)
    return Segmentation(random_logits(), ROWS, [maps, 2 * maps], [prompts], torch.arange(18).view(3, 6), KEPT)


@pytest.mark.parametrize("index", range(3))
def test_an_image_has_its_real_rows_alone(index: int) -> None:
    batch, count = padded(), KEPT[index]
    image = batch.of_image(index)
    assert torch.equal(image.logits, batch.logits[index : index + 1, :count])
    assert image.rows.tolist() == [ROWS[index, :count].tolist()] and image.kept is None
    assert torch.equal(image.correlations[1], batch.correlations[1][index : index + 1, :count])
    assert torch.equal(image.prompts[0].points, batch.prompts[0].points[index : index + 1, :count])
    assert image.prompts[0].masks.shape == (1, count, 2, 5, 6)
    assert torch.equal(image.first_rows, batch.first_rows[index : index + 1])


def test_without_padding_an_image_has_all_rows() -> None:
    image = Segmentation(random_logits(), None, [random_logits()]).of_image(1)
    assert torch.equal(image.logits, random_logits()[1:2]) and image.rows is None
    assert image.correlations[0].shape == (1, 4, 5, 6)


def test_maps_may_belong_to_other_rows_than_the_logits() -> None:
    map_rows = torch.tensor([[1, -1], [2, 3], [5, 6]])
    maps = torch.arange(6.0).view(3, 2, 1, 1)
    batch = Segmentation(random_logits(), ROWS, [maps], kept=KEPT, map_rows=map_rows)
    assert batch.of_image(0).map_rows.tolist() == [[1]] and batch.of_image(0).correlations[0].flatten().tolist() == [0]
    assert batch.of_image(1).map_rows.tolist() == [[2, 3]] and batch.of_image(1).logits.shape[1] == 4


@pytest.mark.parametrize("index", (-1, 3))
def test_an_image_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=f"no image {index} in a batch of 3"):
        padded().of_image(index)


def test_what_is_not_considered_and_padding_have_no_probability() -> None:
    batch = padded()
    probability = batch.row_probabilities(8)
    assert probability.shape == (3, 8, 5, 6)
    torch.testing.assert_close(probability.sum(dim=1), torch.ones(3, 5, 6))
    for index, count in enumerate(KEPT):
        rows = ROWS[index, :count]
        expected = torch.zeros(8, 5, 6)
        expected[rows] = batch.logits[index, :count].softmax(dim=0)
        torch.testing.assert_close(probability[index], expected)
        assert torch.equal(batch.of_image(index).row_probabilities(8)[0], probability[index])


def test_labels_are_those_of_the_real_rows() -> None:
    batch = padded()
    for index, count in enumerate(KEPT):
        out = batch.of_image(index).at_image_size(WORDS, (5, 6), full_scores=True)
        best = ROWS[index][batch.logits[index, :count].argmax(dim=0)]
        assert torch.equal(out["labels"], best.clamp(max=6))
        assert out["words_considered"] == count
        assert out["sem_seg"].shape == (7, 5, 6) and out["sem_seg"].isfinite().all()
    alone = Segmentation(random_logits()[:1], ROWS[:1], kept=KEPT[:1])
    first = batch.of_image(0).at_image_size(WORDS, (9, 9))
    assert torch.equal(alone.at_image_size(WORDS, (9, 9))["scores"], first["scores"])


def test_words_considered_are_all_where_none_is_left_out() -> None:
    logits = torch.randn(1, 8, 5, 6, generator=torch.Generator().manual_seed(2))
    assert Segmentation(logits).at_image_size(WORDS, (9, 9))["words_considered"] == len(WORDS.rows) == 8
    # Maps of fewer rows than the logits, as with sliding windows, change nothing.
    few = Segmentation(logits[:, :4], ROWS[1:2], [logits[:, :2]], map_rows=ROWS[1:2, :2])
    assert few.at_image_size(WORDS, (9, 9))["words_considered"] == 4


def test_a_batch_has_no_single_size() -> None:
    with pytest.raises(ValueError, match=r"3 images .*of_image"):
        padded().at_image_size(WORDS, (5, 6))


def test_padding_of_all_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no `rows`"):
        Segmentation(random_logits(), kept=KEPT)
