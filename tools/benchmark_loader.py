#!/usr/bin/env python3
"""How many training images a worker prepares in a second, and what takes its time.

python tools/benchmark_loader.py --config-file configs/escnet/vitb16.yaml [--workers 1 2] [KEY VALUE ...]

Measures the datasets of DATASETS.TRAIN as training reads them. The stages are timed in this process, one after the
other for each image; images per second are those of the loader with its worker processes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from escnet.command_line import CommandParser, refuse, run_program

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# What is imported in functions takes seconds, and --help and mistyped options should not.


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config-file", default="configs/escnet/vitb16.yaml", metavar="YAML")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="worker processes to try")
    parser.add_argument("--images", type=int, default=200, metavar="K", help="images of each measurement")
    parser.add_argument("--repeats", type=int, default=3, metavar="R", help="measurements; the median is printed")
    parser.add_config_keys()
    options = parser.parse_args(arguments)
    if min(*options.workers, options.images, options.repeats) < 1:
        parser.error("--workers, --images and --repeats have to be at least 1")
    import torch

    from escnet.config import ConfigError, load_config
    from escnet.data.errors import DatasetError
    from escnet.data.registration import dataset_records

    torch.set_num_threads(1)
    try:
        cfg = load_config(options.config_file, options.opts)
        records = [record for name in cfg.DATASETS.TRAIN for record in dataset_records(name)]
    except (ConfigError, DatasetError) as error:
        return refuse("benchmark_loader.py", error)
    print(f"{', '.join(cfg.DATASETS.TRAIN)}: {len(records)} images, crops of {tuple(cfg.INPUT.CROP.SIZE)}")
    stages = time_stages(cfg, records, options.images)
    total = sum(stages.values())
    rows = [(name, 1e3 * seconds, f"{seconds / total:.0%}") for name, seconds in stages.items()]
    rows.append(("all", 1e3 * total, ""))
    print(tabulate(rows, headers=("stage", "ms an image", "share"), floatfmt=".2f"))
    rates = [
        (workers, statistics.median(loader_rate(cfg, records, workers, options.images) for _ in range(options.repeats)))
        for workers in options.workers
    ]
    rows = [(workers, rate, rate / workers) for workers, rate in rates]
    print(tabulate(rows, headers=("workers", "images/s", "images/s of a worker"), floatfmt=".1f"))
    return 0


def time_stages(cfg: CfgNode, records: list[dict[str, Any]], images: int) -> dict[str, float]:
    """Mean seconds of CPU time that each stage of the mapper takes for an image, in this process."""
    from detectron2.data import transforms as T

    from escnet.data.images import read_image
    from escnet.data.label_spaces import label_spaces, read_training_labels
    from escnet.data.mappers import TrainingMapper

    spaces = label_spaces(cfg.DATASETS.TRAIN, cfg.INPUT.TEMPLATES, cfg.INPUT.CLASS_NAMES)
    augmentations = TrainingMapper(cfg).augmentations
    seconds: dict[str, float] = defaultdict(float)
    for number in range(images + len(records)):
        if number == len(records):  # each file has been read once, so that the disk is left out
            seconds.clear()
        record = records[number % len(records)]
        clock = _Clock(seconds)
        image = read_image(record["file_name"])
        clock.lap("read the image")
        labels = read_training_labels(record["sem_seg_file_name"], spaces[record["dataset"]])
        clock.lap("read the labels")
        sample = T.AugInput(image, sem_seg=labels)
        for augmentation in augmentations:
            augmentation(sample)
            clock.lap(type(augmentation).__name__)
    return {name: value / images for name, value in seconds.items()}


def loader_rate(cfg: CfgNode, records: list[dict[str, Any]], workers: int, images: int) -> float:
    """Images a second that come out of the training loader, after its start."""
    from escnet.data.mappers import TrainingMapper
    from escnet.data.stream import build_training_loader

    loader = build_training_loader(records, TrainingMapper(cfg), batch_size=4, seed=0, num_workers=workers)
    batches = iter(loader)
    # What the workers have prepared ahead would count as made in no time.
    for _ in islice(batches, 4 * max(1, workers)):
        pass
    start, count = time.perf_counter(), 0
    for batch in islice(batches, -(-images // 4)):
        count += len(batch)
    return count / (time.perf_counter() - start)


class _Clock:
    """Adds the CPU time since the last lap to a stage."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.process_time()

    def lap(self, stage: str) -> None:
        now = time.process_time()
        self._seconds[stage] += now - self._last
        self._last = now


if __name__ == "__main__":
    sys.exit(run_program(main))
