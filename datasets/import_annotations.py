"""Make a dataset folder:PATH, to train on and to evaluate, of annotations in COCO's, Label Studio's or CVAT's format,
or of masks.

    python datasets/import_annotations.py --annotations export.json --images photographs --output streets
    python tools/train_net.py --config-file ... DATASETS.TRAIN '("folder:streets",)'

reads   coco            a JSON with images, annotations and categories: polygons, run lengths, crowds
        label_studio    the export "JSON": polygons, rectangles, brushes; of several annotators the first
        cvat            the export "CVAT for images 1.1", an XML: polygons, boxes, masks
        masks           a folder: of one picture of ids or of colours for each photograph, with --palette; or of black
                        and white ones, CLASS/PHOTOGRAPH.png or PHOTOGRAPH/CLASS.png
writes  OUTPUT/images, OUTPUT/labels, OUTPUT/classes.txt; with --validation the same in OUTPUT/train and OUTPUT/val

Where regions overlap: of COCO the smaller one is seen, and crowds lie below all others; of Label Studio and of black
and white masks the later one; of CVAT that of the higher z_order, then the later one.

Pixels in no region are ignored, which is right where not all is annotated: they may show anything. Where everything
of the classes is annotated, they are something else, and --background-name "background" (or "road", or whatever they
show) makes them a class; a model that is to tell things from their surroundings needs it. Images without a region are
left out in the first case, and all background in the second.

Nothing is written unless all fits. What was stopped is continued by the same command.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import run_program, share, zero_or_more

if TYPE_CHECKING:
    from escnet.data.preparation.own_annotations.survey import ClassCount

# What is imported in functions takes seconds, and --help and mistyped options should not.
NAME = "import_annotations"
# What was told of an import, beside it.
SUMMARY = "import.txt"
FORMATS = ("coco", "label_studio", "cvat", "masks")


def class_name(text: str) -> str:
    """The name of a class, as the `type` of an option.

    Raises:
        ArgumentTypeError: it is empty; argparse puts the name of the option before the message.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a name")
    return " ".join(text.split())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--from", dest="kind", choices=FORMATS, help="format of the annotations (default: found by what is there)")
    add("--annotations", type=Path, required=True, metavar="PATH", help="file, or folder of masks")
    add(
        "--images", type=Path, required=True, metavar="FOLDER", help="photographs; those in folders below are found too"
    )
    add("--output", type=Path, required=True, metavar="FOLDER", help="for the dataset")
    add("--palette", type=Path, metavar="FILE", help="of masks: JSON {name: [R, G, B]} or {name: id}, or such lines")
    unlabelled = parser.add_mutually_exclusive_group()
    unlabelled.add_argument("--background-name", type=class_name, metavar="NAME", help="class of pixels in no region")
    unlabelled.add_argument("--unlabelled", choices=["ignore"], default="ignore", help="ignore them (the default)")
    add(
        "--validation",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="of the images, to hold out, 0.2 say (default: 0)",
    )
    add("--seed", type=zero_or_more, default=0, metavar="N", help="which images are held out (default: 0)")
    add(
        "--frame",
        choices=("upright", "stored"),
        default="upright",
        help="where EXIF data turn a photograph and sizes cannot tell: annotated as viewers show it (the default), or "
        "on the pixels as stored",
    )
    add("--copy", action="store_true", help="copy the photographs instead of linking to them")
    add("--workers", type=zero_or_more, default=0, metavar="N", help="processes (default: one on each core)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    from escnet.data.preparation.ending import prepare_or_refuse

    return prepare_or_refuse(NAME, lambda: bring_in(options), (ValueError, OSError))


def bring_in(options: argparse.Namespace) -> None:
    """Import the annotations, unless that is done.

    Raises:
        ValueError, OSError: they do not fit, or cannot be read, or not be written.
    """
    from escnet.data.preparation.own_annotations.importing import Import, import_annotations
    from escnet.data.preparation.own_annotations.survey import TRAIN, VALIDATION
    from escnet.safe_files import replacing

    start = time.perf_counter()
    asked = Import(
        annotations=options.annotations,
        images=options.images,
        kind=options.kind,
        palette=options.palette,
        background=options.background_name,
        validation=options.validation,
        seed=options.seed,
        frame=options.frame,
        copy=options.copy,
    )
    summary, report = options.output.expanduser() / SUMMARY, []

    def tell(line: str) -> None:
        report.append(line)
        print(line, flush=True)

    counts = import_annotations(asked, options.output, options.workers, lambda line: tell(f"warning: {line}"))
    if counts is not None:
        tell(table(counts))
        with replacing(summary) as temporary:
            temporary.write_text("\n".join(report) + "\n", encoding="utf-8")
    elif summary.is_file():
        print(summary.read_text(encoding="utf-8"), end="")
    state = "is complete already, nothing to do" if counts is None else f"made in {time.perf_counter() - start:.1f} s"
    parts = (f"{options.output}/{TRAIN}", f"{options.output}/{VALIDATION}") if options.validation else (options.output,)
    print(f"{NAME}: {' and '.join(f'folder:{part}' for part in parts)}: {state}")


def table(counts: Sequence[ClassCount]) -> str:
    """The images and pixels of each class."""
    from tabulate import tabulate

    parts = list(counts[0].images)
    total = sum(sum(one.pixels.values()) for one in counts)
    header = [
        "id",
        "class",
        *(f"images {part}".strip() for part in parts),
        *(f"pixels {part}".strip() for part in parts),
    ]
    rows = [
        (
            "" if number == len(counts) - 1 else number,
            one.name,
            *(f"{one.images[part]:,}" for part in parts),
            *(f"{one.pixels[part]:,}" for part in parts),
            f"{sum(one.pixels.values()) / total:.2%}",
        )
        for number, one in enumerate(counts)
    ]
    alignment = ("right", "left", *["right"] * (len(header) - 1))
    return tabulate(rows, [*header, "share"], colalign=alignment, disable_numparse=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
