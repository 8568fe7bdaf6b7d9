"""The augmentations against their plain forms: resizing everything, then cropping."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from escnet.data.augmentations import PadTo, ResizedCrop, ScaleJitterCrop


@pytest.mark.parametrize("resized", [(20, 33), (37, 50), (61, 80), (111, 150), (200, 270)])
@pytest.mark.parametrize("seed", range(3))
def test_a_resized_crop_is_the_crop_of_the_resized(resized, seed):
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (37, 50, 3), dtype=np.uint8)
    labels = generator.integers(0, 1000, (37, 50), dtype=np.int32)
    window = (min(18, resized[0]), min(25, resized[1]))
    top, left = (int(generator.integers(resized[axis] - window[axis] + 1)) for axis in (0, 1))
    crop = ResizedCrop(image.shape[:2], resized, (top, left), window)

    area = (slice(top, top + window[0]), slice(left, left + window[1]))
    whole = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR))[area]
    difference = np.abs(crop.apply_image(image).astype(int) - whole)
    # Filter weights are rounded, so that a grey level may differ here and there.
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    nearest = np.asarray(Image.fromarray(labels).resize(resized[::-1], Image.Resampling.NEAREST))[area]
    assert (crop.apply_segmentation(labels) == nearest).mean() > 0.99


def test_the_same_window_is_drawn_as_by_detectron2():
    image, labels = np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), int)
    image[..., 0], image[..., 1] = np.mgrid[:30, :40] * 6
    plain = [T.ResizeShortestEdge((24, 36, 60), 500, "choice"), T.RandomCrop("absolute", (20, 22))]
    for seed in range(5):
        np.random.seed(seed)
        sample = T.AugInput(image)
        T.AugmentationList(plain)(sample)
        np.random.seed(seed)
        ours = T.AugInput(image, sem_seg=labels)
        ScaleJitterCrop((24, 36, 60), 500, (20, 22))(ours)
        assert np.abs(ours.image.astype(int) - sample.image).max() <= 1


def test_windows_of_one_class_are_drawn_again():
    labels = np.zeros((40, 40), int)
    labels[:, 30:] = 1
    labels[:, 35:] = -1
    shares = []
    for seed in range(30):
        np.random.seed(seed)
        sample = T.AugInput(np.zeros((40, 40, 3), np.uint8), sem_seg=labels)
        ScaleJitterCrop((40,), 40, (10, 10), max_area=0.9)(sample)
        counts = np.bincount(sample.sem_seg[sample.sem_seg >= 0], minlength=2)
        shares.append(counts.max() / counts.sum())
    # A window of 10 columns has both classes at 0.9 or less from column 21 to 29, so for 9 of 31: 3 % are still missed.
    assert np.mean(np.array(shares) < 0.9) > 0.85


def test_points_go_where_their_pixels_go():
    crop = ResizedCrop((10, 20), (20, 60), (4, 9), (8, 8))
    assert crop.apply_coords(np.array([[5.0, 3.0]])).tolist() == [[5 * 3 - 9, 3 * 2 - 4]]


def test_padding_only_where_something_is_missing():
    pad = PadTo((8, 8), ignore_label=-1)
    assert isinstance(pad.get_transform(np.zeros((9, 8, 3))), T.NoOpTransform)
    sample = T.AugInput(np.zeros((5, 9, 3), np.uint8), sem_seg=np.zeros((5, 9), int))
    pad(sample)
    assert sample.image.shape == (8, 9, 3) and (sample.image[5:] == 128).all()
    assert (sample.sem_seg[5:] == -1).all() and (sample.sem_seg[:5] == 0).all()
