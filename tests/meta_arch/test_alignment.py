"""Projections that start where CLIP's features predict SAM's: against least squares by hand; and in the trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from escnet.config import load_config
from escnet.meta_arch.alignment import _features, align_projections
from escnet.miniature.world.scene import SceneStyle
from escnet.miniature.world.writing import World, write_world
from escnet.pretrained.sam import build_sam
from escnet.training.tasks.segmentation import segmentation_trainer
from escnet.training.trainer import Trainer

CONFIG = Path(__file__).parents[2] / "configs/mojiscenes/escnet.yaml"
OPTIONS = [
    "MODEL.DEVICE", "cpu", "MODEL.CLIP.NAME", "escnet-mini", "MODEL.CLIP.WEIGHTS", "",
    "MODEL.CLIP.IMAGE_SIZE", "(64, 64)", "MODEL.SAM.NAME", "mini", "MODEL.SAM.INIT", "random", "MODEL.ESC.DIM", "16",
]  # fmt: skip


@pytest.fixture
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 12, 10, generator=generator) * 255
    return list(torch.nn.functional.interpolate(coarse, (72, 60), mode="bilinear"))


def test_the_projection_is_the_least_squares_solution(images: list[Tensor]) -> None:
    torch.manual_seed(0)
    model, sam = build_model(load_config(CONFIG, OPTIONS)), build_sam("mini")
    norm = sam.image_encoder.neck[-1]
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, norm.weight.numel()))
        norm.bias.copy_(torch.linspace(-1.0, 1.0, norm.bias.numel()))
        explained = align_projections(model, sam, images)
        parts = [_features(model, sam.eval(), image) for image in images]
    inputs, targets = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
    targets = (targets - norm.bias.detach().numpy()) / norm.weight.detach().numpy()
    design = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    ridge = 1e-4 * (design**2).sum(axis=0).mean() * np.eye(design.shape[1])
    solution = np.linalg.solve(design.T @ design + ridge, design.T @ targets)
    error = ((design @ solution - targets) ** 2).sum()
    assert explained == pytest.approx(1 - error / ((targets - targets.mean(axis=0)) ** 2).sum(), abs=1e-5)
    assert explained > 0.1
    for block in model.blocks:
        convolution, block_norm = block.project
        assert torch.equal(block_norm.weight, norm.weight) and torch.equal(block_norm.bias, norm.bias)
        found = np.concatenate([convolution.weight[:, :, 0, 0].detach().numpy().T, convolution.bias.detach()[None]])
        np.testing.assert_allclose(found, solution, atol=1e-3 * np.abs(solution).max())


def test_a_linear_relation_is_found(images: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM's features are set to a known linear map of CLIP's, on the normalised side of its norm."""
    torch.manual_seed(0)
    model, sam = build_model(load_config(CONFIG, OPTIONS)), build_sam("mini")
    truth = torch.randn(model.clip_image.embed_dim, sam.prompt_encoder.embed_dim)

    def related(*arguments: object) -> tuple[Tensor, Tensor]:
        clip, _ = _features(*arguments)
        return clip, clip @ truth + 3.0

    monkeypatch.setattr("escnet.meta_arch.alignment._features", related)
    monkeypatch.setattr("escnet.meta_arch.alignment._RIDGE", 1e-9)
    assert align_projections(model, sam, images) == pytest.approx(1.0, abs=1e-4)


def test_without_images(images: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="cannot be aligned without images"):
        align_projections(build_model(load_config(CONFIG, OPTIONS)), build_sam("mini"), [])


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_world(tmp_path / "mojiscenes", World(train=4, val=1, style=SceneStyle(size=64)), workers=1)
    torch.manual_seed(1)
    torch.save(build_sam("mini").state_dict(), tmp_path / "sam.pth")
    return load_config(
        CONFIG,
        [
            *OPTIONS, "MODEL.SAM.INIT", "pretrained", "MODEL.SAM.WEIGHTS", str(tmp_path / "sam.pth"),
            "MODEL.SAM.ALIGN_IMAGES", "3", "DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "1",
            "SOLVER.IMS_PER_BATCH", "1", "INPUT.CROP.SIZE", "(64, 64)", "INPUT.MIN_SIZE_TRAIN", "(64,)",
            "OUTPUT_DIR", str(tmp_path / "out"),
        ],
    )  # fmt: skip


def projections(trainer: Trainer) -> list[Tensor]:
    return [block.project[0].weight.detach().clone() for block in trainer.checkpointer.model.blocks]


def test_training_begins_with_aligned_projections_and_resumes_without(cfg: CfgNode) -> None:
    trainer = segmentation_trainer(cfg)
    random = projections(trainer)
    trainer.resume_or_load()
    aligned = projections(trainer)
    assert torch.equal(aligned[0], aligned[1]) and not torch.equal(random[0], aligned[0])
    assert trainer.model.training
    trainer.train()
    trained = projections(trainer)
    again = segmentation_trainer(cfg)
    again.resume_or_load()
    for before, after in zip(trained, projections(again), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("option", (("MODEL.SAM.ALIGN_IMAGES", "0"), ("MODEL.SAM.INIT", "random")))
def test_only_what_is_pretrained_is_aligned(cfg: CfgNode, option: tuple[str, str]) -> None:
    cfg.merge_from_list(list(option))
    trainer = segmentation_trainer(cfg)
    before = projections(trainer)
    trainer.resume_or_load()
    for random, after in zip(before, projections(trainer), strict=True):
        assert torch.equal(random, after)


def test_a_negative_number_is_refused(cfg: CfgNode) -> None:
    cfg.MODEL.SAM.ALIGN_IMAGES = -1
    with pytest.raises(ValueError, match=r"MODEL\.SAM\.ALIGN_IMAGES is -1"):
        segmentation_trainer(cfg)
