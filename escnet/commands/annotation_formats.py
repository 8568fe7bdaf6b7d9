"""What `predict` writes in the formats of other tools: its options, and whether they go together."""

from __future__ import annotations

import argparse

from escnet.annotations import FORMATS

# Those of masks; a GeoTIFF has the labels of all pixels.
_OF_MASKS = ("coco", "yolo", "label_studio")
# Those of which the label map of a picture in tiles can be made without holding it.
_OF_TILES = ("coco", "geotiff")


def add_format_options(parser: argparse.ArgumentParser) -> None:
    """Let a command say which formats it writes, and of which masks."""
    add = parser.add_argument
    add(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=[],
        metavar="FORMAT",
        help=f"also write {', '.join(FORMATS)}: one or several",
    )
    add(
        "--objects",
        action="store_true",
        help="in COCO, a mask for each connected part (as YOLO and Label Studio have it), else for each class",
    )
    add(
        "--with-background",
        action="store_true",
        help="also masks of the class of the --background words, which the formats else leave out",
    )


def check_format_options(args: argparse.Namespace, films: bool) -> None:
    """See that the options of formats go together, and with tiles or films.

    Raises:
        ValueError: they do not; the message says what to change.
    """
    if args.objects and "coco" not in args.format:
        raise ValueError("--objects is for --format coco; leave it out, or write that format")
    if args.with_background:
        if not set(_OF_MASKS) & set(args.format):
            raise ValueError(f"--with-background is for --format {', '.join(_OF_MASKS)}; leave it out, or write one")
        if not args.background:
            raise ValueError("--with-background needs --background WORDS, of which the class is made")
    if films and "geotiff" in args.format:
        raise ValueError("--format geotiff is for pictures, and a film lies nowhere on the Earth; leave it out")
    wrong = [kind for kind in args.format if kind not in _OF_TILES]
    if args.tile is not None and wrong:
        raise ValueError(
            f"--format {wrong[0]} does not go together with --tile, as its polygons are made of a whole label map in "
            f"memory; take {' or '.join(_OF_TILES)}, or cut the picture into files and segment these"
        )
