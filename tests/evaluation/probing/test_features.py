"""Features of a set of pictures: the encoder's own, computed once, and refused where they are of something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from escnet.data.images import read_image, read_labels
from escnet.evaluation.probing.features import Encoding, FeatureStore, nearest
from escnet.evaluation.runs.image_results import ResultsError
from escnet.ignore_label import IGNORE_LABEL
from escnet.meta_arch.interfaces import resize


def test_the_maps_are_the_encoders_at_the_size_asked_for(encoder, colour_data, tmp_path: Path) -> None:
    files = [record["file_name"] for record in colour_data[0].records]
    store = FeatureStore(encoder, Encoding(image_size=24, batch_size=4), tmp_path / "f")
    maps = store.maps("colours", files)
    assert maps.shape == (6, 3, 6, 6) and maps.dtype == np.float16 and encoder.images == 6
    picture = torch.from_numpy(read_image(files[4])).permute(2, 0, 1)[None].float()
    np.testing.assert_allclose(maps[4], encoder.representation(resize(picture, (24, 24)))[0], atol=1e-3)
    pooled = store.pooled("colours", files)
    np.testing.assert_allclose(pooled, maps.astype(np.float32).mean(axis=(2, 3)), atol=1e-3)
    again = FeatureStore(encoder, Encoding(image_size=24, batch_size=3), tmp_path / "f")
    calls = encoder.images
    np.testing.assert_array_equal(again.maps("colours", files), maps)
    assert encoder.images == calls


@pytest.mark.parametrize("changed", ["weights", "size", "representation", "files"])
def test_features_of_something_else_are_refused(encoder, colour_data, tmp_path: Path, changed: str) -> None:
    files = [record["file_name"] for record in colour_data[0].records]
    FeatureStore(encoder, Encoding(image_size=24), tmp_path / "f").maps("colours", files)
    other = type(encoder)(2.0 if changed == "weights" else 1.0)
    encoding = Encoding("squares" if changed == "representation" else "backbone", 28 if changed == "size" else 24)
    store = FeatureStore(other, encoding, tmp_path / "f")
    key = {"weights": "all weights sha256", "size": "image size", "files": "files"}.get(changed, changed)
    with pytest.raises(ResultsError, match=f"made under other conditions .*{key} was"):
        store.maps("colours", files[:5] if changed == "files" else files)


def test_targets_are_the_labels_of_the_nearest_pixels(encoder, colour_data, tmp_path: Path) -> None:
    train, _ = colour_data
    store = FeatureStore(encoder, Encoding(image_size=24, label_size=20), tmp_path / "f")
    targets = store.targets("colours", train.records, train.space)
    labels = read_labels(train.records[2]["sem_seg_file_name"]).astype(int)
    labels[labels == 255] = IGNORE_LABEL
    rows, columns = np.arange(20), (np.arange(20) * 28 + 14) // 20
    np.testing.assert_array_equal(targets[2], labels[np.ix_(rows, columns)])
    whole = FeatureStore(encoder, Encoding(image_size=24), tmp_path / "g").targets("c", train.records, train.space)
    assert whole.shape == (6, 24, 24) and set(np.unique(whole)) == {-1, 0, 1, 2}


def test_nearest_takes_the_middle_of_each_new_pixel() -> None:
    assert nearest(np.array([[0, 1, 2, 3]]), 2).tolist() == [[1, 3], [1, 3]]
    assert nearest(np.array([[0, 1]]), 4).tolist() == [[0, 0, 1, 1]] * 4


def test_what_16_bits_do_not_hold_is_refused(encoder, colour_data, tmp_path: Path) -> None:
    store = FeatureStore(type(encoder)(1e6), Encoding(image_size=24), tmp_path / "f")
    with pytest.raises(ValueError, match=r"features of colours: values up to .*16 bits do not hold"):
        store.maps("colours", [record["file_name"] for record in colour_data[0].records])
    assert not list((tmp_path / "f").glob("*.npy"))


def test_models_and_sizes_that_do_not_fit_are_refused(encoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image size is 30, but has to be a multiple of .*ColourEncoder, 4"):
        FeatureStore(encoder, Encoding(image_size=30), tmp_path)
    with pytest.raises(ValueError, match="no representation 'head', only backbone, squares"):
        FeatureStore(encoder, Encoding("head"), tmp_path)
