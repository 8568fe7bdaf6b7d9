"""The estimate of a training on pixels counts what the model's own step computes, on real tensors of a small one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from escnet.complexity import count_model
from escnet.config import load_config
from escnet.meta_arch.correlation_model import CorrelationModel
from escnet.pretrained.random_weights import random_weights
from escnet.training.estimation.counting import Footprint, footprint, forward_flops, training_flops
from escnet.training.estimation.gpus import Cluster
from escnet.training.estimation.segmentation import ImageWork, SegmentationCounter, StepPlan, TrainingCost
from escnet.vocabulary import Vocabulary

CONFIG = Path(__file__).parents[3] / "configs/camvid/escnet.yaml"
SIZE = (48, 64)
ALL_WORDS = ("MODEL.ESC.MAX_CLASSES", "0", "MODEL.ESC.KEEP", "0", "MODEL.ESC.TRAIN_CLASSES", "0")
# What fvcore calls the operators that are products of matrices.
PRODUCTS = ("linear", "addmm", "matmul", "bmm", "baddbmm", "einsum", "conv", "scaled_dot_product_attention")
WORDS = Vocabulary(["sky", "road, street", "traffic light", "a very tall pole"])


def config(*options: str) -> CfgNode:
    sizes = ("MODEL.CLIP.IMAGE_SIZE", str(SIZE), "INPUT.CROP.SIZE", str(SIZE), "MODEL.ESC.WINDOW", "4")
    small = ("MODEL.ESC.NUM_BLOCKS", "1", "MODEL.ESC.CLASS_CHUNK", "3", "MODEL.ESC.CHECKPOINT", "True")
    windows = ("TEST.SLIDING.SIZE", "(48, 96)", "TEST.SLIDING.WINDOW", "(48, 64)")
    return load_config(
        CONFIG, ["MODEL.DEVICE", "cpu", *sizes, *small, *windows, *ALL_WORDS, "MODEL.ESC.AUX_LOSS", "0.4", *options]
    )


def built(cfg: CfgNode) -> CorrelationModel:
    torch.manual_seed(0)
    model = build_model(random_weights(cfg)).train()
    model.clip_text.encode(WORDS)  # which is remembered, unless the encoder learns
    return model


def loss(model: CorrelationModel, words: Vocabulary, images: int = 1) -> Tensor:
    sample: dict[str, Any] = {"image": torch.randint(0, 256, (3, *SIZE)).to(torch.uint8), "vocabulary": words}
    return sum(model([sample | {"sem_seg": torch.randint(-1, 3, SIZE)}] * images).values())


@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.CLIP.TRAIN", "none", "MODEL.ESC.CLASS_POOL", "2", "MODEL.ESC.LOSS", "ce_dice"),
        ("MODEL.META_ARCHITECTURE", "CostAggregation", "MODEL.ESC.AUX_LOSS", "0.0", "MODEL.CLIP.TRAIN", "qv"),
        ("MODEL.ESC.TRAIN_FIRST", "3", "MODEL.ESC.TRAIN_CLASSES", "2"),
    ],
)
def test_a_real_step_has_the_work_that_was_counted(options: tuple[str, ...]) -> None:
    cfg = config(*options)
    cost, model = SegmentationCounter(cfg).training(WORDS), built(cfg)
    one = training_flops(lambda: loss(model, WORDS))
    assert one == (cost.text_forward + cost.forward, cost.text_backward + cost.backward)
    # Images share the words, and the little that SAM's prompt encoder computes once, which is counted with each.
    two = training_flops(lambda: loss(model, WORDS, images=2))
    assert cost.flops(1) == sum(one) and cost.flops(2) == pytest.approx(sum(two), rel=1e-3)
    assert (cost.text_forward == 0) == ("none" in options)
    # What is computed again is most of the forward pass: of each chunk all but its end.
    assert 0.3 * cost.forward < cost.recomputed < cost.forward
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_an_image_has_the_multiply_adds_that_another_counter_finds() -> None:
    cfg = config()
    model, counter = built(cfg).eval(), SegmentationCounter(cfg)
    pixels = torch.zeros(1, 3, *SIZE)
    found = count_model(model, WORDS, pixels)
    prompts: list[Any] = []
    hook = model.generator.register_forward_hook(lambda _, maps, __: prompts.append(maps))
    with torch.no_grad():
        model.segment(model.encode(pixels), WORDS)
    hook.remove()
    # Which leaves the prompts out, for it cannot trace them.
    left_out = forward_flops(lambda: [model.generator(*maps) for maps in prompts])
    products = sum(found.by_operator[name] for name in PRODUCTS) - found.by_module["clip_text"]
    assert counter.image(WORDS).flops == pytest.approx(2 * products + left_out, rel=0.01)


def test_a_real_step_takes_the_memory_that_was_counted() -> None:
    cfg = config()
    counted, model = SegmentationCounter(cfg).step(WORDS, images=2), built(cfg)
    own = [*model.parameters(), *model.buffers()]
    found = footprint(lambda: loss(model, WORDS, images=2).backward(), own)
    assert counted.memory == pytest.approx(found.memory, rel=0.02)
    assert counted.operators == pytest.approx(found.operators, rel=0.02)
    kept = SegmentationCounter(config("MODEL.ESC.CHECKPOINT", "False")).step(WORDS, images=2)
    assert kept.memory > 1.5 * counted.memory and kept.operators < counted.operators


def test_a_part_of_the_words_in_training_and_in_use() -> None:
    many = Vocabulary([f"thing {i}" for i in range(20)])
    kept = ("MODEL.ESC.MAX_CLASSES", "9", "MODEL.ESC.KEEP", "4")
    counter = SegmentationCounter(config("MODEL.ESC.TRAIN_LEAST", "10", "MODEL.ESC.TRAIN_CLASSES", "14", *kept))
    model = built(config("MODEL.ESC.TRAIN_CLASSES", "12", *kept))  # the mean
    cost = counter.training(many)
    assert training_flops(lambda: loss(model, many))[1] == cost.text_backward + cost.backward
    model.eval()
    model.clip_text.encode(many)
    with torch.no_grad():
        found = forward_flops(lambda: model.segment(model.encode(torch.zeros(3, *SIZE)), many))
    assert counter.image(many).flops == found
    # Two windows of the size of the whole image.
    assert counter.image(many, windows=True).flops == 3 * found


def test_a_number_of_the_words_of_a_first_pass_in_training() -> None:
    six, first = Vocabulary([f"thing {i}" for i in range(6)]), ("MODEL.ESC.TRAIN_FIRST", "5")
    counter = SegmentationCounter(config(*first, "MODEL.ESC.TRAIN_LEAST", "2", "MODEL.ESC.TRAIN_CLASSES", "4"))
    cost, model = counter.training(six), built(config(*first, "MODEL.ESC.TRAIN_CLASSES", "3"))  # the mean
    assert cost.flops(1) == sum(training_flops(lambda: loss(model, six)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("TASK", "distillation"), "TASK is distillation"),
        (("MODEL.META_ARCHITECTURE", "DenseClip"), "DenseClip, of which no training can be counted"),
    ],
)
def test_what_cannot_be_counted_is_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationCounter(config(*options))


def test_a_step_on_a_cluster() -> None:
    cost = TrainingCost(10, 20, forward=100, backward=270, recomputed=70, parameters=500, trained=100)
    cluster = Cluster(4, rate=100.0, bandwidth=50.0, memory=5000.0)
    plan = StepPlan(cluster, 2, cost, Footprint(memory=1000, operators=30), launch=0.1, iterations=3600)
    assert cost.flops(2) == 30 + 2 * 370 and plan.computing == 7.7 and plan.launching == pytest.approx(3)
    # Six of eight parts of 100 gradients of 4 bytes.
    assert plan.averaging == 12 and plan.step == pytest.approx(19.7) and plan.hours == pytest.approx(19.7)
    assert plan.memory == 4 * 500 + 8 * 100 + 1000 and plan.fits
    slow = StepPlan(Cluster(1, 100.0, 50.0, memory=4000.0), 2, cost, plan.footprint, launch=1.0, iterations=1)
    assert slow.step == slow.launching == 30 and not slow.fits  # a tenth is left free
    assert ImageWork(500, 30).seconds(100.0, 0.1) == 5 and ImageWork(500, 30).seconds(100.0, 1.0) == 30
