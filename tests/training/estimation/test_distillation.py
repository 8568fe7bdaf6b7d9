"""The estimate of a distillation counts what its teachers' own losses compute, on real tensors of a small model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from escnet.config import load_config
from escnet.data.shards.accounting import SampleCount
from escnet.data.shards.batches import MaskBatch
from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.clip import build_clip
from escnet.pretrained.random_weights import random_weights
from escnet.pretrained.sam import build_sam
from escnet.training.estimation.counting import forward_flops, graph_bytes, training_flops
from escnet.training.estimation.distillation import StageCost, count_stage
from escnet.training.tasks.promptable import Prompting
from escnet.training.teachers.sam import SamTeacher, SizedMasks

CONFIG = Path(__file__).parents[3] / "configs/mojiscenes/sam_clip_stage2.yaml"
SMALLEST = ("MODEL.SAM.NAME", "mini", "MODEL.CLIP.NAME", "escnet-mini", "MODEL.SAM_CLIP.HEAD_BLOCKS", "1")
# The losses of the paper, which alone can be counted.
PAPER = ("DISTILL.BALANCE", "none", "DISTILL.CLIP.DENSE_WEIGHT", "0")
MASKS = 2


def config(*options: str) -> CfgNode:
    given = [
        *SMALLEST,
        *PAPER,
        "DISTILL.CLIP.SIZES",
        "(32,)",
        "DISTILL.SAM.SIZES",
        "(64,)",
        "DISTILL.SAM.MASKS",
        str(MASKS),
    ]
    return load_config(CONFIG, ["MODEL.DEVICE", "cpu", *given, *options])


def student(cfg: CfgNode) -> nn.Module:
    return build_model(random_weights(cfg)).train()


def sam_teacher(cfg: CfgNode) -> tuple[SamTeacher, SizedMasks]:
    sam = PromptableSam(build_sam(cfg.MODEL.SAM.NAME, "")).eval().requires_grad_(False)
    teacher = SamTeacher(iter, sam, SampleCount(1.0), (64,), 0, Prompting(rounds=cfg.DISTILL.SAM.ROUNDS))
    masks = torch.zeros(1, MASKS, *sam.mask_size, dtype=torch.bool)
    masks[..., :9, :7] = True
    images = torch.zeros(1, 3, sam.input_size, sam.input_size, dtype=torch.uint8)
    return teacher, SizedMasks(MaskBatch(images, masks, ["a"], []), 64)


@pytest.fixture(scope="module")
def cost() -> StageCost:
    """Of both teachers; SAM's asks once or twice."""
    return count_stage(config("DISTILL.SAM.ROUNDS", "2"))


@pytest.mark.slow
def test_sams_loss_has_the_work_and_the_memory_that_were_counted(cost: StageCost) -> None:
    (counted,) = cost.of("SAM")
    cfg = config("DISTILL.SAM.ROUNDS", "2")
    model = student(cfg)
    teacher, part = sam_teacher(cfg)
    flops, held = {}, set()
    for seed in range(4):  # which draw both numbers of rounds
        torch.manual_seed(seed)
        flops[seed] = training_flops(lambda: teacher.loss(model, part))
        torch.manual_seed(seed)
        held.add(graph_bytes(lambda: teacher.loss(model, part), [*model.parameters(), *model.buffers()]))
    once, twice = sorted(set(flops.values()))
    assert 2 * (counted.teacher_flops + counted.forward) == once[0] + twice[0]
    assert 2 * counted.backward == once[1] + twice[1]
    assert counted.graph + counted.fixed == pytest.approx(max(held), rel=0.02)


@pytest.mark.slow
def test_clips_work_adds_up(cost: StageCost) -> None:
    (counted,) = cost.of("CLIP")
    cfg = config()
    clip, _ = build_clip(cfg.MODEL.CLIP.NAME, "")
    side = cfg.DISTILL.CLIP.TEACHER_SIZE
    with torch.no_grad():
        taught = forward_flops(lambda: ClipImageEncoder(clip.visual).pool(torch.zeros(1, 3, side, side)))
    model = student(cfg)
    learnt = training_flops(lambda: model.encode_pixels(torch.zeros(1, 3, 32, 32), neck=False).of("clip").summary.sum())
    assert counted.teacher_flops == taught and (counted.forward, counted.backward) == learnt
    assert counted.flops == taught + sum(learnt)


@pytest.mark.slow
def test_a_head_that_trains_alone_spares_the_backbone_its_backward_pass(cost: StageCost) -> None:
    (whole,) = cost.of("CLIP")
    options = ("DISTILL.SAM.SHARDS", "()", "DISTILL.CLIP.SIZES", "(32, 64)", "DISTILL.CLIP.EMBEDDINGS", "clip")
    head = count_stage(config(*options, "MODEL.SAM_CLIP.TRAIN", "head"))
    small, large = head.images
    # Stored embeddings need no teacher.
    assert small.teacher_flops == large.teacher_flops == 0 and head.parameters < cost.parameters
    assert small.forward == whole.forward and small.backward < 0.7 * whole.backward and small.graph < whole.graph
    assert (small.size, large.size) == (32, 64) and 3 < large.forward / small.forward < 5
    model = student(config("MODEL.SAM_CLIP.TRAIN", "head"))
    assert head.trained == sum(p.numel() for p in model.clip_head.parameters()) < cost.trained
    assert head.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("TASK", "segmentation"), "TASK is segmentation"),
        (("DISTILL.BALANCE", "angle"), "DISTILL.BALANCE is angle"),
        (("DISTILL.CLIP.EMBEDDINGS", "clip", "DISTILL.CLIP.DENSE_WEIGHT", "1"), "have no dense features"),
        (("DISTILL.CLIP.SHARDS", "()", "DISTILL.SAM.SHARDS", "()"), "no teacher has images"),
    ],
)
def test_what_cannot_be_counted_is_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_stage(config(*options))
