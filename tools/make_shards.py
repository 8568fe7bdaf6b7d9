#!/usr/bin/env python3
"""Make image shards for distillation: the pictures of folders as tar archives in WebDataset's convention.

    python tools/make_shards.py photographs more --output shards
    python tools/make_shards.py sa1b --output sa1b_shards --masks sa1b --size 1024
    python tools/make_shards.py images --output shards --masks regions:panoptic_pngs
    python tools/make_shards.py --index foreign_shards

Pictures are looked for in the folders and the folders in them, checked, shuffled, and stored as they are (JPEG, PNG,
WebP) or as JPEG. With --masks sa1b, NAME.json beside NAME.jpg holds the masks, as SA-1B publishes them; with
regions:FOLDER, FOLDER has a PNG of the same path and name for each picture, in which each value is a region (8 or 16
bits, or colours as COCO's panoptic PNGs). The same pictures, options and seed give the same bytes. The same command
goes on where it was stopped; index.json, without which shards are not read, comes last. --index writes it for shards
that are there. Exit code: 0 if all pictures are stored, 1 if some are not (they are named), 2 if nothing can be done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import refuse, run_program

if TYPE_CHECKING:
    from escnet.data.shards.storing import Storing

PROGRAM = "make_shards.py"
REGIONS = "regions:"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    # What is imported in functions takes seconds, and --help and mistyped options should not.
    from escnet.data.shards.accounting import ShardError
    from escnet.safe_files import DiskFullError

    try:
        return index(args.index) if args.index else make(args)
    except DiskFullError as error:
        return refuse(PROGRAM, f"{error}; what is finished is kept", code=1)
    except (ShardError, OSError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        return refuse(f"\n{PROGRAM}", "stopped; the same command goes on from here", code=130)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", nargs="*", type=Path, metavar="FOLDER", help="folders with pictures")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the shards")
    parser.add_argument("--masks", default="", metavar="KIND", help="sa1b, or regions:FOLDER (default: no masks)")
    parser.add_argument(
        "--ignore",
        nargs="*",
        type=int,
        metavar="VALUE",
        help="values that are no region (default: 0, and 255 of 8 bits or 65535 of 16 bits)",
    )
    parser.add_argument("--samples-per-shard", type=int, default=1000, metavar="N", help="(default: 1000)")
    parser.add_argument(
        "--size", type=int, default=0, metavar="PX", help="bring the shorter side down to this (default: leave it)"
    )
    parser.add_argument("--quality", type=int, default=90, metavar="Q", help="of JPEGs that are encoded (default: 90)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of the pictures (default: 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="(default: one for each core)")
    parser.add_argument("--index", type=Path, metavar="DIR", help="only write the index of the shards in this folder")
    args = parser.parse_args(arguments)
    fault = find_fault(args)
    if fault:
        parser.error(fault)
    return args


def find_fault(args: argparse.Namespace) -> str:
    """What is wrong with the options; "" if nothing is."""
    if args.index:
        return "--index takes no other folders" if args.input or args.output else ""
    if not args.input or not args.output:
        return "folders with pictures and --output are needed, or --index"
    if args.masks not in ("", "sa1b") and (not args.masks.startswith(REGIONS) or args.masks == REGIONS):
        return f"--masks is {args.masks}; it is sa1b, or regions:FOLDER"
    read = [*args.input, *([Path(args.masks.removeprefix(REGIONS))] if args.masks.startswith(REGIONS) else [])]
    if args.output.resolve() in [folder.resolve() for folder in read]:
        return f"--output is {args.output}, which is read; give the shards a folder of their own"
    if args.ignore is not None and not args.masks.startswith(REGIONS):
        return "--ignore goes with --masks regions:FOLDER"
    if args.samples_per_shard < 1 or args.workers < 1 or args.seed < 0:
        return "--samples-per-shard and --workers are 1 or more, and --seed is not negative"
    if args.size and args.size < 16:
        return f"--size is {args.size}; it is 16 pixels or more"
    return "" if 1 <= args.quality <= 100 else f"--quality is {args.quality}; it is 1 to 100"


def make(args: argparse.Namespace) -> int:
    """Make the shards.

    Raises:
        ShardError, OSError: nothing can be done.
    """
    from escnet.data.shards import making
    from escnet.data.shards.pictures import find_pictures
    from escnet.progress import progress_bar
    from escnet.worker_pool import worker_pool

    storing = read_storing(args)  # refuses before pictures are looked for, of which there may be millions
    pictures = find_pictures(args.input, args.seed)
    plan = making.Making(pictures, args.output, args.samples_per_shard, storing, args.seed)
    with (
        progress_bar(total=len(pictures), desc=str(args.output), unit="picture") as bar,
        worker_pool(args.workers, preload=making.__name__) as pool,
    ):
        outcome = making.make_shards(plan, pool, bar.update)
    done = f" ({outcome.before} dealt with before)" if outcome.before else ""
    print(
        f"{outcome.samples} pictures in {outcome.shards} shards, {outcome.size / 2**20:.1f} MiB; "
        f"{len(outcome.skipped)} skipped{done}"
    )
    for path, reason in outcome.skipped:
        print(f"  {path}: {reason}")
    if outcome.skipped:
        print("to try them again, make the shards in another folder")
    return 1 if outcome.skipped else 0


def read_storing(args: argparse.Namespace) -> Storing:
    """How pictures are stored.

    Raises:
        ShardError: the folder of regions is missing.
    """
    from escnet.data.shards.accounting import ShardError
    from escnet.data.shards.storing import Storing

    masks = args.masks.removeprefix(REGIONS)
    if args.masks.startswith(REGIONS) and not Path(masks).is_dir():
        raise ShardError(f"--masks {args.masks}: there is no folder {masks}")
    return Storing(masks, None if args.ignore is None else tuple(args.ignore), args.size, args.quality)


def index(folder: Path) -> int:
    """Write the index of shards that are there.

    Raises:
        ShardError, OSError: nothing can be done.
    """
    from escnet.data.shards.indexing import index_folder, list_shards
    from escnet.progress import progress_bar

    with progress_bar(total=len(list_shards(folder)), desc=str(folder), unit="shard") as bar:
        found = index_folder(folder, bar.update)
    print(f"{sum(shard.samples for shard in found.shards)} samples of {found.kind} in {len(found.shards)} shards")
    if found.others:
        counts = ", ".join(f"{count} .{suffix}" for suffix, count in found.others.most_common())
        print(f"members that are not read: {counts}")
    for name, fault in found.damaged:
        print(f"  {name}: breaks off ({fault}); what is before counts")
    return 1 if found.damaged else 0


if __name__ == "__main__":
    sys.exit(run_program(main))
