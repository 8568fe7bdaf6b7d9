#!/usr/bin/env python3
"""Estimate what the stages of a distillation take: FLOPs, GPU-hours, memory, network, readers and storage.

    python tools/estimate_distillation.py MODEL.PRECISION bf16
    python tools/estimate_distillation.py --tflops 120 --gpus 8,64 DISTILL.SAM.BATCH_SIZE 64

Work and memory are counted on the modules of the configurations at their real sizes, with tensors that have no numbers:
no weights, no images and no GPU are needed, 4 GiB of memory and about two minutes. All else is arithmetic from the
options, each of which is an assumption that is printed. Exit code: 0 if all stages can run on all clusters, 1 if some
cannot (they are named), 2 if nothing can be estimated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from escnet.command_line import (
    CommandParser,
    add_gpu_assumptions,
    at_least_one,
    positive_number,
    print_table,
    refuse,
    run_program,
)

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from escnet.training.estimation.cluster import Collection, Plan
    from escnet.training.estimation.distillation import StageCost
    from escnet.training.estimation.gpus import Cluster

PROGRAM = "estimate_distillation.py"
STAGES = tuple(f"configs/sam_clip/stage{number}.yaml" for number in (1, 2, 3))
GIGA, MEGA = 1e9, 1e6
Value = TypeVar("Value")


class Stage(NamedTuple):
    """A configuration and what was counted of it."""

    name: str
    cfg: CfgNode
    cost: StageCost


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    # What is imported in functions takes seconds, and --help and mistyped options should not.
    from escnet.config import ConfigError, load_config
    from escnet.training.estimation.distillation import count_stage

    try:
        configs = [(Path(path).stem, load_config(path, args.opts)) for path in args.config_files]
        stages = [Stage(name, cfg, count_stage(cfg)) for name, cfg in configs]
    except (ConfigError, ValueError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        return refuse(f"\n{PROGRAM}", "stopped", code=130)
    return print_estimate(stages, args)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    add = parser.add_argument
    add("--config-files", type=_several(str), default=STAGES, metavar="YAML,...", help="(default: SAM-CLIP's stages)")
    add(
        "--gpus",
        type=_several(at_least_one),
        default=(8, 32, 128),
        metavar="N,...",
        help="clusters (default: 8,32,128)",
    )
    add_gpu_assumptions(parser, tflops=400.0, memory=80.0)
    add("--images", type=positive_number, default=40.2, metavar="N", help="CLIP's, in millions (default: 40.2)")
    add("--image-kb", type=positive_number, default=120.0, metavar="S", help="of one of them, in kB (default: 120)")
    add("--decode-ms", type=positive_number, default=3.77, metavar="T", help="of a CPU core for one (default: 3.77)")
    add("--mask-images", type=positive_number, default=0.631, metavar="N", help="SAM's, in millions (default: 0.631)")
    add("--mask-image-kb", type=positive_number, default=1010.0, metavar="S", help="of one, with masks (default: 1010)")
    add("--mask-decode-ms", type=positive_number, default=46.0, metavar="T", help="of a CPU core for one (default: 46)")
    add("--embedding-bytes", type=positive_number, default=1549.0, metavar="S", help="of a stored one (default: 1549)")
    add("--samples-per-shard", type=at_least_one, default=1000, metavar="N", help="(default: 1000)")
    parser.add_config_keys("changes to all of the configurations")
    return parser.parse_args(arguments)


def print_estimate(stages: Sequence[Stage], args: argparse.Namespace) -> int:
    """Print all tables; returns the exit code."""
    from escnet.training.estimation.gpus import Cluster

    collections = read_collections(args)
    clusters = [Cluster(gpus, args.tflops * 1e12, args.bandwidth * GIGA, args.gpu_memory * GIGA) for gpus in args.gpus]
    print(
        f"Assumed: {args.tflops:g} TFLOP/s sustained by a GPU of {args.gpu_memory:g} GB, {args.bandwidth:g} GB/s of "
        f"network for each.\nGB are 10^9 bytes; a multiply-add is two FLOPs."
    )
    for stage in stages:
        if stage.cfg.MODEL.PRECISION == "fp32":
            print(f"{stage.name}: MODEL.PRECISION is fp32; the assumed rate has to be one of fp32 too")
    print_images(stages)
    planned, refused = plan_all(stages, clusters, collections)
    print_totals(stages, clusters[0], collections)
    print_time(planned)
    print_feeding(planned, collections)
    print_memory(planned)
    for reason in refused:
        print(f"\n{reason}")
    print_storage(stages, collections, args, clusters[0])
    return 1 if refused else 0


def read_collections(args: argparse.Namespace) -> dict[str, Collection]:
    """The stored images by the teacher that they are for."""
    from escnet.training.estimation.cluster import Collection

    clip = (args.images * MEGA, args.image_kb * 1e3, args.decode_ms / 1e3)
    sam = (args.mask_images * MEGA, args.mask_image_kb * 1e3, args.mask_decode_ms / 1e3)
    return {
        "CLIP": Collection(*clip, args.samples_per_shard),
        "SAM": Collection(*sam, args.samples_per_shard),
    }


def plan_all(
    stages: Sequence[Stage], clusters: Sequence[Cluster], collections: dict[str, Collection]
) -> tuple[list[tuple[Stage, Plan]], list[str]]:
    """The plans of all stages on all clusters, and the reasons why some cannot be."""
    from escnet.training.estimation.cluster import check_memory, check_readers, plan_stage

    planned, refused = [], []
    for stage in stages:
        for cluster in clusters:
            try:
                plan = plan_stage(stage.cfg, stage.cost, cluster)
                for teacher in plan.teachers:
                    check_readers(stage.cfg, teacher, collections[teacher], cluster.gpus)
                planned.append((stage, plan))  # its rows are of use where only the micro-batch is too large
                check_memory(plan)
            except ValueError as error:
                refused.append(f"{stage.name} does not run on {cluster.gpus} GPUs: {error}")
    return planned, refused


def print_images(stages: Sequence[Stage]) -> None:
    """What one image costs."""
    rows = [
        [stage.name, c.teacher, c.size]
        + [f"{flops / GIGA:.1f}" for flops in (c.teacher_flops, c.forward, c.backward, c.flops)]
        + [f"{c.graph / MEGA:.0f}"]
        for stage in stages
        for c in stage.cost.images
    ]
    header = ["stage", "teacher", "px", "teacher", "forward", "backward", "sum", "kept, MB"]
    print_table("One image, in GFLOP, and what is kept of it for the backward pass", header, rows)


def print_totals(stages: Sequence[Stage], cluster: Cluster, collections: dict[str, Collection]) -> None:
    """What a stage costs wherever it runs: as on one GPU of the cluster's kind."""
    rows, total = [], 0.0
    for stage in stages:
        plan = plan_alone(stage, cluster)
        row = [stage.name, plan.iterations]
        for teacher in ("CLIP", "SAM"):
            images = plan.images(teacher)
            row += [f"{images:.0f}", f"{images * plan.iterations / collections[teacher].images:.1f}"]
        total += plan.gpu_hours
        row += [f"{plan.flops / 1e12:.0f}", f"{plan.flops * plan.iterations / 1e18:.0f}", f"{plan.gpu_hours:.0f}"]
        rows.append(row)
    rows.append(["all", *[""] * 7, f"{total:.0f}"])
    header = ["stage", "iterations", "CLIP's images", "epochs", "SAM's images", "epochs", "TFLOP", "EFLOP in all"]
    print_table("Steps: images (mean over the sizes) and work of one, GPU-hours", [*header, "GPU-hours"], rows)


