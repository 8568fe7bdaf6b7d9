r"""Open the page: a picture and words in a browser, masks over the picture; on this machine alone.

    python -m escnet app
    python -m escnet app --model hub:owner/name
    python -m escnet app --config-file configs/escnet/vitb16.yaml --weights model_final.pth

The small models that ship with the package are offered, and before them the model that is named. Exit code: 0 when
the page is closed with Ctrl-C, 2 if it could not be opened.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from escnet.app.limits import Limits
from escnet.app.models import LoadedModels, offered_models
from escnet.command_line import CommandParser, at_least_one, program_name, refuse

NAME = program_name("app")
PROGRAM = f"{NAME}: error"
LOCAL = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    # What is imported in functions takes seconds, and --help and mistyped options should not.
    from escnet.app.serving import AppMissingError, require_gradio, serving

    limits = Limits(upload_megabytes=args.max_upload, pixels=args.max_pixels, words=args.max_words)
    try:
        require_gradio()
        offered = offered_models(args.config_file, args.weights, args.opts, args.model)
        models = LoadedModels(offered, args.device)
        # A wrong path should be told here, not to the first user.
        models.segmenter(offered[0].name)
        with serving(models, limits, args.host, args.port) as served:
            print(f"The page is at {served.url} (Ctrl-C closes it)", flush=True)
            if args.host not in LOCAL:
                print("Who can reach this machine can use it, without a password.", file=sys.stderr, flush=True)
            served.wait()
    except (AppMissingError, ValueError, KeyError, OSError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        pass
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    limits = Limits()
    parser = CommandParser(prog=NAME, description=__doc__)
    add = parser.add_argument
    parser.add_model_options(required=False)
    add("--device", help="cpu, cuda, cuda:1, mps ... (else a GPU if there is one)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=at_least_one, metavar="N", help="to listen on (default: the first free one from 7860)")
    add(
        "--max-upload",
        type=at_least_one,
        default=limits.upload_megabytes,
        metavar="MIB",
        help=f"the largest file of a picture (default: {limits.upload_megabytes})",
    )
    add(
        "--max-pixels",
        type=at_least_one,
        default=limits.pixels,
        metavar="N",
        help=f"larger pictures are shrunk to so many (default: {limits.pixels})",
    )
    add(
        "--max-words",
        type=at_least_one,
        default=limits.words,
        metavar="N",
        help=f"classes and background words together (default: {limits.words})",
    )
    parser.add_config_keys("configuration keys of your own model, at the end")
    options = parser.parse_args(arguments)
    if options.model is None and options.config_file is None and (options.weights or options.opts):
        parser.error("--weights and KEY VALUE are of a model of your own; name its --config-file, or --model, too")
    return options


if __name__ == "__main__":
    sys.exit(main())
