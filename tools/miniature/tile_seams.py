"""Measure the seams that tiles leave on mosaics of miniature pictures, by overlap and weighting.

    python tools/miniature/tile_seams.py --seeds 0 1 2

Draw the pictures first: python datasets/prepare_mojiscenes.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from escnet.command_line import CommandParser, at_least_one, print_table, refuse, run_program, share

if TYPE_CHECKING:
    from escnet.evaluation.runs.evaluation_data import EvaluationData
    from escnet.miniature.tile_seams import Seams
    from escnet.predictor import Segmenter

HEADER = (
    "overlap, weights",
    "tiles",
    "changes at borders",
    "elsewhere",
    "ratio",
    "as TEST.SLIDING",
    "as in one pass",
    "accuracy",
    "mIoU",
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config-file", default="configs/mojiscenes/escnet.yaml")
    parser.add_argument("--weights", default="shipped:esc_net", help='("": none but those of the configuration)')
    parser.add_argument("--dataset", default="mojiscenes_val_all")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="of the mosaics, one each")
    parser.add_argument(
        "--mosaic", nargs=2, type=at_least_one, default=(3, 3), metavar=("ROWS", "COLUMNS"), help="of so many pictures"
    )
    parser.add_argument(
        "--overlaps", nargs="+", type=share, default=(0, 0.25, 1 / 3, 0.5), metavar="SHARE", help="of tiles"
    )
    parser.add_argument("--scale", type=at_least_one, default=1, help="tiles are so many pictures wide (default: 1)")
    parser.add_argument(
        "--whole",
        nargs=3,
        type=at_least_one,
        metavar=("ROWS", "COLUMNS", "TILE"),
        help="instead: compare tiles of so many pixels with the same sums held in memory, on a mosaic of such a size",
    )
    parser.add_config_keys()
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.miniature.tile_seams import load, mean_seams, measure_seams

    results: list[list[Seams]] = []
    try:
        segmenter, data = load(options.config_file, options.weights, options.dataset, options.opts)
        for seed in options.seeds:
            if options.whole:
                compare_with_whole(segmenter, data, seed, *options.whole)
                continue
            ways = measure_seams(segmenter, data, seed, options.scale, tuple(options.mosaic), options.overlaps)
            results.append(list(ways))
            print_table(
                f"{len(results)} mosaics, {options.weights}", HEADER, [row(*way) for way in mean_seams(results)]
            )
    except (ValueError, KeyError, OSError) as error:
        return refuse("tile_seams", error)
    return 0


def compare_with_whole(
    segmenter: Segmenter, data: EvaluationData, seed: int, rows: int, columns: int, tile: int
) -> None:
    """Print how many pixels of a mosaic have other labels than with everything in memory."""
    from escnet.labelling.tiles import Tiling
    from escnet.miniature.tile_seams import differing_pixels, make_mosaic

    pixels = make_mosaic(data, seed, rows, columns).pixels
    differing, classes = differing_pixels(segmenter, pixels, data.space.vocabulary, Tiling(tile))
    size = " x ".join(map(str, pixels.shape[:2]))
    print(f"mosaic {seed}, {size}, tiles of {tile}, {classes} classes: {differing} labels differ", flush=True)


def row(way: Seams, deviation: float) -> tuple[str, ...]:
    """A row of the table: means over the mosaics, and the standard deviation of mIoU."""
    return (
        way.name,
        str(way.tiles),
        f"{way.at_borders:.2%}",
        f"{way.elsewhere:.2%}",
        f"{way.at_borders / way.elsewhere:.2f}",
        f"{way.agreement:.1%}",
        f"{way.agreement_in_one_pass:.1%}",
        f"{way.accuracy:.1%}",
        f"{100 * way.miou:.1f} ± {100 * deviation:.1f}",
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
