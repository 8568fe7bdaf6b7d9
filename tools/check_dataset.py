#!/usr/bin/env python3
"""Look through a dataset: counts, sizes, ids, a picture of some samples, and whether it can be used.

python tools/check_dataset.py a150 [--limit 100] [--samples 4] [--picture FILE.jpg]

NAME is a benchmark (a150, a847, pc59 ...), any dataset name (camvid_train) or folder:PATH. The exit code is 0 if the
dataset can be used, 1 if it has faults, 2 if it is not there or its classes cannot be used.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from escnet.command_line import refuse, run_program
from escnet.data.benchmarks import dataset_folder_name, full_dataset_name
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError
from escnet.safe_files import replacing

if TYPE_CHECKING:
    from escnet.data.inspection import Inspection

# What is imported in functions takes seconds, and --help and mistyped options should not.
SHOWN_FAULTS = 10
SHOWN_SIZES = 5


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="of the dataset, a slice accepted: camvid_val[:8]")
    parser.add_argument("--limit", type=int, metavar="K", help="look at K images, evenly spread (default: all)")
    parser.add_argument("--samples", type=int, default=4, metavar="K", help="images in the picture; 0 for none")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="where to draw them (default: NAME_samples.jpg)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    options = parser.parse_args(arguments)
    if (options.limit is not None and options.limit < 1) or options.samples < 0 or options.workers < 1:
        parser.error("--limit and --workers have to be at least 1, --samples at least 0")

    from escnet.data.inspection import draw_samples, inspect_dataset

    name = full_dataset_name(options.name)
    try:
        found = inspect_dataset(name, options.limit, options.workers)
    except (DatasetError, ImageError) as error:
        return refuse("check_dataset.py", error)
    print_report(found)
    if options.samples and not found.faults:
        picture = options.picture or Path(f"{dataset_folder_name(name)}_samples.jpg")
        with replacing(picture) as temporary:
            draw_samples(name, options.samples).save(temporary, format="JPEG", quality=90)
        print(f"samples: {picture}")
    return print_verdict(found)


def print_report(found: Inspection) -> None:
    """Print the counts, the sizes and the histogram of ids."""
    print(f"{found.name}: {found.available} images, {found.images} of them looked at; {len(found.class_names)} classes")
    common = ", ".join(f"{w}x{h} ({count})" for (h, w), count in found.sizes.most_common(SHOWN_SIZES))
    print(f"sizes (width x height): {len(found.sizes)} different; the most frequent: {common}")
    print(f"label maps: {', '.join(f'{count} of {bits} bits' for bits, count in found.bits.items())}")
    total = max(1, found.pixels.total())
    rows = [
        (value, class_name(found, value), pixels, f"{pixels / total:.3%}")
        for value, pixels in sorted(found.pixels.items())
    ]
    print(tabulate(rows, headers=("id", "class", "pixels", "share"), colalign=("right", "left", "right", "right")))


def class_name(found: Inspection, value: int) -> str:
    """What an id stands for."""
    from escnet.data.inspection import NOT_LABELLED

    if value == found.ignore_label:
        return NOT_LABELLED
    return found.class_names[value] if 0 <= value < len(found.class_names) else "UNKNOWN"


def print_verdict(found: Inspection) -> int:
    """Print faults, warnings and the verdict; returns the exit code."""
    for warning in found.warnings:
        print(f"warning: {warning}")
    for fault in found.faults[:SHOWN_FAULTS]:
        print(f"FAULT: {fault}")
    if len(found.faults) > SHOWN_FAULTS:
        print(f"FAULT: and {len(found.faults) - SHOWN_FAULTS} more")
    if found.faults:
        print(f"verdict: {found.name} cannot be used as it is; prepare it again (datasets/README.md)")
        return 1
    print(f"verdict: {found.name} is as it should be" + (", apart from the warnings" if found.warnings else ""))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
