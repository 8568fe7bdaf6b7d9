"""The recipe of the small SAM: its targets, prompts, losses, that it learns, how it is judged, and what is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from escnet.data.simulated_prompts import (
    Prompts,
    centre_clicks,
    exact_boxes,
    likeliest_mask,
    loose_boxes,
    predict_masks,
    random_clicks,
    shrink_masks,
)
from escnet.evaluation.prompting import evaluate_sam
from escnet.miniature import pretraining
from escnet.miniature.sam_recipe import (
    GROUND,
    MaskedPictures,
    SamRecipe,
    dice_loss,
    draw_masked,
    mask_iou,
    number_regions,
    pick_targets,
    prediction_loss,
    train_sam,
)
from escnet.miniature.world.scene import Scene, SceneStyle
from escnet.pretrained.files import file_sha256
from escnet.pretrained.sam import SAM_SIZES, SamSize, build_sam, build_sam_decoder

SIZE = SamSize(
    channels=32, heads=2, mlp_dim=32, image_size=32, patch_size=4, encoder_dim=16, encoder_depth=1, encoder_heads=1,
    global_blocks=(0,),
)  # fmt: skip
STYLE = SceneStyle(size=32, objects=(1, 1), object_size=(0.5, 0.8))


@dataclass(frozen=True)
class TinyRecipe(SamRecipe):
    pictures: int = 4
    steps: int = 6
    batch_size: int = 3
    rounds: int = 3
    least_area: int = 8
    learning_rate: float = 3e-3
    warmup: int = 5
    style: SceneStyle = STYLE


RECIPE = TinyRecipe()


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny SAM under the name of the small one, and pictures drawn in this process."""
    monkeypatch.setitem(SAM_SIZES, "moji", SIZE)
    monkeypatch.setattr(pretraining.os, "cpu_count", lambda: 1)


def tiny_sam(seed: int = 0) -> Sam:
    torch.manual_seed(seed)
    return build_sam("moji")


