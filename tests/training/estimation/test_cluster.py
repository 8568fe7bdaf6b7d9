"""A stage on a cluster, against numbers worked by hand."""

from __future__ import annotations

import pytest
from detectron2.config import CfgNode

from escnet.config import add_escnet_config
from escnet.training.estimation.cluster import Collection, check_memory, check_readers, plan_stage, readers_memory
from escnet.training.estimation.distillation import ImageCost, StageCost
from escnet.training.estimation.gpus import Cluster

COST = StageCost(
    images=(
        ImageCost("CLIP", 224, teacher_flops=10.0, forward=20.0, backward=40.0, graph=100.0, fixed=1000.0),
        ImageCost("CLIP", 448, teacher_flops=10.0, forward=80.0, backward=160.0, graph=400.0, fixed=1000.0),
        ImageCost("SAM", 1024, teacher_flops=300.0, forward=300.0, backward=600.0, graph=5000.0, fixed=1000.0),
    ),
    parameters=500,
    trained=100,
    trained_tensors=7,
)


@pytest.fixture
def cfg() -> CfgNode:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.DISTILL.CLIP.BATCH_SIZE, cfg.DISTILL.SAM.BATCH_SIZE, cfg.DISTILL.MICRO_BATCH = 64, 4, 6
    cfg.SOLVER.MAX_ITER, cfg.DATALOADER.NUM_WORKERS = 3600, 3
    return cfg


def cluster(gpus: int) -> Cluster:
    return Cluster(gpus, rate=100.0, bandwidth=50.0, memory=20000.0)


def test_a_step(cfg: CfgNode) -> None:
    plan = plan_stage(cfg, COST, cluster(4))
    # 64 images in 4 parts, a quarter of them where sides are doubled; 4 images of SAM.
    assert [share.images for share in plan.shares] == [16, 4, 1]
    assert [share.micro_batch for share in plan.shares] == [6, 4, 1]
    assert [share.passes for share in plan.shares] == [3, 1, 1]
    assert plan.flops == (16 * 70 + 4 * 250) / 2 + 1200 and plan.computing == plan.flops / 100
    # Six of eight parts of 100 gradients of 4 bytes.
    assert plan.sent == 600 and plan.averaging == 12
    assert plan.step == 22.6 + 12 and plan.hours == pytest.approx(34.6) and plan.gpu_hours == pytest.approx(138.4)
    assert plan.images("CLIP") == 40 and plan.images("SAM") == 4
    assert plan.images_per_second("CLIP") == pytest.approx(10 / 34.6)


def test_memory(cfg: CfgNode) -> None:
    plan = plan_stage(cfg, COST, cluster(4))
    assert plan.static == 4 * 500 + 4 * 100 + 8 * 100
    assert [share.graph for share in plan.shares] == [1600, 2600, 6000] and plan.memory == 3200 + 6000
    # 18000 - 3200 - 1000 bytes are left.
    assert [share.largest for share in plan.shares] == [138, 34, 2]


def test_a_micro_batch_that_is_too_large_is_refused(cfg: CfgNode) -> None:
    check_memory(plan_stage(cfg, COST, cluster(2)))  # two images of SAM fit
    with pytest.raises(ValueError, match=r"MICRO_BATCH: 4 of SAM's images at 1024 px .* set it to 2 or lower"):
        check_memory(plan_stage(cfg, COST, cluster(1)))
    cfg.DISTILL.MICRO_BATCH = 2
    check_memory(plan_stage(cfg, COST, cluster(1)))
    # Of 9000 bytes, 4200 are taken before the first image.
    with pytest.raises(ValueError, match="one does not fit either: take GPUs with more memory"):
        check_memory(plan_stage(cfg, COST, Cluster(2, rate=100.0, bandwidth=50.0, memory=10000.0)))


def test_one_gpu_averages_nothing(cfg: CfgNode) -> None:
    plan = plan_stage(cfg, COST, cluster(1))
    assert plan.sent == plan.averaging == 0 and plan.step == plan.computing


def test_a_batch_that_does_not_divide_is_refused(cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match=r"DISTILL\.SAM\.BATCH_SIZE: .*\(4\).*\(8\)"):
        plan_stage(cfg, COST, cluster(8))


def test_readers(cfg: CfgNode) -> None:
    collection = Collection(images=1201.0, size=10.0, decoding=0.1, shard=100)
    assert collection.shards == 13
    check_readers(cfg, "SAM", collection, gpus=4)
    with pytest.raises(ValueError, match="13 shards of 100 images are fewer than 15 readers"):
        check_readers(cfg, "SAM", collection, gpus=5)
    # Three readers with two shards each.
    assert readers_memory(cfg, collection) == 3 * 2 * 100 * 10.0
