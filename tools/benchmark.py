#!/usr/bin/env python3
"""Time and memory of a model against its own CLIP image encoder, for several vocabulary sizes.

    python tools/benchmark.py --config-file configs/escnet/vitb16.yaml
    python tools/benchmark.py --classes 171 --profile MODEL.ESC.MAX_CLASSES 0 MODEL.ESC.KEEP 0

How many classes are kept is the configuration's; where that depends on the picture (MODEL.ESC.KEEP_SHARE), it is the
most that may be. Each row is measured in a process of its own, so that its peak memory is its own; the times of the
CLIP image encoder and of the whole model alternate in that process, so that their ratio does not depend on what else
the machine does. The text embeddings are computed once for a vocabulary, as in use, and are timed apart.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from escnet import Vocabulary
from escnet.command_line import at_least_one, positive_number
from escnet.own_process import in_own_process, peak_memory

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn

# What is imported in functions takes seconds, and --help and mistyped options should not.
MIB = 1 << 20
SYSTEMS = ("ESCNet", "CostAggregation")
STAGES = ("CLIP image", "prompts", "SAM block", "fusion", "decoder", "other")
# Classes in a training image, which are never left out: as many as a photograph of COCO-Stuff shows.
PRESENT = 10
# Of the table of --profile.
OPERATORS = 15


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/escnet/vitb16.yaml", help="an ESC-Net configuration")
    parser.add_argument("--classes", type=at_least_one, nargs="+", default=[21, 150, 171, 847], help="vocabulary sizes")
    parser.add_argument("--profile", action="store_true", help="also say which operators take the time")
    parser.add_argument("--repeats", type=at_least_one, default=5, help="timed runs; the median is printed")
    parser.add_argument("--threads", type=at_least_one, help="of PyTorch (default: as it chooses)")
    parser.add_argument("--training", action="store_true", help="measure training steps instead of inference")
    parser.add_argument("--memory-limit", type=positive_number, default=20.0, help="GiB a training step may take")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration KEY VALUE pairs")
    return parser.parse_args(arguments)


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

    from escnet.config import load_config

    arguments.threads = arguments.threads or torch.get_num_threads()
    cfg = load_config(arguments.config_file, arguments.opts)
    if cfg.MODEL.META_ARCHITECTURE not in SYSTEMS or cfg.MODEL.ESC.BACKBONE != "clip":
        raise ValueError(f"measures {' and '.join(SYSTEMS)} on CLIP; tools/compare_systems.py measures the others")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{arguments.config_file} on {device}, {arguments.threads} threads, torch {torch.__version__}")
    if arguments.training:
        print_training(arguments)
    else:
        print_inference(arguments)


def print_inference(arguments: argparse.Namespace) -> None:
    rows, operators = [], {}
    for classes in arguments.classes:
        result = in_own_process(measure_inference, arguments, classes)
        shares = [f"{100 * result['stages'][stage] / result['stages']['whole']:.1f}" for stage in STAGES]
        row = [classes, result["kept"], f"{result['text']:.2f}", f"{result['clip']:.2f}", f"{result['whole']:.2f}"]
        rows.append([*row, f"{result['ratio']:.2f}", *shares, f"{result['memory']:.0f}"])
        operators[classes] = result["operators"]
        print(f"  {classes} classes: {result['ratio']:.2f} × CLIP", flush=True)
    header = ["classes", "first pass > kept", "text, once s", "CLIP s", "whole s", "whole / CLIP"]
    print(tabulate(rows, [*header, *(f"{stage} %" for stage in STAGES), "peak MiB"], tablefmt="github"))
    for classes, table in operators.items() if arguments.profile else ():
        print(f"\n{classes} classes, by operator\n")
        print(tabulate(table, ["operator", "calls", "% of the time"], tablefmt="github", floatfmt=".1f"))


def print_training(arguments: argparse.Namespace) -> None:
    rows = []
    for classes in arguments.classes:
        for recompute in (False, True):
            rows.append([classes, "yes" if recompute else "no", *training_cells(arguments, classes, recompute)])
            print("  {} classes, checkpointing {}: {} s / iteration, peak MiB: {}".format(*rows[-1]), flush=True)
    print(tabulate(rows, ["classes", "checkpointing", "s / iteration", "peak MiB"], tablefmt="github"))


def training_cells(arguments: argparse.Namespace, classes: int, recompute: bool) -> tuple[str, str]:
    """Seconds and MiB of a training step, or why there are none."""
    try:
        result = in_own_process(measure_training, arguments, classes, recompute)
    except BrokenProcessPool:
        return "-", "killed, probably for want of memory"
    if result is None:
        return "-", f"more than {arguments.memory_limit * 1024:.0f}"
    return f"{result['step']:.1f}", f"{result['memory']:.0f}"


def build(arguments: argparse.Namespace, opts: list[Any]) -> tuple[CfgNode, nn.Module]:
    """The configured model with random weights, which cost what trained ones cost."""
    import torch
    from detectron2.modeling import build_model

    import escnet.meta_arch  # noqa: F401  (registers the models)
    from escnet.config import load_config
    from escnet.pretrained.random_weights import random_weights

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    cfg = random_weights(load_config(arguments.config_file, [*arguments.opts, *opts]))
    return cfg, build_model(cfg)


def vocabulary(classes: int) -> Vocabulary:
    return Vocabulary([f"thing number {i}" for i in range(classes)])


def measure_inference(arguments: argparse.Namespace, classes: int) -> dict[str, Any]:
    import torch

    # Random weights find nothing anywhere.
    cfg, model = build(arguments, ["MODEL.ESC.KEEP_SHARE", 0.0])
    model.eval()
    words = vocabulary(classes)
    pixels = torch.rand(1, 3, *cfg.MODEL.CLIP.IMAGE_SIZE, device=model.device) * 255
    image = model.normalise(pixels)
    with torch.inference_mode(), model.autocast():
        text = elapsed(lambda: model.clip_text.encode(words))
        clip_times, whole_times = [], []
        result = model.segment(model.encode(pixels), words)
        with StageTimer(model) as timer:
            for _ in range(arguments.repeats):
                clip_times.append(elapsed(lambda: model.clip_image(image, pooled=False)))
                whole_times.append(timer.time(lambda: model.segment(model.encode(pixels), words)))
        operators = profile(lambda: model.segment(model.encode(pixels), words)) if arguments.profile else []
    first = [] if result.first_rows is None else [result.first_rows.shape[1]]
    return {
        "kept": " > ".join(map(str, [*first, result.logits.shape[1]])),
        "operators": operators,
        "text": text,
        "clip": statistics.median(clip_times),
        "whole": statistics.median(whole_times),
        "ratio": statistics.median(w / c for w, c in zip(whole_times, clip_times, strict=True)),
        "stages": timer.stages(),
        "memory": most_memory(),
    }


def measure_training(arguments: argparse.Namespace, classes: int, recompute: bool) -> dict[str, float] | None:
    """Seconds and peak memory of a training step of one image, the optimizer included; None beyond the limit.

    Where the number of classes is drawn, it is of the most.
    """
    import torch

    from escnet.training.optimizer import build_optimizer

    limit = int(arguments.memory_limit * 1024 * MIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    cfg, model = build(arguments, ["MODEL.ESC.CHECKPOINT", recompute, "MODEL.ESC.TRAIN_LEAST", 0])
    model.train()
    optimizer = build_optimizer(cfg, model)
    size = cfg.INPUT.CROP.SIZE
    sample = {
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
        "sem_seg": torch.randint(0, min(classes, PRESENT), size),
        "vocabulary": vocabulary(classes),
    }
    times = []
    try:
        for _ in range(2):
            start = time.perf_counter()
            optimizer.zero_grad()
            sum(model([sample]).values()).backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
    except RuntimeError as error:
        if "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        return None
    return {"step": times[-1], "memory": most_memory()}


class StageTimer:
    """Sum the time spent in the parts of a model, by hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.total: dict[str, float] = defaultdict(float)
        self.started: dict[str, float] = {}
        if hasattr(model, "aggregator"):
            blocks, fusion, decoder, prompts = [], [model.aggregator], model.aggregator.decoder, []
        else:
            blocks, decoder, prompts = list(model.blocks), model.decoder, [model.generator, model.prompt_encoder]
            fusion = [block.fusion for block in blocks]
        self.parts = {
            "CLIP image": [model.clip_image],
            "prompts": [module for module in prompts if module is not None],
            "decoder": [decoder],
            "blocks": blocks,
            "fusion": fusion,
        }
        # CAT-Seg's aggregation has the decoder in it, ESC-Net's blocks have the fusion.
        self.holds_decoder = not blocks
        self.handles: list[Any] = []
        self.is_timing = False

    def __enter__(self) -> StageTimer:
        for name, modules in self.parts.items():
            for module in modules:
                self.handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._start(name)))
                self.handles.append(module.register_forward_hook(lambda *_, name=name: self._stop(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def time(self, function: Callable[[], Any]) -> float:
        self.is_timing = True
        seconds = elapsed(function)
        self.is_timing = False
        self.total["whole"] += seconds
        return seconds

    def stages(self) -> dict[str, float]:
        """Seconds of each stage, and of the whole."""
        total = defaultdict(float, self.total)
        if self.holds_decoder:
            total["fusion"] -= total["decoder"]
        else:
            total["SAM block"] = total.pop("blocks") - total["fusion"]
        total["other"] = 2 * total["whole"] - sum(total.values())
        return total

    def _start(self, name: str) -> None:
        self.started[name] = now()

    def _stop(self, name: str) -> None:
        if self.is_timing:
            self.total[name] += now() - self.started[name]


def profile(function: Callable[[], Any]) -> list[tuple[str, int, float]]:
    """The operators in which most of the time is spent: name, calls, percent of the whole."""
    import torch
    from torch.profiler import ProfilerActivity

    is_cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        function()
    events = profiler.key_averages()
    time_of = {e.key: e.self_device_time_total if is_cuda else e.self_cpu_time_total for e in events}
    order = sorted(events, key=lambda event: -time_of[event.key])[:OPERATORS]
    whole = sum(time_of.values())
    return [(event.key.removeprefix("aten::"), event.count, 100 * time_of[event.key] / whole) for event in order]


def elapsed(function: Callable[[], Any]) -> float:
    start = now()
    function()
    return now() - start


def now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def most_memory() -> float:
    """MiB: of the GPU where there is one, else of this process."""
    import torch

    return torch.cuda.max_memory_allocated() / MIB if torch.cuda.is_available() else peak_memory()


if __name__ == "__main__":
    raise SystemExit(main())
