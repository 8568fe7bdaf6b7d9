r"""Segment photographs into any words: overlays with legends, label maps and JSON for files, folders and globs.

    python -m escnet predict --config-file configs/escnet/vitb16.yaml --weights model_final.pth \
        --input photo.jpg folder "more/*.png" --vocabulary "cat, grass, sky" --output out

For each image NAME it writes NAME_overlay.png, NAME_labels.png (ids into "class_names" of NAME.json) and NAME.json;
with --show-prompts also NAME_prompts.png, with --save-scores NAME_scores.npz. What is there already is skipped. Exit
code: 0 if all images are segmented, 1 if some are not, 2 if none could be tried (usage, configuration, weights,
vocabulary, prompts, no input).

--format also writes, of all that the folder holds, whatever call segmented it: coco: annotations.json; yolo:
labels/NAME.txt and data.yaml; label_studio: label_studio.json; geotiff: NAME_labels.tif of pictures that are GeoTIFFs.
Of a film, these are about its segmented frames, which are then written to images/NAME/000000.jpg and so on; of pictures
in tiles, there are coco and geotiff.
The label map of a GeoTIFF always lies where its picture does, by NAME_labels.pgw and NAME_labels.png.aux.xml (extra:
large). Of a TIFF of several pages, each is a picture: NAME_page0001 and so on.

With --tile, pictures of any size: NAME_labels.tif, with --save-scores NAME_scores.tif (255 is a probability of 1), a
reduced NAME_overlay.png and NAME.json. Of a film, such as clip.mp4: NAME_overlay.mp4, the folder NAME_labels with a PNG
of each frame, NAME_legend.png and NAME.json.

--prompts says what is pointed at in the images, in pixels from the middle of the upper left one, for a system that
takes it: {"photo.jpg": {"cat": {"points": [[120, 80]], "labels": [1], "box": [90, 40, 200, 160], "mask": "cat.png"}}}
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import (
    POINT_DRAWS,
    CommandParser,
    add_batch_size,
    add_point_draws,
    point_draws_options,
    program_name,
    refuse,
)
from escnet.commands.annotation_formats import add_format_options, check_format_options
from escnet.commands.tiles_and_films import add_tile_and_film_options, check_tiles_and_films, label_tiles_or_films
from escnet.own_process import peak_memory

if TYPE_CHECKING:
    from escnet.labelling.engine import Outcome

NAME = program_name("predict")
PROGRAM = f"{NAME}: error"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    # What is imported in functions takes seconds, and --help and mistyped options should not.
    from escnet.config import load_config
    from escnet.labelling.engine import LabellingTask, label_pictures
    from escnet.labelling.formats import check_formats, write_formats
    from escnet.labelling.pictures import find_pictures, listed_suffixes, output_names, prepare_output
    from escnet.labelling.prompts import read_prompts
    from escnet.labelling.video_files import is_video
    from escnet.meta_arch.configured import configured_system, require_key
    from escnet.predictor import Segmenter
    from escnet.pretrained.files import WeightsError
    from escnet.publishing.chosen_models import refuse_weights
    from escnet.publishing.found_models import find_model
    from escnet.safe_files import DiskFullError
    from escnet.vocabulary import Vocabulary, VocabularyError

    try:
        options = point_draws_options(args.point_draws, args.opts)
        pictures = find_pictures(args.input, args.recursive, args.output)
        is_large_or_film = check_tiles_and_films(args, pictures)
        names = output_names(pictures.files)
        prepare_output(pictures.files, names, args.output)
        films = [name for path, name in zip(pictures.files, names, strict=True) if is_video(path)]
        check_format_options(args, bool(films))
        check_formats(args.format, args.output, names, args.overwrite, films)
        # Wrong words and prompts should be told before a model is loaded; and a pipe can be read once only.
        words = Vocabulary.parse(args.vocabulary, args.background)
        if args.model:
            refuse_weights(options)
        found = find_model(args.model) if args.model else None
        full_scores = ["TEST.FULL_SCORES", "True"] if args.save_scores and not is_large_or_film else []
        cfg = load_config(found.cfg if found else args.config_file, [*options, *full_scores])
        if args.point_draws is not None:
            require_key(cfg, POINT_DRAWS, "--point-draws")
        prompts = read_prompts(args.prompts, pictures.files, words, configured_system(cfg))
        if found:
            segmenter = Segmenter.from_model_folder(found, cfg, device=args.device)
        else:
            segmenter = Segmenter.from_config(cfg, args.weights, device=args.device)
        vocabulary = segmenter.vocabulary(words.names, words.background)
    except (WeightsError, ValueError, KeyError, OSError) as error:
        return refuse(PROGRAM, error)
    if pictures.skipped:
        print(f"skipped, as Pillow has no pixels of them: {listed_suffixes(pictures.skipped)}", file=sys.stderr)
    if pictures.outputs:
        print(f"skipped, as an earlier labelling wrote them: {pictures.outputs}", file=sys.stderr)
    task = LabellingTask(
        pictures,
        names,
        args.output,
        vocabulary,
        {
            "config": args.config_file,
            "weights": args.weights,
            **({"model": found.source, "model_sha256": found.sha256} if found else {}),
            "options": options,
            "value_range": args.value_range,
        },
        args.show_prompts,
        args.save_scores,
        args.overwrite,
        tuple(args.value_range) if args.value_range else None,
        batch_size=args.batch_size,
        prompts=prompts,
        **({} if args.max_pixels is None else {"max_pixels": args.max_pixels or None}),
    )
    try:
        if is_large_or_film:
            outcome = label_tiles_or_films(segmenter, task, args, say)
        else:
            outcome = label_pictures(segmenter, task, say)
        for line in write_formats(args.format, task, args.objects, args.with_background):
            say(line)
    except (VocabularyError, ValueError) as error:  # such as a name that is too long for the text encoder
        return refuse(PROGRAM, error)
    except DiskFullError as error:
        return refuse(PROGRAM, f"{error}; what is finished is kept, and the same command goes on from here", code=1)
    except KeyboardInterrupt:
        return refuse(f"\n{NAME}", "stopped; the same command goes on from here", code=130)
    print_summary(outcome, args.output)
    return 1 if outcome.failures else 0


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=NAME, description=__doc__)
    parser.add_model_options()
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="image files, folders, quoted globs")
    parser.add_argument("--recursive", action="store_true", help="also look into folders in the folders")
    parser.add_argument(
        "--vocabulary",
        required=True,
        metavar="WORDS",
        help='"cat, grass, building|edifice", or a file: text with one class per line, or .json',
    )
    parser.add_argument("--background", default="", metavar="WORDS", help='words that become the class "background"')
    parser.add_argument(
        "--prompts",
        default="{}",
        metavar="JSON",
        help="points, boxes and masks of words in the images: a file, or the JSON itself",
    )
    add_point_draws(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    add_format_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="do again what is there already")
    parser.add_argument("--show-prompts", action="store_true", help="also draw correlation maps and pseudo prompts")
    parser.add_argument(
        "--save-scores", action="store_true", help="also write the probabilities of all classes: 2·N·H·W bytes, packed"
    )
    parser.add_argument(
        "--value-range",
        nargs=2,
        type=float,
        metavar=("BLACK", "WHITE"),
        help="values of images that have other ones than their type says, such as 0 4095 (else declared or found)",
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="of an image that is read (default: 179 million; 0: no limit)"
    )
    add_batch_size(parser)
    add_tile_and_film_options(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps ... (else a GPU if there is one)")
    parser.add_config_keys()
    options = parser.parse_args(arguments)
    if options.max_pixels is not None and options.max_pixels < 0:
        parser.error(f"--max-pixels is {options.max_pixels}; give a number of pixels, or 0 for no limit")
    if options.value_range:
        black, white = options.value_range
        if not -math.inf < black < white < math.inf:
            parser.error(f"--value-range is {black:g} {white:g}; black has to be below white, and both finite")
    return options


def print_summary(outcome: Outcome, output: Path) -> None:
    """What came of it, what failed and why, and what it cost."""
    import torch

    before = f", {outcome.done_before} done before" if outcome.done_before else ""
    print(f"\n{len(outcome.seconds)} segmented, {len(outcome.failures)} failed{before}; results are in {output}")
    for path, reason in outcome.failures:
        print(f"  {path}: {reason.removeprefix(f'{path}: ')}")
    figures = [f"peak memory {peak_memory() / 1024:.2f} GiB"]
    if outcome.seconds:
        figures.insert(0, f"{sum(outcome.seconds) / len(outcome.seconds):.2f} s per image")
    if torch.cuda.is_available():
        figures.append(f"of the GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    print(", ".join(figures))


if __name__ == "__main__":
    sys.exit(main())