@pytest.fixture(scope="module")
def pictures() -> MaskedPictures:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining.os, "cpu_count", lambda: 1)
        return draw_masked("unnamed", 4, 0, STYLE, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, size: int = 12, seed: int = 0) -> torch.Tensor:
    """Bool masks of a few random rectangles, none of them empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), dtype=bool)
    for mask in masks:
        for _ in range(3):
            x, y = rng.integers(0, size - 2, 2)
            mask[y : y + rng.integers(2, 7), x : x + rng.integers(2, 7)] = True
    return torch.from_numpy(masks)


def test_pictures_are_the_same_for_any_number(pictures: MaskedPictures) -> None:
    assert pictures.images.shape == (4, 3, 32, 32)
    assert pictures.images.dtype == pictures.regions.dtype == torch.uint8
    assert torch.equal(draw_masked("unnamed", 2, 0, STYLE, 8).images, pictures.images[:2])
    assert not torch.equal(draw_masked("unnamed", 2, 1, STYLE, 8).images, pictures.images[:2])
    assert not torch.equal(draw_masked("novel", 2, 0, STYLE, 8).images, pictures.images[:2])
    assert {1, GROUND} <= set(pictures.regions.unique().tolist())


def test_regions_number_objects_and_ground_and_leave_out_small_ones() -> None:
    labels = np.full((8, 8), 80, dtype=np.int16)
    labels[:, 4:] = 85
    instances = np.zeros((8, 8), dtype=np.uint8)
    instances[0:4, 0:4] = 1
    instances[6, 6] = 2  # alone in its block of four pixels, so no cell is half covered by it
    scene = Scene(np.zeros((8, 8, 3), dtype=np.uint8), labels, instances, "")
    expected = np.where(labels == 80, GROUND, GROUND + 1)
    expected[0:4, 0:4] = 1
    expected[6, 6] = 0
    assert number_regions(scene, 4).tolist() == expected.tolist()
    assert 1 not in number_regions(scene, 17)


def test_targets_are_ground_as_often_as_asked_for() -> None:
    regions = torch.zeros(1, 4, 4, dtype=torch.uint8)
    regions[0, 0] = 1
    regions[0, 1] = 2
    regions[0, 2] = GROUND
    targets = pick_targets(regions, replace(RECIPE, targets=4000, ground_share=0.25), generator())
    assert targets.shape == (1, 4000, 4, 4)
    rows = targets[0, :, :3, 0].float().mean(dim=0)
    assert rows.tolist() == pytest.approx([0.375, 0.375, 0.25], abs=0.03)
    assert not targets[..., 3, :].any()
    only_ground = torch.where(regions < GROUND, 0, regions)
    assert pick_targets(only_ground, RECIPE, generator())[:, :, 2].all()
    with pytest.raises(ValueError, match="no region"):
        pick_targets(torch.zeros_like(regions), RECIPE, generator())


def test_shrunk_masks_keep_cells_covered_by_half() -> None:
    mask = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    assert shrink_masks(mask[None], (2, 2)).tolist() == [[[True, False], [False, True]]]


def test_random_clicks_lie_in_the_error_region_with_its_sign() -> None:
    targets, predicted = blobs(50), blobs(50, seed=1)
    predicted[:5] = targets[:5]
    points, labels = random_clicks(predicted, targets, 24, generator())
    # Two pixels of SAM's input are one of the masks, whose middle is half a pixel off.
    cells = ((points + 0.5) / 2 - 0.5).long()
    assert torch.equal((cells + 0.5) * 2 - 0.5, points)
    hit = torch.arange(50), cells[:, 1], cells[:, 0]
    assert torch.equal(targets[hit].float(), labels)
    assert (predicted[hit] != targets[hit])[5:].all()
    assert labels[:5].all()
    assert 0 < labels[5:].sum() < 45


def test_random_clicks_reach_every_wrong_pixel() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.bool)
    target[0, 0] = True
    predicted = ~target
    predicted[0, 0, 1] = True
    points, _ = random_clicks(predicted.repeat(200, 1, 1), target.repeat(200, 1, 1), 2, generator())
    assert {tuple(point) for point in points.tolist()} == {(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)}


def deepest_by_brute_force(region: np.ndarray) -> np.ndarray:
    """The distance of each pixel of a region to the nearest one outside it or outside the picture."""
    height, width = region.shape
    outside = [
        (y, x)
        for y in range(-1, height + 1)
        for x in range(-1, width + 1)
        if not (0 <= y < height and 0 <= x < width and region[y, x])
    ]
    depth = np.zeros(region.shape)
    for y, x in zip(*np.nonzero(region), strict=True):
        depth[y, x] = min(math.hypot(y - b, x - a) for b, a in outside)
    return depth


def test_centre_clicks_are_farthest_from_what_is_right() -> None:
    targets, predicted = blobs(12, 9), blobs(12, 9, seed=1)
    predicted[0], predicted[1] = False, targets[1]
    points, labels = centre_clicks(predicted, targets, 9)
    for point, label, guess, target in zip(points, labels, predicted.numpy(), targets.numpy(), strict=True):
        regions = [target & ~guess, guess & ~target] if (guess != target).any() else [target]
        depth = np.max([deepest_by_brute_force(region) for region in regions], axis=0)
        x, y = point.int().tolist()
        assert depth[y, x] == pytest.approx(depth.max())
        assert label == target[y, x]


def test_boxes_go_through_the_outer_edges() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:5, 1:7] = True
    assert exact_boxes(mask).tolist() == [[0.5, 1.5, 6.5, 4.5]]
    loose = loose_boxes(mask.repeat(4000, 1, 1), 0.1, 0.7, generator()) - exact_boxes(mask)
    assert loose.abs().max() == pytest.approx(0.7)
    assert loose[:, 1].std().item() == pytest.approx(0.3, rel=0.1)
    assert loose.mean(dim=0).abs().max() < 0.05


def test_masks_of_several_images_are_those_of_each_alone() -> None:
    sam = tiny_sam()
    features = torch.randn(2, 32, 8, 8, generator=generator())
    points, labels = torch.tensor([[[3.0, 4.0], [9.0, 1.0]], [[20.0, 7.0], [5.0, 30.0]]]), torch.tensor([[1.0, 0]] * 2)
    boxes, logits = torch.tensor([[1.0, 2.0, 9.0, 8.0]] * 2), torch.randn(2, 32, 32, generator=generator(1))
    kinds = (Prompts(points, labels), Prompts.from_boxes(boxes), Prompts(points, labels, boxes).with_masks(logits))
    with torch.no_grad():
        for prompts in kinds:
            masks, quality = predict_masks(sam, features, prompts, multimask=True)
            for i in range(2):
                has_points = prompts.labels.shape[1] > 0
                sparse, dense = sam.prompt_encoder(
                    (prompts.points[i : i + 1], prompts.labels[i : i + 1]) if has_points else None,
                    None if prompts.boxes is None else prompts.boxes[i : i + 1],
                    None if prompts.masks is None else prompts.masks[i : i + 1],
                )
                alone = sam.mask_decoder(features[i : i + 1], sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
                torch.testing.assert_close(masks[i : i + 1], alone[0], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(quality[i : i + 1], alone[1], atol=1e-5, rtol=1e-4)


def test_the_likeliest_mask_is_taken() -> None:
    masks = torch.arange(6.0).view(2, 3, 1, 1)
    quality = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.5]])
    assert likeliest_mask(masks, quality).flatten().tolist() == [1.0, 3.0]


def test_losses_by_hand() -> None:
    logits, targets = torch.tensor([[[0.0, math.log(3)]]]), torch.tensor([[[1.0, 0.0]]])
    # Probabilities 1/2 and 3/4: in common 1/2, sums 5/4 and 1.
    assert dice_loss(logits, targets).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1.25 + 1 + 1))
    predicted, truth = torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]])
    assert mask_iou(predicted[None], truth[None]).item() == pytest.approx(1 / 3)
    assert mask_iou(torch.zeros(1, 1, 3, dtype=torch.bool), torch.zeros(1, 1, 3, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_only_the_best_mask_counts_and_all_expectations(alpha: float) -> None:
    # A good mask (both pixels right, p = 3/4 and 1/4) and a bad one (both wrong).
    good, bad = [math.log(3), -math.log(3)], [-math.log(3), math.log(3)]
    masks = torch.tensor([[[bad], [good]]], requires_grad=True)
    quality = torch.tensor([[0.5, 0.5]])
    targets = torch.tensor([[[True, False]]])
    focal = -((1 / 4) ** 2) * math.log(3 / 4) * (alpha + 1 - alpha) / 2
    dice = 1 - (2 * 0.75 + 1) / (1 + 1 + 1)
    loss = prediction_loss(masks, quality, targets, 20.0, alpha)
    # Of the two masks the IoU is 0 and 1: each expectation is off by 1/2.
    assert loss.tolist() == pytest.approx([20 * focal + dice + 0.25], rel=1e-5)
    loss.sum().backward()
    assert not masks.grad[0, 0].any()
    assert masks.grad[0, 1].all()


def losses_of_training(pictures: MaskedPictures, recipe: SamRecipe) -> list[float]:
    sam, losses = tiny_sam(), []
    train_sam(sam, pictures, recipe, lambda step, loss: losses.append(loss))
    assert not sam.training
    assert len(losses) == recipe.steps
    return losses


def test_a_few_steps_reduce_the_loss(pictures: MaskedPictures) -> None:
    two = MaskedPictures(pictures.images[:2], pictures.regions[:2])
    recipe = replace(RECIPE, steps=40, batch_size=2, targets=2, rounds=1, ground_share=0.0, learning_rate=1e-2)
    losses = losses_of_training(two, recipe)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_training_is_decided_by_the_seed(pictures: MaskedPictures) -> None:
    losses = losses_of_training(pictures, RECIPE)
    assert losses_of_training(pictures, RECIPE) == losses
    assert losses_of_training(pictures, replace(RECIPE, seed=1)) != losses


def test_every_weight_is_trained(pictures: MaskedPictures) -> None:
    sam = tiny_sam()
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    train_sam(sam, pictures, RECIPE)
    fixed = {name for name, value in sam.state_dict().items() if torch.equal(value, before[name])}
    assert fixed == {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"}


class Oracle:
    """In the place of SAM's answers: the truth inside the box or, with one click more each, ever more of it."""

    def __init__(self, targets: torch.Tensor) -> None:
        self.targets, self.seen = targets, []

    def __call__(
        self, sam: Sam, features: torch.Tensor, prompts: Prompts, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append((prompts.labels.shape[1], prompts.masks is not None, multimask))
        right = torch.where(self.targets, 5.0, -5.0)[:, None]
        if prompts.boxes is None and prompts.labels.shape[1] < 3:
            # SAM expects most of the last of three masks, which is empty; the second one is right.
            right = torch.cat([-right, right, torch.full_like(right, -5.0)], dim=1) if multimask else -right
        return right, torch.arange(float(right.shape[1])).expand(len(right), -1)


def test_evaluation_clicks_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = torch.full((2, 32, 32), GROUND, dtype=torch.uint8)
    regions[0, 4:20, 4:20] = 1
    regions[1, 8:30, 2:10] = 2
    data = MaskedPictures(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), regions)
    oracle = Oracle(regions < GROUND)
    monkeypatch.setattr("escnet.evaluation.prompting.predict_masks", oracle)
    assert evaluate_sam(tiny_sam(), data) == {
        "box": 1.0, "1 click, best of 3": 1.0, "1 click": 0.0, "3 clicks": 1.0, "5 clicks": 1.0, "objects": 2
    }  # fmt: skip
    later = [(count, True, False) for count in range(2, 6)]
    assert oracle.seen == [(0, False, False), (1, False, True), *later]
    data.regions.fill_(GROUND)
    with pytest.raises(ValueError, match="none of the 2 pictures"):
        evaluate_sam(tiny_sam(), data)


