"""What `predict` does with pictures in tiles and with films: its options, and the calls that they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from escnet.command_line import at_least_one, share

if TYPE_CHECKING:
    from escnet.labelling.engine import LabellingTask, Outcome
    from escnet.labelling.pictures import Pictures
    from escnet.predictor import Segmenter


def add_tile_and_film_options(parser: argparse.ArgumentParser) -> None:
    """Let a command say how large pictures are cut, and which frames of a film are segmented."""
    add = parser.add_argument
    add(
        "--tile",
        type=at_least_one,
        metavar="PIXELS",
        help="segment pictures of any size in tiles of this side, read and written in bands (extra: large)",
    )
    add(
        "--tile-overlap",
        type=share,
        default=1 / 3,
        metavar="SHARE",
        help="the least share that neighbouring tiles have in common (default: 1/3)",
    )
    add("--label-png", action="store_true", help="with --tile, also write the label map as PNG")
    add(
        "--every",
        type=at_least_one,
        default=1,
        metavar="N",
        help="of a film, segment each N-th frame (default: 1; extra: video)",
    )


def check_tiles_and_films(args: argparse.Namespace, pictures: Pictures) -> bool:
    """Whether a call is about tiles or a film, so that `label_tiles_or_films` does it.

    Raises:
        ValueError: options that do not go together, or films beside pictures.
    """
    from escnet.data.pages import Page
    from escnet.labelling.video_files import is_video

    films = [path for path in pictures.files if is_video(path)]
    if args.tile is None and not films:
        if args.every > 1 or args.label_png:
            option = "--every is for films" if args.every > 1 else "--label-png is for --tile"
            raise ValueError(f"{option}; leave it out")
        return False
    what = "films" if films else "--tile"
    if films and len(films) < len(pictures.files):
        raise ValueError(f"{films[0]} is a film, and other inputs are pictures; label them in calls of their own")
    if films and (args.tile or args.label_png or args.value_range or args.save_scores):
        raise ValueError("--tile, --label-png, --value-range and --save-scores are for pictures; leave them out")
    pages = [str(path) for path in pictures.files if isinstance(path, Page)]
    if pages and not films:
        raise ValueError(f"{pages[0]} is one of several pages, which --tile cannot read; save it as a file of its own")
    if args.prompts != "{}" or args.show_prompts:
        raise ValueError(f"--prompts and --show-prompts do not go together with {what}; leave them out")
    return True


def label_tiles_or_films(
    segmenter: Segmenter, task: LabellingTask, args: argparse.Namespace, say: Callable[[str], None]
) -> Outcome:
    """Label pictures in tiles, or films; raises what `label_large_pictures` and `label_videos` do."""
    if args.tile is None:
        from escnet.labelling.video import VideoTask, label_videos

        return label_videos(segmenter, VideoTask(task, args.every), say)
    from escnet.labelling.large_pictures import LargeTask, label_large_pictures
    from escnet.labelling.tiles import Tiling

    tiling = Tiling(args.tile, args.tile_overlap, batch_size=args.batch_size)
    return label_large_pictures(segmenter, LargeTask(task, tiling, args.label_png), say)
