#!/usr/bin/env python3
"""Time and memory of a model against its own CLIP image encoder, for several vocabulary sizes.

    python tools/benchmark.py --config-file configs/escnet/vitb16.yaml
    python tools/benchmark.py --classes 171 --profile MODEL.ESC.MAX_CLASSES 0 MODEL.ESC.KEEP 0
    python tools/benchmark.py --classes 171 --batch 1 8 32 MODEL.PRECISION bf16

How many classes are kept is the configuration's; where that depends on the picture (MODEL.ESC.KEEP_SHARE), it is the
most that may be. Each row is measured in a process of its own, so that its peak memory is its own; the times of the
CLIP image encoder and of the whole model alternate in that process, so that their ratio does not depend on what else
the machine does. The text embeddings are computed once for a vocabulary, as in use, and are timed apart.

--batch measures what labels a collection, `Segmenter.batch`, for so many pictures at once: random pixels of 480 by 640
in the host's memory, and label maps and scores there in return. It takes the configuration of any system.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from escnet import Vocabulary
from escnet.command_line import CommandParser, at_least_one, positive_number, run_program
from escnet.own_process import in_own_process

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode
    from torch import nn

    from escnet.meta_arch.segmentation import Segmentation

# What is imported in functions takes seconds, and --help and mistyped options should not.
MIB = 1 << 20
SYSTEMS = ("ESCNet", "CostAggregation")
STAGES = ("CLIP image", "prompts", "SAM block", "fusion", "decoder", "other")
# Classes in a training image, which are never left out: as many as a photograph of COCO-Stuff shows.
PRESENT = 10
# Of the table of --profile.
OPERATORS = 15
# In place of the peak of a process that has gone.
KILLED = "killed, probably for want of memory"
# Of a picture of --batch: rows and columns, as most photographs of COCO have them.
PICTURE = (480, 640)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(description=__doc__)
    parser.add_model_options(weights=None, default="configs/escnet/vitb16.yaml")
    parser.add_argument("--classes", type=at_least_one, nargs="+", default=[21, 150, 171, 847], help="vocabulary sizes")
    parser.add_argument("--profile", action="store_true", help="also say which operators take the time")
    parser.add_argument("--images", type=at_least_one, default=1, help="in one pass or training step (default: 1)")
    parser.add_argument(
        "--batch",
        type=at_least_one,
        nargs="+",
        metavar="B",
        help="measure Segmenter.batch instead, with so many pictures in a pass",
    )
    parser.add_argument("--repeats", type=at_least_one, default=5, help="timed runs, after one; the median is printed")
    parser.add_argument("--threads", type=at_least_one, help="of PyTorch (default: as it chooses)")
    parser.add_argument("--training", action="store_true", help="measure training steps instead of inference")
    parser.add_argument(
        "--memory-limit",
        type=positive_number,
        default=20.0,
        help="GiB a training step may take, of a GPU or of the machine",
    )
    parser.add_config_keys()
    options = parser.parse_args(arguments)
    if options.batch and (options.training or options.profile or options.images > 1):
        parser.error("--batch is measured by itself; leave out --training, --profile and --images")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = parse(arguments)
    from escnet.training.failures import run_or_refuse

    return run_or_refuse("benchmark.py", lambda: benchmark(options), (ValueError,), "stopped")


def benchmark(arguments: argparse.Namespace) -> None:
    """Measure, and print the table.

    Raises:
        ValueError, WeightsError: something cannot be used.
    """
    import torch

    from escnet.devices import device_name
    from escnet.publishing.chosen_models import chosen_config_alone

    arguments.threads = arguments.threads or torch.get_num_threads()
    arguments.cfg = cfg = chosen_config_alone(arguments.model, arguments.config_file, arguments.opts)
    if not arguments.batch and (cfg.MODEL.META_ARCHITECTURE not in SYSTEMS or cfg.MODEL.ESC.BACKBONE != "clip"):
        raise ValueError(f"measures {' and '.join(SYSTEMS)} on CLIP; tools/compare_systems.py measures the others")
    device = device_name(torch.device(cfg.MODEL.DEVICE))
    name = arguments.model or arguments.config_file
    images = " ".join(map(str, arguments.batch or [arguments.images]))
    print(
        f"{name}, images at once: {images}, on {device}, {arguments.threads} threads, "
        f"{cfg.MODEL.PRECISION}, torch {torch.__version__}",
        flush=True,
    )
    if arguments.batch:
        print_batches(arguments)
    elif arguments.training:
        print_training(arguments)
    else:
        print_inference(arguments)


def print_inference(arguments: argparse.Namespace) -> None:
    rows, operators = [], {}
    for classes in arguments.classes:
        result = in_own_process(measure_inference, arguments, classes)
        row = [classes, result["kept"], *(f"{result[part]:#.3g}" for part in ("text", "clip", "whole"))]
        stages = [f"{share:.1f}" for share in result["shares"]]
        rows.append([*row, f"{result['ratio']:.2f}", *stages, f"{result['memory']:.0f}"])
        operators[classes] = result["operators"]
        print(f"  {classes} classes: {result['ratio']:.2f} × CLIP", flush=True)
    header = ["classes", "first pass > kept", "text, once s", "CLIP s", "whole s", "whole / CLIP"]
    header = [*header, *(f"{stage} %" for stage in STAGES), "peak MiB"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))
    for classes, table in operators.items() if arguments.profile else ():
        print(f"\n{classes} classes, by operator\n")
        print(tabulate(table, ["operator", "calls", "% of the time"], tablefmt="github", floatfmt=".1f"))


def print_training(arguments: argparse.Namespace) -> None:
    rows = []
    for classes in arguments.classes:
        for recompute in (False, True):
            rows.append([classes, "yes" if recompute else "no", *training_cells(arguments, classes, recompute)])
            print("  {} classes, checkpointing {}: {} s / iteration, peak MiB: {}".format(*rows[-1]), flush=True)
    header = ["classes", "checkpointing", "s / iteration", "peak MiB"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def training_cells(arguments: argparse.Namespace, classes: int, recompute: bool) -> tuple[str, str]:
    """Seconds and MiB of a training step, or why there are none."""
    try:
        result = in_own_process(measure_training, arguments, classes, recompute)
    except BrokenProcessPool:
        return "-", KILLED
    if result is None:
        return "-", f"more than {arguments.memory_limit * 1024:.0f}"
    return f"{result['step']:#.3g}", f"{result['memory']:.0f}"


def print_batches(arguments: argparse.Namespace) -> None:
    rows = []
    for classes in arguments.classes:
        for images in arguments.batch:
            rows.append([classes, images, *batch_cells(arguments, classes, images)])
            print("  {} classes, {} images in a pass: {} ms an image, {} images/s".format(*rows[-1][:4]), flush=True)
    header = ["classes", "images in a pass", "ms an image", "images/s", "peak MiB"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def batch_cells(arguments: argparse.Namespace, classes: int, images: int) -> tuple[str, str, str]:
    """Milliseconds an image, images a second and MiB of a pass, or why there are none."""
    try:
        result = in_own_process(measure_batch, arguments, classes, images)
    except BrokenProcessPool:
        return "-", "-", KILLED
    if result is None:
        return "-", "-", "more than there is"
    seconds = result["pass"] / images
    return f"{1000 * seconds:.1f}", f"{1 / seconds:.3g}", f"{result['memory']:.0f}"


def build(arguments: argparse.Namespace, opts: list[Any]) -> tuple[CfgNode, nn.Module]:
    """The configured model with random weights, which cost what trained ones cost."""
    import torch
    from detectron2.modeling import build_model

    import escnet.meta_arch  # noqa: F401  (registers the models)
    from escnet.config import load_config
    from escnet.pretrained.random_weights import random_weights

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    cfg = random_weights(load_config(arguments.cfg, opts))
    return cfg, build_model(cfg)


def vocabulary(classes: int) -> Vocabulary:
    return Vocabulary([f"thing number {i}" for i in range(classes)])


def measure_inference(arguments: argparse.Namespace, classes: int) -> dict[str, Any]:
    """Seconds of CLIP's encoder, of the whole model and of its stages, and the peak memory."""
    import torch

    from escnet.profiling import DeviceWatch, StageTimer, busiest_operators

    # Random weights find nothing anywhere.
    cfg, model = build(arguments, ["MODEL.ESC.KEEP_SHARE", 0.0])
    model.eval()
    watch, words = DeviceWatch(model.device), vocabulary(classes)
    pixels = torch.rand(arguments.images, 3, *cfg.MODEL.CLIP.IMAGE_SIZE, device=model.device) * 255
    image = model.normalise(pixels)
    stages = StageTimer(watch, parts_of(model))
    with torch.inference_mode(), model.autocast():

        def run() -> Segmentation:
            return model.segment(model.encode(pixels), words)

        text = watch.seconds(lambda: model.clip_text.encode(words))
        clip_times, whole_times = [], []
        result = run()
        for _ in range(arguments.repeats):
            clip_times.append(watch.seconds(lambda: model.clip_image(image, pooled=False)))
            with stages:
                whole_times.append(watch.seconds(run))
        operators = busiest_operators(run, model.device, OPERATORS) if arguments.profile else []
    first = [] if result.first_rows is None else [result.first_rows.shape[1]]
    return {
        "kept": " > ".join(map(str, [*first, result.logits.shape[1]])),
        "operators": operators,
        "text": text,
        "clip": statistics.median(clip_times),
        "whole": statistics.median(whole_times),
        "ratio": statistics.median(w / c for w, c in zip(whole_times, clip_times, strict=True)),
        "shares": shares(stages.seconds(), sum(whole_times)),
        "memory": watch.most_memory(),
    }