@pytest.fixture
def script(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("tools/miniature/pretrain_sam.py")
    monkeypatch.setattr(module, "SamRecipe", TinyRecipe)
    return module


ARGUMENTS = ["--steps", "3", "--pictures", "3", "--batch-size", "2", "--test-pictures", "2"]


def test_the_file_loads_as_a_sam_and_has_a_card(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "sam.safetensors"
    assert script.main([*ARGUMENTS, "--output", str(path)]) == 0
    sam = build_sam("moji", path)
    assert not torch.equal(sam.mask_decoder.iou_token.weight, tiny_sam().mask_decoder.iou_token.weight)
    prompt_encoder, transformer = build_sam_decoder("moji", path)
    assert torch.equal(prompt_encoder.no_mask_embed.weight, sam.prompt_encoder.no_mask_embed.weight)
    assert torch.equal(transformer.norm_final_attn.weight, sam.mask_decoder.transformer.norm_final_attn.weight)
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["sha256"] == file_sha256(path)
    assert card["recipe"]["steps"] == 3
    assert set(card["figures"]) == {"base", "novel", "unnamed"}
    test = draw_masked("novel", 2, script.TEST_SEED, STYLE, RECIPE.least_area)
    # A pixel whose logit is close to 0 may fall on either side when the sums run in another order.
    assert card["figures"]["novel"] == pytest.approx(evaluate_sam(sam, test), abs=2e-3)


def test_a_stopped_run_leaves_nothing(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "train", stop)
    assert script.main([*ARGUMENTS, "--output", str(tmp_path / "sam.safetensors")]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "value"), [("--steps", "0"), ("--output", "sam.pth")])
def test_refused_options(script: ModuleType, option: str, value: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        script.main(["--output", "sam.safetensors", option, value])
    assert f"got {value}" in capsys.readouterr().err