def print_time(planned: Sequence[tuple[Stage, Plan]]) -> None:
    """How a step is shared out, and how long it takes."""
    rows = []
    for stage, plan in planned:
        row = [stage.name, plan.cluster.gpus, ", ".join(f"{s.images} at {s.cost.size}" for s in plan.shares)]
        row += [", ".join(str(s.passes) for s in plan.shares), f"{plan.computing:.3f}", f"{plan.averaging:.3f}"]
        rows.append([*row, f"{plan.averaging / plan.step:.0%}", f"{plan.hours:.1f}", f"{plan.gpu_hours:.0f}"])
    header = ["stage", "GPUs", "images of a GPU, px", "passes", "computing, s", "averaging, s", "of it", "hours"]
    print_table("Time", [*header, "GPU-hours"], rows)


def print_feeding(planned: Sequence[tuple[Stage, Plan]], collections: dict[str, Collection]) -> None:
    """What storage, processors and network have to keep up with."""
    from escnet.training.estimation.cluster import readers_memory

    rows = []
    for stage, plan in planned:
        rates = {teacher: plan.images_per_second(teacher) for teacher in plan.teachers}
        read = sum(rate * collections[teacher].size for teacher, rate in rates.items())
        cores = sum(rate * collections[teacher].decoding for teacher, rate in rates.items())
        gpus = plan.cluster.gpus
        row = [stage.name, gpus, *(f"{rates.get(teacher, 0):.1f}" for teacher in ("CLIP", "SAM"))]
        row += [f"{read / MEGA:.0f}", f"{gpus * read / GIGA:.2f}", f"{cores:.1f}", f"{gpus * cores:.0f}"]
        held = sum(readers_memory(stage.cfg, collections[teacher]) for teacher in rates)
        row.append(f"{held / GIGA:.0f}")
        sent = f"{plan.sent / MEGA:.0f} in {stage.cost.trained_tensors}"
        rows.append([*row, sent, f"{plan.sent / plan.step / MEGA:.0f}"])
    header = ["stage", "GPUs", "CLIP's images/s", "SAM's", "read, MB/s", "all, GB/s", "cores", "all", "shards held, GB"]
    print_table("Feeding a GPU, and what it sends of gradients", [*header, "MB/step in tensors", "MB/s"], rows)


