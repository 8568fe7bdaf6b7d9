"""Make an examination of real photographs from any dataset with label maps: their regions as objects and as cut-outs.

    python datasets/prepare_regions.py --dataset camvid_val --output output/photographs

Each connected region of a scored class that is large enough is an object: FOLDER/objects has the photographs, as links
or copies, FOLDER/objects.json the masks, boxes and areas in COCO's format. Its cut-out, the square around its box with
a margin, is a picture of its class in FOLDER/words/CLASS; FOLDER/classes.tsv has the words of all classes. So
tools/eval_classification.py takes --images FOLDER/words --classes FOLDER/classes.tsv, and tools/eval_instances.py
--images FOLDER/objects --annotations FOLDER/objects.json. Several datasets have to be of the same classes. The same
arguments give the same files.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from escnet.command_line import at_least_one, run_program, zero_or_more

# What is imported in functions takes seconds, and --help and mistyped options should not.
NAME = "regions"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", nargs="+", required=True, metavar="NAME", help="camvid_val, a150[:100], folder:PATH; or several"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the examination")
    parser.add_argument(
        "--least-area",
        type=at_least_one,
        metavar="N",
        help="pixels of the label map that a region needs (default: 0.5 %% of the map)",
    )
    parser.add_argument("--limit", type=at_least_one, metavar="K", help="at most K cut-outs a class, evenly spread")
    parser.add_argument("--copy", action="store_true", help="copy the photographs instead of linking to them")
    parser.add_argument("--workers", type=zero_or_more, default=0, help="processes (default: one on each core)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    from escnet.data.preparation.ending import prepare_or_refuse

    return prepare_or_refuse(NAME, lambda: make(options), (ValueError, OSError), "stopped; nothing was made")


def make(options: argparse.Namespace) -> None:
    """Make the examination, unless it is there.

    Raises:
        ValueError, OSError: it cannot be made of these datasets, or not written.
    """
    from escnet.data.benchmarks import full_dataset_name
    from escnet.data.preparation.regions import Regions, write_regions

    start = time.perf_counter()
    datasets = tuple(map(full_dataset_name, options.dataset))
    regions = Regions(datasets, options.least_area, options.limit, copy=options.copy)
    is_new = write_regions(options.output, regions, options.workers)
    counts = count(options.output)
    state = f"made in {time.perf_counter() - start:.1f} s" if is_new else "is complete already, nothing to do"
    print(f"{NAME}: {counts} in {options.output}: {state}")


def count(root: Path) -> str:
    """What an examination has, as the tools read it."""
    from escnet.data.coco_instances import read_instances
    from escnet.data.errors import listed
    from escnet.data.examination_folder import OBJECTS_FILE, WORDS
    from escnet.data.image_folders import read_image_folder

    data, folder = read_instances(root / OBJECTS_FILE), read_image_folder(root / WORDS)
    cut_outs = Counter(folder.folders[image.label] for image in folder.images)
    largest = listed((f"{name} {number}" for name, number in cut_outs.most_common()), 15)
    return (
        f"{len(data.images)} photographs with {len(data.annotations)} objects, {len(folder.images)} cut-outs of "
        f"{len(folder.folders)} of {len(data.categories)} classes ({largest})"
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