def parts_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of each stage; those of CAT-Seg's aggregation and of ESC-Net's blocks are in another stage's too."""
    if hasattr(model, "aggregator"):
        parts = {"fusion": [model.aggregator], "decoder": [model.aggregator.decoder]}
    else:
        prompts = [module for module in (model.generator, model.prompt_encoder) if module is not None]
        blocks = list(model.blocks)
        fusion = [block.fusion for block in blocks]
        parts = {"prompts": prompts, "SAM block": blocks, "fusion": fusion, "decoder": [model.decoder]}
    return {"CLIP image": [model.clip_image], **parts}


def shares(seconds: dict[str, float], whole: float) -> list[float]:
    """Percent of each of STAGES, what lies in another stage taken from that."""
    if "SAM block" in seconds:
        seconds["SAM block"] -= seconds["fusion"]
    else:
        seconds["fusion"] -= seconds["decoder"]
    seconds["other"] = whole - sum(seconds.values())
    return [100 * seconds.get(stage, 0.0) / whole for stage in STAGES]


def measure_training(arguments: argparse.Namespace, classes: int, recompute: bool) -> dict[str, float] | None:
    """Seconds and peak memory of a training step, the optimizer included; None beyond the limit.

    Where the number of classes is drawn, it is of the most.
    """
    import torch

    from escnet.devices import is_out_of_memory
    from escnet.profiling import DeviceWatch
    from escnet.training.optimizer import build_optimizer

    cfg, model = build(arguments, ["MODEL.ESC.CHECKPOINT", recompute, "MODEL.ESC.TRAIN_LEAST", 0])
    limit_memory(model.device, int(arguments.memory_limit * 1024 * MIB))
    model.train()
    watch, optimizer = DeviceWatch(model.device), build_optimizer(cfg, model)
    size, words = cfg.INPUT.CROP.SIZE, vocabulary(classes)
    batch = [
        {
            "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
            "sem_seg": torch.randint(0, min(classes, PRESENT), size),
            "vocabulary": words,
        }
        for _ in range(arguments.images)
    ]

    def step() -> None:
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()

    try:
        # The first step also pays for the embeddings of words that do not learn, and for the optimizer's state.
        times = [watch.seconds(step) for _ in range(1 + arguments.repeats)]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return {"step": statistics.median(times[1:]), "memory": watch.most_memory()}


def measure_batch(arguments: argparse.Namespace, classes: int, images: int) -> dict[str, float] | None:
    """Seconds of a pass of `Segmenter.batch`, and the peak memory; None where there is no memory for it."""
    import numpy as np

    from escnet.devices import is_out_of_memory
    from escnet.predictor import Segmenter
    from escnet.profiling import DeviceWatch

    # Random weights find nothing anywhere.
    _, model = build(arguments, ["MODEL.ESC.KEEP_SHARE", 0.0])
    segmenter, words, generator = Segmenter(model), vocabulary(classes), np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*PICTURE, 3), dtype=np.uint8) for _ in range(images)]
    watch = DeviceWatch(model.device)
    try:
        # The first pass also pays for the embeddings of the words.
        times = [watch.seconds(lambda: segmenter.batch(pictures, words)) for _ in range(1 + arguments.repeats)]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return {"pass": statistics.median(times[1:]), "memory": watch.most_memory()}


def limit_memory(device: torch.device, limit: int) -> None:
    """Let this process have so many bytes, of a GPU or of the machine."""
    import torch

    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    sys.exit(run_program(main))