def print_memory(planned: Sequence[tuple[Stage, Plan]]) -> None:
    """What a GPU holds."""
    rows = []
    for stage, plan in planned:
        kept = ", ".join(f"{s.graph / GIGA:.1f} ({s.micro_batch} at {s.cost.size})" for s in plan.shares)
        row = [stage.name, plan.cluster.gpus, f"{plan.static / GIGA:.1f}", kept, f"{plan.memory / GIGA:.1f}"]
        rows.append([*row, ", ".join(str(s.largest) for s in plan.shares)])
    header = ["stage", "GPUs", "parameters, gradients, moments", "kept (micro-batch)", "largest sum", "that would fit"]
    print_table("Memory of a GPU, in GB, and the micro-batches for which it is enough", header, rows)


def print_storage(
    stages: Sequence[Stage], collections: dict[str, Collection], args: argparse.Namespace, cluster: Cluster
) -> None:
    """Bytes at rest, and what stored embeddings would save of all stages."""
    embeddings = collections["CLIP"].images * args.embedding_bytes
    rows = [
        [f"{teacher}'s images", f"{c.images / MEGA:.3f}", f"{c.size / 1e3:.1f}", f"{c.images * c.size / GIGA:.0f}"]
        for teacher, c in collections.items()
    ]
    rows.append(["embeddings", rows[0][1], f"{args.embedding_bytes / 1e3:.1f}", f"{embeddings / GIGA:.0f}"])
    print_table("Storage", ["what", "millions", "kB of one", "GB"], rows)
    hours = teacher_hours(stages, cluster)
    once = [collections["CLIP"].images * s.cost.of("CLIP")[0].teacher_flops for s in stages if s.cost.of("CLIP")]
    if hours and once[0]:
        print(
            f"\nOf all GPU-hours, CLIP's teacher takes {hours:.0f}; to embed each image once takes "
            f"{once[0] / cluster.rate / 3600:.0f}."
        )


def teacher_hours(stages: Sequence[Stage], cluster: Cluster) -> float:
    """GPU-hours of CLIP's teacher in all stages."""
    seconds = 0.0
    for stage in stages:
        plan = plan_alone(stage, cluster)
        seconds += sum(
            plan.iterations * share.images * share.cost.teacher_flops / len(plan.of("CLIP")) / cluster.rate
            for share in plan.of("CLIP")
        )
    return seconds / 3600


def plan_alone(stage: Stage, cluster: Cluster) -> Plan:
    """A stage on a single GPU."""
    from dataclasses import replace

    from escnet.training.estimation.cluster import plan_stage

    return plan_stage(stage.cfg, stage.cost, replace(cluster, gpus=1))


def _several(kind: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    """Reads values that commas separate."""

    def read(text: str) -> tuple[Value, ...]:
        return tuple(kind(part) for part in text.split(","))

    return read


if __name__ == "__main__":
    sys.exit(run_program(main))
