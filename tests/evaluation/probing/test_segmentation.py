"""Head probing: a head learns what the features say, is scored at full size, and depends on its seed alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from escnet.config import load_config
from escnet.data.images import read_labels
from escnet.data.labelled import labelled_split
from escnet.evaluation.probing.features import Encoding, FeatureStore
from escnet.evaluation.probing.segmentation import HeadData, HeadRecipe, evaluate_head, probe_head, train_head

CONFIG = Path(__file__).parents[3] / "configs/camvid/escnet.yaml"
RECIPE = HeadRecipe(epochs=40, batch_size=3, learning_rate=0.05)


@pytest.fixture
def data(encoder, colour_data, tmp_path: Path) -> HeadData:
    # 28 by 28 pixels: 7 cells across, as the blocks of the pictures are.
    return HeadData.load(FeatureStore(encoder, Encoding(image_size=28), tmp_path / "f"), *colour_data)


def test_a_linear_head_reads_the_colours(data: HeadData) -> None:
    good = probe_head("linear", data, RECIPE, seed=0, device="cpu")
    assert good.miou > 0.8
    blind = replace(data, train=np.zeros_like(data.train), test=np.zeros_like(data.test))
    assert probe_head("linear", blind, RECIPE, seed=0, device="cpu").miou < 0.4


def test_the_seed_alone_decides_and_the_global_state_is_left_alone(data: HeadData) -> None:
    short = replace(RECIPE, epochs=2)

    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in train_head(build, data, short, seed, "cpu").parameters()])

    def build(width: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(width, 8, 1), nn.Dropout(0.5), nn.Conv2d(8, classes, 1))

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(weights(1), first) and not torch.equal(weights(2), first)


def test_scores_are_of_all_pixels_at_the_size_of_the_label_maps(data: HeadData) -> None:
    class Given(nn.Module):
        """Says of each cell the class of its strongest colour."""

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features * 1e4

    metrics = evaluate_head(Given(), data.test, data.truth, "cpu")
    intersection, union = np.zeros(3), np.zeros(3)
    for features, record in zip(data.test, data.truth.records, strict=True):
        labels = read_labels(record["sem_seg_file_name"])
        scores = torch.from_numpy(features.astype(np.float32))[None]
        large = nn.functional.interpolate(scores, labels.shape, mode="bilinear", align_corners=False)
        predicted = large[0].argmax(dim=0).numpy()
        for c in range(3):
            a, b, known = predicted == c, labels == c, labels != 255
            intersection[c] += (a & b & known).sum()
            union[c] += ((a | b) & known).sum()
    assert metrics.miou == pytest.approx((intersection / union).mean(), abs=1e-9)
    assert sum(metrics.truth_pixels) == 2 * (20 * 28 - 4)


@pytest.mark.parametrize("name", ["deeplabv3", "pspnet"])
def test_the_large_heads_train(data: HeadData, name: str) -> None:
    assert probe_head(name, data, replace(RECIPE, epochs=15, learning_rate=2e-3), 0, "cpu").pixel_accuracy > 0.6


def test_labelled_images_are_those_of_a_training_with_the_seed(data: HeadData, colour_data) -> None:
    cfg, (train, _) = load_config(CONFIG, ["LABELLED.IMAGES", "3", "LABELLED.SEED", "-1"]), colour_data

    def chosen(seed: int) -> list[int]:
        return data.labelled(cfg, train, seed).rows.tolist()

    for seed in range(3):
        cfg.SEED = seed
        training = labelled_split(cfg, train.records).training
        assert [train.records[row] for row in chosen(seed)] == training and len(training) == 3
    assert len({*map(tuple, map(chosen, range(5)))}) > 1
    cfg.LABELLED.SEED = 1
    assert chosen(0) == chosen(2)
    cfg.LABELLED.VALIDATION = 0.4
    assert len(chosen(0)) == 2
    cfg.LABELLED.IMAGES = 2.0
    with pytest.raises(ValueError, match="1 image to train on; the heads need 2 or more"):
        chosen(0)


def test_a_head_sees_no_other_than_its_labelled_images(data: HeadData) -> None:
    rows = np.array([1, 4])
    broken = np.full_like(data.train, np.nan)
    broken[rows] = data.train[rows]
    some = replace(data, train=broken, rows=rows)
    assert probe_head("linear", some, RECIPE, 0, "cpu") == probe_head(
        "linear", replace(data, rows=rows), RECIPE, 0, "cpu"
    )


def test_sets_of_other_classes_are_refused(encoder, colour_data, tmp_path: Path) -> None:
    train, test = colour_data
    store = FeatureStore(encoder, Encoding(image_size=28), tmp_path / "f")
    with pytest.raises(ValueError, match="both sets need the same classes"):
        HeadData.load(store, train, replace(test, class_names=("red", "green", "teal")))
    with pytest.raises(ValueError, match="1 image to train on; the heads need 2 or more"):
        HeadData.load(store, replace(train, records=train.records[:1]), test)
    assert encoder.images == 0


def test_a_loss_that_explodes_and_faulty_recipes_are_told(data: HeadData) -> None:
    with pytest.raises(ValueError, match=r"the loss is .*; lower --learning-rate"):
        train_head(lambda w, n: nn.Conv2d(w, n, 1), data, HeadRecipe(8, 3, 1e37), 0, "cpu")
    for faulty, message in (
        ({"epochs": 0}, "0 epochs"),
        ({"learning_rate": float("nan")}, "rate of nan"),
        ({"batch_size": 1}, "batch size is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            HeadRecipe(**faulty)
