r"""Write a trained ESC-Net, SAM-CLIP or CLIP-Guided SAM as files that segment without PyTorch.

    python -m escnet export --config-file configs/escnet/vitb16.yaml --weights model_final.pth --output exported \
        --check-images photo.jpg street.jpg --check-words "cat, grass, sky"
    python -m escnet export ... --output street --words "car, road, sky"     # one file, from image to labels

The folder has ONNX graphs of the image encoder, the segmenter and CLIP's text encoder with its tokenizer, and
card.json, which says what they were made of. `escnet.OnnxSegmenter("exported")` runs them. Before the folder is handed
out, the graphs are run on pictures of several sizes and compared with PyTorch. Exit code: 0 if it is written, 1 if they
do not agree with the model, 2 if it could not be tried (usage, configuration, weights, words, pictures).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from escnet.command_line import CommandParser, program_name, refuse
from escnet.exported.card import FULL, KINDS, ONNX, PRECISIONS

NAME = program_name("export")
PROGRAM = f"{NAME}: error"
# What the exported files are compared with.
FULL_PRECISION = ("MODEL.PRECISION", "fp32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    # These take seconds, and --help and mistyped options should not.
    from escnet.data.images import read_image
    from escnet.export.comparison import made_pictures
    from escnet.export.folder import Check, DisagreementError, ExportForm, export_folder
    from escnet.predictor import Segmenter
    from escnet.pretrained.files import WeightsError
    from escnet.publishing.chosen_models import chosen_config

    try:
        pictures = [read_image(path) for path in args.check_images] or made_pictures()
        cfg = chosen_config(args.model, args.config_file, [*args.opts, *FULL_PRECISION], args.weights)
        segmenter = Segmenter.from_config(cfg, device="cpu")
        words = None if args.words is None else segmenter.vocabulary(args.words, args.background)
        form = ExportForm(args.format, args.precision, args.one_file or words is not None, words)
        check = Check(pictures, segmenter.vocabulary(args.check_words), args.least_agreement)
        made_of = {"model": args.model, "config": args.config_file, "options": args.opts, "weights": args.weights}
        found = export_folder(segmenter, args.output, form, check, made_of, lambda line: print(line, flush=True))
    except DisagreementError as error:
        return refuse(PROGRAM, error, code=1)
    except (WeightsError, ValueError, KeyError, OSError) as error:
        return refuse(PROGRAM, error)
    text = "" if found.text_difference is None else f", of a text feature {found.text_difference:.1e}"
    print(
        f"{args.output}: {found.labels:.3%} of the pixels of {found.pictures} pictures have PyTorch's label (at least "
        f"{found.least_labels:.3%} of each); largest difference of a score {found.score_difference:.1e}{text}"
    )
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=NAME, description=__doc__)
    parser.add_model_options()
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the folder to write; not there yet")
    parser.add_argument("--words", metavar="WORDS", help="to bake in, as --vocabulary of predict: one ONNX file")
    parser.add_argument("--background", default="", metavar="WORDS", help="that count as one class, beside --words")
    parser.add_argument(
        "--one-file",
        action="store_true",
        help="one ONNX file from image and text features to labels, beside the text's",
    )
    parser.add_argument(
        "--format", choices=KINDS, default=ONNX, help="ONNX, or programs of torch.export (default: onnx)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default=FULL, help="of the ONNX files (default: fp32)")
    parser.add_argument(
        "--check-images", nargs="+", default=[], metavar="FILE", help="pictures for the comparison (else made ones)"
    )
    parser.add_argument(
        "--check-words",
        default="cat, dog, person, tree, grass, sky, road, building|edifice, water, car",
        metavar="WORDS",
        help="words for the comparison, where none are baked in",
    )
    parser.add_argument(
        "--least-agreement",
        type=float,
        default=0.999,
        metavar="SHARE",
        help="of the pixels that must have PyTorch's label (default: 0.999)",
    )
    parser.add_config_keys()
    options = parser.parse_args(arguments)
    if not 0 <= options.least_agreement <= 1:
        parser.error(f"--least-agreement is {options.least_agreement:g}; give a share from 0 to 1")
    if options.background and options.words is None:
        parser.error("--background stands beside --words, which are baked in; leave it out")
    if options.format != ONNX and (options.words or options.one_file or options.precision != FULL):
        parser.error("--words, --one-file and --precision are of ONNX; leave them out, or --format pt2")
    return options


if __name__ == "__main__":
    sys.exit(main())
