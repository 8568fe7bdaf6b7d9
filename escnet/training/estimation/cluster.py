"""What a counted distillation takes on so many GPUs: time, memory, network, readers. Arithmetic alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean

from detectron2.config import CfgNode

from escnet.data.shards.schedule import BatchSchedule
from escnet.data.shards.stream import Sharing
from escnet.training.estimation.distillation import ImageCost, StageCost
from escnet.training.estimation.gpus import BYTES, MOMENTS, RESERVE, Cluster


@dataclass(frozen=True)
class Collection:
    """The stored images of one teacher.

    Attributes:
        images: how many are trained on.
        size: bytes of one, with its masks.
        decoding: seconds of one CPU core for one, with its masks.
        shard: images of a shard.
    """

    images: float
    size: float
    decoding: float
    shard: int

    @property
    def shards(self) -> int:
        """How many shards they are."""
        return math.ceil(self.images / self.shard)


@dataclass(frozen=True)
class Share:
    """What one GPU does of a batch of one teacher, for one size of the student's images.

    Attributes:
        cost: of an image.
        images: of a batch.
        micro_batch: images of a backward pass; the last one may have fewer.
        largest: micro-batch that fits into the memory, 0 if not even one image does.
    """

    cost: ImageCost
    images: int
    micro_batch: int
    largest: int

    @property
    def passes(self) -> int:
        """Backward passes."""
        return math.ceil(self.images / self.micro_batch)

    @property
    def graph(self) -> float:
        """Bytes held for a backward pass."""
        return self.cost.fixed + self.micro_batch * self.cost.graph


@dataclass(frozen=True)
class Plan:
    """A stage on a cluster; each GPU does as much as the others.

    Attributes:
        cluster: the GPUs.
        iterations: of the stage.
        shares: for each teacher and size.
        trained: parameters.
        static: bytes of parameters, gradients and moments on a GPU.
    """

    cluster: Cluster
    iterations: int
    shares: tuple[Share, ...]
    trained: int
    static: float

    @property
    def flops(self) -> float:
        """FLOPs of one GPU in a step."""
        return sum(mean(s.images * s.cost.flops for s in self.of(teacher)) for teacher in self.teachers)

    @property
    def computing(self) -> float:
        """Seconds of a step that are computed."""
        return self.flops / self.cluster.rate

    @property
    def sent(self) -> float:
        """Bytes that a GPU sends in a step."""
        return self.cluster.sent(self.trained)

    @property
    def averaging(self) -> float:
        """Seconds of a step in which gradients are averaged, after the last backward pass and before the update."""
        return self.sent / self.cluster.bandwidth

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.computing + self.averaging

    @property
    def hours(self) -> float:
        """Of the whole stage, on a clock."""
        return self.iterations * self.step / 3600

    @property
    def gpu_hours(self) -> float:
        """Of all GPUs together."""
        return self.hours * self.cluster.gpus

    @property
    def teachers(self) -> list[str]:
        """Those of the stage."""
        return list(dict.fromkeys(share.cost.teacher for share in self.shares))

    def of(self, teacher: str) -> list[Share]:
        """The sizes of one teacher, all as likely."""
        return [share for share in self.shares if share.cost.teacher == teacher]

    def images(self, teacher: str) -> float:
        """Images of a teacher in a step, of all GPUs together."""
        shares = self.of(teacher)
        return mean(share.images for share in shares) * self.cluster.gpus if shares else 0.0

    def images_per_second(self, teacher: str) -> float:
        """Of one GPU."""
        return self.images(teacher) / self.cluster.gpus / self.step

    @property
    def memory(self) -> float:
        """Bytes of a GPU, for the largest of its backward passes."""
        return self.static + max(share.graph for share in self.shares)


def plan_stage(cfg: CfgNode, cost: StageCost, cluster: Cluster) -> Plan:
    """Share a stage out to the GPUs of a cluster, as the training itself does.

    Raises:
        ValueError: a batch does not divide over them.
    """
    static = BYTES * (cost.parameters + (1 + MOMENTS) * cost.trained)
    free = (1 - RESERVE) * cluster.memory - static
    shares = []
    for image in cost.images:
        count = share_of_batch(cfg, image, cluster.gpus)
        own = cfg.DISTILL.SAM.MICRO_BATCH if image.teacher == "SAM" else 0
        micro_batch = min(count, own or cfg.DISTILL.MICRO_BATCH or count)
        largest = max(0, int((free - image.fixed) / image.graph))
        shares.append(Share(image, count, micro_batch, largest))
    return Plan(cluster, cfg.SOLVER.MAX_ITER, tuple(shares), cost.trained, static)


def share_of_batch(cfg: CfgNode, cost: ImageCost, gpus: int) -> int:
    """Images of a batch on one GPU: CLIP's batches have fewer of larger images, and SAM's do not.

    Raises:
        ValueError: they do not divide over the GPUs.
    """
    own = cfg.DISTILL[cost.teacher]
    sizes = own.SIZES if cost.teacher == "CLIP" else (cost.size,)
    try:
        return BatchSchedule(sizes, own.BATCH_SIZE, gpus, cfg.SEED).counts[cost.size]
    except ValueError as error:
        raise ValueError(f"DISTILL.{cost.teacher}.BATCH_SIZE: {error}") from error


def readers(cfg: CfgNode) -> int:
    """Processes that read for one GPU, of one teacher."""
    return max(1, cfg.DATALOADER.NUM_WORKERS)


def readers_memory(cfg: CfgNode, collection: Collection) -> float:
    """Bytes of a teacher's shards that the readers of one GPU hold: each a block of them, not yet decoded."""
    return readers(cfg) * Sharing.block * collection.shard * collection.size


def check_readers(cfg: CfgNode, teacher: str, collection: Collection, gpus: int) -> None:
    """See that every reader of every GPU has a shard.

    Raises:
        ValueError: there are fewer shards.
    """
    if collection.shards < gpus * readers(cfg):
        raise ValueError(
            f"DISTILL.{teacher}.SHARDS: {collection.shards} shards of {collection.shard} images are fewer than "
            f"{gpus * readers(cfg)} readers ({gpus} processes with {readers(cfg)} each); make more shards (a smaller "
            "--samples-per-shard), or set DATALOADER.NUM_WORKERS lower"
        )


def check_memory(plan: Plan) -> None:
    """See that a GPU's memory is enough for all micro-batches.

    Raises:
        ValueError: one is too large for it.
    """
    short = [share for share in plan.shares if share.micro_batch > share.largest]
    if not short:
        return
    share = min(short, key=lambda share: share.largest)
    remedy = f"set it to {share.largest} or lower, or take" if share.largest else "one does not fit either: take"
    key = "DISTILL.SAM.MICRO_BATCH" if share.cost.teacher == "SAM" else "DISTILL.MICRO_BATCH"
    raise ValueError(
        f"{key}: {share.micro_batch} of {share.cost.teacher}'s images at {share.cost.size} px need "
        f"{(plan.static + share.graph) / 1e9:.1f} GB of the {(1 - RESERVE) * plan.cluster.memory / 1e9:.1f} GB that a "
        f"GPU has for them; {remedy} GPUs with more memory"
    )
