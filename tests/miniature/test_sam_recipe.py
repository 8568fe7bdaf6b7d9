"""The recipe of the small SAM: its targets, that it learns and resumes, how it is judged, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from escnet.evaluation.prompting import evaluate_prompting
from escnet.meta_arch.interfaces import MaskPrediction, Prompts
from escnet.meta_arch.sam import PromptableSam, predict_masks
from escnet.miniature import pretraining, sam_recipe
from escnet.miniature.sam_recipe import (
    GROUND,
    MaskedPictures,
    SamRecipe,
    draw_masked,
    number_regions,
    pick_targets,
    sam_trainer,
)
from escnet.miniature.world.scene import Scene, SceneStyle
from escnet.pretrained.files import file_sha256
from escnet.pretrained.sam import SAM_SIZES, SamSize, build_sam, build_sam_decoder
from escnet.training.trainer import Trainer

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
    assert MaskPrediction(masks, quality).likeliest().flatten().tolist() == [1.0, 3.0]


def trainer_of(pictures: MaskedPictures, recipe: SamRecipe, folder: Path, resume: bool = False) -> Trainer:
    trainer = sam_trainer(tiny_sam(recipe.seed), pictures, recipe, folder)
    trainer.resume_or_load(resume)
    return trainer


def losses_of_training(pictures: MaskedPictures, recipe: SamRecipe, folder: Path) -> list[float]:
    trainer, losses = trainer_of(pictures, recipe, folder), []
    backward = trainer.task.backward

    def record(*arguments: object) -> dict[str, torch.Tensor]:
        found = backward(*arguments)
        losses.append(found["masks"].item())
        return found

    trainer.task.backward = record
    trainer.train()
    assert len(losses) == recipe.steps
    return losses


def test_a_few_steps_reduce_the_loss(pictures: MaskedPictures, tmp_path: Path) -> None:
    two = MaskedPictures(pictures.images[:2], pictures.regions[:2])
    recipe = replace(RECIPE, steps=40, batch_size=2, targets=2, rounds=1, ground_share=0.0, learning_rate=1e-2)
    losses = losses_of_training(two, recipe, tmp_path)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_training_is_decided_by_the_seed(pictures: MaskedPictures, tmp_path: Path) -> None:
    losses = losses_of_training(pictures, RECIPE, tmp_path / "a")
    assert losses_of_training(pictures, RECIPE, tmp_path / "b") == losses
    assert losses_of_training(pictures, replace(RECIPE, seed=1), tmp_path / "c") != losses


def test_every_weight_is_trained(pictures: MaskedPictures, tmp_path: Path) -> None:
    trainer = trainer_of(pictures, RECIPE, tmp_path)
    sam = trainer.model.sam
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    trainer.train()
    fixed = {name for name, value in sam.state_dict().items() if torch.equal(value, before[name])}
    assert fixed == {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"}


def test_a_stopped_training_ends_as_an_undisturbed_one(
    pictures: MaskedPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "CHECKPOINT_PERIOD", 3)
    undisturbed = trainer_of(pictures, RECIPE, tmp_path / "undisturbed")
    undisturbed.train()
    trainer = trainer_of(pictures, RECIPE, tmp_path / "stopped")
    trainer.max_iter = 5  # one step after the checkpoint, so that the generators have gone on
    trainer.train()
    for name in ("model_final.pth", "model_0000004.pth"):
        (tmp_path / "stopped" / name).unlink(missing_ok=True)
    (tmp_path / "stopped/last_checkpoint").write_text("model_0000002.pth")
    torch.manual_seed(99)
    resumed = trainer_of(pictures, RECIPE, tmp_path / "stopped", resume=True)
    assert resumed.start_iter == 3
    resumed.train()
    for name, value in undisturbed.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_folder_of_another_recipe_is_refused(pictures: MaskedPictures, tmp_path: Path) -> None:
    trainer_of(pictures, RECIPE, tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.json is of another recipe; delete the folder"):
        trainer_of(pictures, replace(RECIPE, steps=9), tmp_path)


@pytest.fixture
def script(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("tools/miniature/pretrain_sam.py")
    monkeypatch.setattr(sam_recipe, "SamRecipe", TinyRecipe)
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
    figures = evaluate_prompting(PromptableSam(sam), test.images, test.regions, GROUND)
    # A pixel whose logit is close to 0 may fall on either side when the sums run in another order.
    assert card["figures"]["novel"] == pytest.approx(figures, abs=2e-3)
    assert (tmp_path / "sam.training/model_final.pth").is_file()


def test_a_stopped_run_leaves_nothing(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "train", stop)
    assert script.main([*ARGUMENTS, "--output", str(tmp_path / "sam.safetensors")]) == 130
    assert "was not written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "value"), [("--steps", "0"), ("--output", "sam.pth")])
def test_refused_options(script: ModuleType, option: str, value: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        script.main(["--output", "sam.safetensors", option, value])
    assert f"got {value}" in capsys.readouterr().err
