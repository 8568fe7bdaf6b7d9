r"""Measure exported models beside the one that they were made of: size, start, time, memory, and how they agree.

    python tools/benchmark_export.py --model shipped:esc_net --exported exported exported_int8 \
        --dataset 'mojiscenes_val_novel[:100]'

Each is run in a process of its own on the images of a dataset, with the words of its classes: from the start of the
process to the model that is ready; an image with its words; the words once more, when the image is encoded already.
mIoU is that of the labels, agreement the share of pixels with PyTorch's label, in all and in the worst image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from escnet.command_line import CommandParser, at_least_one, refuse, run_program
from escnet.own_process import in_own_process

PROGRAM = "benchmark_export.py"
HEADS = ("", "MiB", "start s", "image ms", "words ms", "peak MiB", "mIoU", "agreement %", "worst %")
FORMATS = ("", ".1f", ".1f", ".0f", ".0f", ".0f", ".1f", ".3f", ".2f")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.pretrained.files import WeightsError

    try:
        print(benchmark(args))
    except (ValueError, WeightsError, OSError) as error:
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
        ConfigError, WeightsError, ExportedFilesError, DatasetError, OSError: for what cannot be used.
    """
    from escnet.data.images import read_image
    from escnet.data.label_spaces import read_training_labels
    from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics
    from escnet.evaluation.runs.evaluation_data import EvaluationData
    from escnet.exported.card import read_card
    from escnet.exported.measuring import measure
    from escnet.ignore_label import IGNORE_LABEL
    from escnet.publishing.chosen_models import chosen_config

    for folder in args.exported:
        read_card(folder)
    cfg = chosen_config(args.model, args.config_file, args.opts, args.weights)
    data = EvaluationData.load(args.dataset, cfg)
    words = data.space.vocabulary
    truth = [read_training_labels(record["sem_seg_file_name"], data.space) for record in data.records]
    pictures = [read_image(record["file_name"]) for record in data.records]
    rows, plain = [], None
    for folder in (None, *args.exported):
        begun = time.time()
        found = in_own_process(measure, folder or cfg, words, pictures, args.threads)
        plain = plain or found
        confusion, same = ConfusionMatrix(words.num_classes, IGNORE_LABEL), []
        for labels, true, wanted in zip(found.labels, truth, plain.labels, strict=True):
            confusion.update(labels, true)
            same.append(float(np.mean(labels == wanted)))
        whole, again = (1000 * statistics.median(seconds) for seconds in (found.whole, found.words))
        score = 100 * semantic_metrics(confusion, data.class_names).miou
        name, size = ("PyTorch", None) if folder is None else (folder, _size(folder))
        agreement = 100 * statistics.mean(same), 100 * min(same)
        rows.append([name, size, found.ready - begun, whole, again, found.memory, score, *agreement])
    return tabulate(rows, HEADS, floatfmt=FORMATS, tablefmt="pipe")


def _size(folder: Path) -> float:
    """MiB of the files."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20


if __name__ == "__main__":
    sys.exit(run_program(main))
