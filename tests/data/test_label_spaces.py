"""The words by which the classes of a dataset are looked for."""

from __future__ import annotations

from collections import Counter

import pytest

from escnet.data.label_spaces import dataset_vocabulary, label_spaces
from escnet.data.registration import dataset_metadata


def test_original_names_are_the_first_of_the_published_synonyms():
    names = dataset_vocabulary("a847").names
    assert names[:2] == ("wall", "building") and len(names) == 847
    # Nine words of the literature's list name more than one class.
    repeated = {name for name, times in Counter(names).items() if times > 1}
    assert repeated == {"bag", "pot", "basket", "screen", "pier", "control panel", "pipe", "grill", "patio"}


def test_clean_names_are_different_and_bring_their_synonyms():
    vocabulary = dataset_vocabulary("ade20k_847_val", class_names="clean")
    assert len({row[0] for row in vocabulary.rows}) == 847
    assert dataset_vocabulary("pas20", class_names="clean").names[10].startswith("dining table")
    assert dataset_vocabulary("pas20").names[10] == "diningtable"


@pytest.mark.parametrize("class_names", ["original", "clean"])
def test_background_of_pas20b_is_pascal_context_without_the_classes_of_voc(class_names):
    vocabulary = dataset_vocabulary("pas20b", class_names=class_names)
    context = dataset_vocabulary("pc59", class_names=class_names).names
    assert vocabulary.names == dataset_vocabulary("pas20", class_names=class_names).names
    assert len(vocabulary.background) == 39 and set(vocabulary.background) < set(context)
    assert vocabulary.class_names[-1] == "background" and vocabulary.row_to_class[20:] == (20,) * 39
    assert len(dataset_metadata("voc_20b_val").stuff_classes) == vocabulary.num_classes == 21


def test_names_of_a_slice_and_the_key_of_its_label_space():
    assert dataset_vocabulary("camvid_val[:3]").names == dataset_vocabulary("camvid_val").names
    (space,) = label_spaces(["ade20k_150_val[:3]"], "imagenet").values()
    assert (space.vocabulary.num_classes, space.ignore_label, len(space.vocabulary.templates)) == (150, 255, 80)
    assert list(label_spaces(["camvid_val[:3]"])) == ["camvid_val"]


@pytest.mark.parametrize("class_names", ["original", "clean"])
def test_words_of_a_part_of_the_class_file(class_names):
    everything = dataset_vocabulary("moji_847", class_names=class_names)
    for short, rows in (("moji_base", slice(92)), ("moji_novel", slice(80, 132)), ("moji_all", slice(132))):
        vocabulary = dataset_vocabulary(short, class_names=class_names)
        assert vocabulary.rows == everything.rows[rows] and vocabulary.background == ()
    (space,) = label_spaces(["mojiscenes_val_novel"]).values()
    assert (space.vocabulary.num_classes, space.ignore_label) == (52, 255)


def test_unknown_kind_of_names():
    with pytest.raises(ValueError, match="'tidy' are unknown; choose original or clean"):
        dataset_vocabulary("a150", class_names="tidy")
