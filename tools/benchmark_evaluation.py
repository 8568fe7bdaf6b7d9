#!/usr/bin/env python3
"""What scoring costs beside the model: time of each step for one image, and memory for few and for many images.

python tools/benchmark_evaluation.py [--classes 150 847] [--size 640 640]

Label maps are random blocks of 64 pixels. Logits are on the decoder's grid of 96x96 and like a model's: smooth maps,
ten of which stand out, with a little noise. In logits of noise alone any class can win anywhere: the slowest case.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from tabulate import tabulate

from escnet.command_line import at_least_one, run_program
from escnet.own_process import forget_peak, in_own_process, peak_memory

if TYPE_CHECKING:
    from torch import Tensor

    from escnet.evaluation.runs.image_results import ImageResult

# What is imported in functions takes seconds, and --help and mistyped options should not.
IGNORE_LABEL = 65535
GRID = 96
MIB = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--classes", type=at_least_one, nargs="+", default=[150, 847], metavar="N", help="vocabulary sizes"
    )
    parser.add_argument(
        "--size", type=at_least_one, nargs=2, default=[640, 640], metavar=("H", "W"), help="of an image"
    )
    parser.add_argument(
        "--repeats", type=at_least_one, default=20, metavar="R", help="timed runs; the median is printed"
    )
    options = parser.parse_args(arguments)
    import torch

    size = tuple(options.size)
    print(f"{size[0]}x{size[1]} pixels, {torch.get_num_threads()} threads")
    rows = [time_steps(classes, size, options.repeats) for classes in options.classes]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    rows = [in_own_process(peak_of_images, classes, size) for classes in options.classes]
    print(tabulate(rows, headers="keys", floatfmt=".0f"))
    rows = [
        {
            "classes": classes,
            "N x H x W floats, MiB": classes * size[0] * size[1] * 4 / MIB,
            "label map, MiB": in_own_process(peak_of_label_map, classes, size),
            "label map of noise, MiB": in_own_process(peak_of_label_map, classes, size, True),
            "argmax of all at once, MiB": in_own_process(peak_of_label_map, classes, size, False, True),
        }
        for classes in options.classes
    ]
    print(tabulate(rows, headers="keys", floatfmt=".0f"))
    return 0


def time_steps(classes: int, size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Median milliseconds of the steps that follow the model."""
    import torch

    from escnet.evaluation.confusion import ConfusionMatrix
    from escnet.evaluation.runs.image_results import ImageResult, ImageResults
    from escnet.meta_arch.label_map import label_map

    prediction, truth = random_maps(classes, size, seed=0)
    confusion = ConfusionMatrix(classes, IGNORE_LABEL)
    logits = model_like_logits(classes)
    noise = torch.randn(classes, GRID, GRID, generator=torch.Generator().manual_seed(0))

    def one() -> ImageResult:
        return ImageResult.count("image", prediction, truth, classes, IGNORE_LABEL)

    with tempfile.TemporaryDirectory() as folder:
        results = ImageResults(folder)
        steps = {
            "confusion update, ms": lambda: confusion.update(prediction, truth),
            "whole result on disk, ms": lambda: results.add(one()),
            "label map, ms": lambda: label_map(logits, size),
            "label map of noise, ms": lambda: label_map(noise, size),
        }
        medians = {name: median_milliseconds(step, repeats) for name, step in steps.items()}
        results.close()
    return {"classes": classes, **medians}


def peak_of_images(classes: int, size: tuple[int, int]) -> dict[str, float]:
    """Peak memory, in MiB, after 10 images and after 200 more, with the sum over all read back at the end."""
    from escnet.evaluation.runs.image_results import ImageResult, ImageResults

    forget_peak()
    with tempfile.TemporaryDirectory() as folder:
        results, peaks = ImageResults(folder), []
        for start, stop in ((0, 10), (10, 210)):
            for seed in range(start, stop):
                results.add(ImageResult.count(str(seed), *random_maps(classes, size, seed), classes, IGNORE_LABEL))
            results.confusion(classes)
            peaks.append(peak_memory())
        results.close()
    return {"classes": classes, "after 10 images, MiB": peaks[0], "after 210 images, MiB": peaks[1]}


def peak_of_label_map(classes: int, size: tuple[int, int], noise: bool = False, at_once: bool = False) -> float:
    """By how many MiB the peak memory grows while logits become a label map."""
    import torch
    from torch.nn import functional as F

    from escnet.meta_arch.label_map import label_map

    logits = torch.randn(classes, GRID, GRID) if noise else model_like_logits(classes)
    label_map(logits[:2], (64, 64))
    forget_peak()
    before = peak_memory()
    if at_once:
        F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    else:
        label_map(logits, size)
    return peak_memory() - before


def model_like_logits(classes: int) -> Tensor:
    """(N, 96, 96): smooth maps around a level of each class, of which ten stand out, each in its places."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(0)

    def smooth(maps: int, cells: int) -> Tensor:
        coarse = torch.randn(1, maps, cells, cells, generator=generator)
        return F.interpolate(coarse, (GRID, GRID), mode="bicubic", align_corners=False)[0]

    logits = 1.5 * smooth(classes, 8) + torch.randn(classes, 1, 1, generator=generator)
    present = torch.randperm(classes, generator=generator)[:10]
    logits[present] += 9 + 5 * smooth(len(present), 10)
    return logits + 0.3 * torch.randn(classes, GRID, GRID, generator=generator)


def random_maps(classes: int, size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, truth): blocks of 64 pixels, a tenth of the truth ignored."""
    generator = np.random.default_rng(seed)
    blocks = [-(-side // 64) for side in size]
    maps = [np.kron(generator.integers(0, classes, blocks), np.ones((64, 64), int)) for _ in range(2)]
    prediction, truth = (one[: size[0], : size[1]] for one in maps)
    return prediction, np.where(generator.random(size) < 0.1, IGNORE_LABEL, truth).astype(np.uint16)


def median_milliseconds(step: Callable[[], object], repeats: int) -> float:
    """The median time of a step, after one run that is not counted."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    sys.exit(run_program(main))
