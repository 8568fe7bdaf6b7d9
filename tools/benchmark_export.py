r"""Measure exported models beside the one that they were made of: size, start, time, memory, and how they agree.

    python tools/benchmark_export.py --model shipped:esc_net --exported exported exported_int8 \
        --dataset 'mojiscenes_val_novel[:100]'

Each is run in a process of its own on the images of a dataset, with the words of its classes: from the start of Python
to the model that is ready; an image with its words; the words alone, when the image is encoded already. mIoU is that of
the labels, agreement the share of pixels with PyTorch's label.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from escnet.command_line import CommandParser, at_least_one, refuse, run_program

PROGRAM = "benchmark_export.py"
# What a process of its own runs: it has none of this one's modules.
_RUN = "import sys; from escnet.exported.measuring import run; run(sys.argv[1])"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.exported.card import ExportedFilesError
    from escnet.pretrained.files import WeightsError

    try:
        print(benchmark(args))
    except (ValueError, WeightsError, ExportedFilesError, OSError) as error:
        return refuse(PROGRAM, error)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_model_options()
    parser.add_argument("--exported", nargs="+", required=True, type=Path, metavar="DIR", help="of tools/export.py")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="with labels; a slice such as 'a150[:50]' too")
    parser.add_argument("--threads", type=at_least_one, default=1, help="of each (default: 1)")
    parser.add_config_keys()
    return parser.parse_args(arguments)


def benchmark(args: argparse.Namespace) -> str:
    """The table.

    Raises:
        ValueError: a model could not be run.
        ConfigError, WeightsError, DatasetError, OSError: for a model or a dataset that cannot be used.
    """
    from escnet.data.images import read_image
    from escnet.data.label_spaces import read_training_labels
    from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics
    from escnet.evaluation.runs.evaluation_data import EvaluationData
    from escnet.exported.measuring import Measured, write_task
    from escnet.publishing.chosen_models import chosen_config

    cfg = chosen_config(args.model, args.config_file, args.opts, args.weights)
    data = EvaluationData.load(args.dataset, cfg)
    truth = [read_training_labels(record["sem_seg_file_name"], data.space) for record in data.records]
    pictures = [read_image(record["file_name"]) for record in data.records]
    rows, plain = [], None
    for folder in (None, *args.exported):
        with tempfile.TemporaryDirectory() as place:
            write_task(Path(place), folder, cfg, data.space.vocabulary, pictures, args.threads)
            environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
            begun = time.time()
            done = subprocess.run(
                [sys.executable, "-c", _RUN, place], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
                raise ValueError(f"{folder or 'PyTorch'}: {last[0]}")
            found = Measured.read(Path(place), begun)
        plain = plain or found
        confusion, same = ConfusionMatrix(data.space.vocabulary.num_classes), []
        for labels, true, wanted in zip(found.labels, truth, plain.labels, strict=True):
            confusion.update(labels, true)
            same.append(float(np.mean(labels == wanted)))
        metrics = semantic_metrics(confusion, data.class_names)
        size = "" if folder is None else sum(file.stat().st_size for file in folder.iterdir()) / 2**20
        whole, words = (1000 * statistics.median(seconds) for seconds in (found.whole, found.words))
        rows.append([
            "PyTorch" if folder is None else folder, size, found.start, whole, words, found.memory,
            100 * metrics.miou, 100 * statistics.mean(same), 100 * min(same),
        ])  # fmt: skip
    heads = ["", "MiB", "start s", "image ms", "words ms", "peak MiB", "mIoU", "agreement %", "least %"]
    formats = ("", ".1f", ".1f", ".0f", ".0f", ".0f", ".1f", ".3f", ".2f")
    return tabulate(rows, heads, floatfmt=formats)


if __name__ == "__main__":
    sys.exit(run_program(main))
