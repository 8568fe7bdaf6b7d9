#!/usr/bin/env python3
"""What words cost a model that encodes an image anew for each: seconds per word against SAM alone.

    python tools/benchmark_words.py --config-file configs/clip_guided_sam/paper.yaml --words 1 5 20 150

SAM alone encodes the image once and draws one mask. CLIP-Guided SAM encodes what is the same for all words once (CLIP,
and SAM's encoder up to the first block that words enter), and the rest for each word; the fewer blocks words enter, the
less that is. Weights are random, which cost what trained ones cost. Each row is measured in a process of its own; its
times and SAM's alternate, so that their ratio does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from escnet.command_line import CommandParser, at_least_one, run_program
from escnet.own_process import in_own_process

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# What is imported in functions takes seconds, and --help and mistyped options should not.
PROGRAM = "benchmark_words.py"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--config-file", default="configs/clip_guided_sam/paper.yaml", help="a CLIP-Guided SAM")
    parser.add_argument("--words", type=at_least_one, nargs="+", default=[1, 5, 20, 150], help="numbers of words")
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[0, 8, 4], help="words enter so many of the last blocks (0: all)"
    )
    parser.add_argument(
        "--repeats", type=at_least_one, default=1, help="timed runs, after one of SAM; the median is printed"
    )
    parser.add_argument("--threads", type=at_least_one, help="of PyTorch (default: as it chooses)")
    parser.add_config_keys()
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = parse(arguments)
    from escnet.training.failures import run_or_refuse

    return run_or_refuse(PROGRAM, lambda: compare(options), (ValueError,), "stopped")


def compare(arguments: argparse.Namespace) -> None:
    """Measure all numbers of blocks and words, and print the table.

    Raises:
        ValueError, WeightsError: something cannot be used.
    """
    import torch

    from escnet.config import load_config
    from escnet.devices import device_name
    from escnet.pretrained.sam import sam_size

    arguments.threads = arguments.threads or torch.get_num_threads()
    cfg = load_config(arguments.config_file, arguments.opts)
    depth = sam_size(cfg.MODEL.SAM.NAME).encoder_depth
    for blocks in arguments.blocks:
        if not 0 <= blocks <= depth:
            raise ValueError(f"--blocks has {blocks}; SAM's image encoder has {depth}, and 0 is all of them")
    name = device_name(torch.device(cfg.MODEL.DEVICE))
    print(f"{arguments.config_file}, {name}, {arguments.threads} threads, torch {torch.__version__}")
    rows = []
    for blocks in arguments.blocks:
        cfg.MODEL.GUIDED.BLOCKS = tuple(range(-blocks, 0))
        for words in arguments.words:
            result = in_own_process(measure, cfg, words, arguments.repeats, arguments.threads)
            rows.append([
                f"last {blocks}" if blocks else "all",
                words,
                *(f"{result[key]:.2f}" for key in ("sam", "encode", "words", "per word")),
                f"{result['per word'] / result['sam']:.2f}",
                f"{(result['encode'] + result['words']) / result['sam']:.1f}",
                f"{result['memory']:.0f}",
            ])  # fmt: skip
            print(f"  {' | '.join(map(str, rows[-1]))}", flush=True)
    header = [
        "words enter", "words", "SAM alone s", "image s", "words s", "s per word", "per word / SAM", "all / SAM",
        "peak MiB",
    ]  # fmt: skip
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def measure(cfg: CfgNode, words: int, repeats: int, threads: int) -> dict[str, float]:
    """Median seconds of SAM alone, of the image, of all words, and of each further word; MiB at the peak."""
    import torch
    from detectron2.modeling import build_model

    import escnet.meta_arch  # noqa: F401  registers the systems
    from escnet import Vocabulary
    from escnet.meta_arch.interfaces import Prompts
    from escnet.meta_arch.sam import PromptableSam
    from escnet.pretrained.random_weights import random_weights
    from escnet.pretrained.sam import build_sam
    from escnet.profiling import DeviceWatch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_model(random_weights(cfg)).eval()
    sam = PromptableSam(build_sam(cfg.MODEL.SAM.NAME)).to(cfg.MODEL.DEVICE).eval()
    image = torch.randint(0, 256, (3, 768, 1024), dtype=torch.uint8)
    vocabulary = Vocabulary([f"thing number {i}" for i in range(words)])
    model.clip_text.encode(vocabulary)
    box = Prompts.from_boxes(torch.tensor([[100.0, 100.0, 400.0, 500.0]], device=cfg.MODEL.DEVICE))
    watch, found = DeviceWatch(model.device), []
    watch.start_memory()
    with torch.inference_mode():
        # A first pass pays for memory that later ones find.
        sam.masks(sam.encode(image), box)
        for _ in range(repeats):
            kept = {}
            alone = watch.seconds(lambda: sam.masks(sam.encode(image), box))
            encode = watch.seconds(lambda: kept.update(image=model.encode(image)))  # noqa: B023  called at once
            segment = watch.seconds(lambda: model.word_masks(kept["image"], vocabulary, (256, 256)))  # noqa: B023
            found.append((alone, encode, segment))
    alone, encode, segment = (statistics.median(values) for values in zip(*found, strict=True))
    memory = watch.most_memory()
    return {"sam": alone, "encode": encode, "words": segment, "per word": segment / words, "memory": memory}


if __name__ == "__main__":
    sys.exit(run_program(main))
