"""Images in a square: boxes and masks there and back, and SAM's own way held against its predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from escnet.evaluation.instance import BoxOptions, draw_masks
from escnet.evaluation.placement import Placement
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.sam import build_sam


def test_each_axis_is_scaled_by_itself() -> None:
    placement = Placement.stretched((50, 200), 100)
    # The whole image is the whole square, whose outer edges are half a pixel before the first and behind the last.
    box = torch.tensor([[0.0, 0.0, 200.0, 50.0], [20.0, 10.0, 40.0, 20.0]])
    assert placement.boxes(box).tolist() == [[-0.5, -0.5, 99.5, 99.5], [9.5, 19.5, 19.5, 39.5]]


@pytest.mark.parametrize(
    ("image", "inner"), [((50, 200), (25, 100)), ((200, 50), (100, 25)), ((333, 500), (67, 100)), ((1, 900), (1, 100))]
)
def test_the_longer_side_fills_the_square(image: tuple[int, int], inner: tuple[int, int]) -> None:
    placement = Placement.padded(image, 100)
    assert placement.inner == inner
    square = placement.place(torch.full((3, *image), 200, dtype=torch.uint8))
    assert square.shape == (1, 3, 100, 100)
    assert (square[0, :, : inner[0], : inner[1]] - 200).abs().max() < 1e-3
    mean = torch.tensor([123.675, 116.28, 103.53])
    outside = square[0, :, inner[0] :] if inner[0] < 100 else square[0, :, :, inner[1] :]
    torch.testing.assert_close(outside, mean[:, None, None].expand_as(outside), rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", [Placement.stretched, Placement.padded])
def test_a_mask_of_the_square_becomes_one_of_the_image(way) -> None:
    """The left half of the image, drawn in the square."""
    placement = way((16, 64), 64)
    logits = torch.full((1, 64, 64), -1.0)
    logits[:, :, :32] = 1.0
    expected = torch.zeros(1, 16, 64, dtype=torch.bool)
    expected[:, :, :32] = True
    assert torch.equal(placement.masks(logits), expected)


@pytest.mark.parametrize("size", [(96, 128), (128, 80), (128, 128)])
def test_padded_masks_are_those_of_sams_predictor(size: tuple[int, int]) -> None:
    sam = build_sam("moji", "shipped:sam")
    assert sam.image_encoder.img_size == 128
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels[20:70, 10:60] = (200, 30, 30)
    boxes = [(10.0, 20.0, 60.0, 70.0), (0.0, 0.0, 40.0, 75.0)]
    model = PromptableSam(sam).eval()
    drawn = list(draw_masks(model, torch.from_numpy(pixels).permute(2, 0, 1), boxes, BoxOptions(padded=True, chunk=1)))
    predictor = SamPredictor(sam)
    predictor.set_image(pixels)
    for box, (mask, quality) in zip(boxes, drawn, strict=True):
        # It takes the pixel's index where we take its left edge.
        masks, expected, _ = predictor.predict(box=np.array(box) - 0.5, multimask_output=False)
        assert mask.any()
        np.testing.assert_array_equal(mask, masks[0])
        assert quality == pytest.approx(expected[0].item(), abs=1e-4)
