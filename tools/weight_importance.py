r"""Estimate how much a model's representation depends on each of its weights, for tools/merge_weights.py --importance.

    python tools/weight_importance.py --config-file configs/sam_clip/base.yaml --weights model_final.pth \
        --input photographs --limit 500 --image-size 448 --output importance.safetensors

The importance of a weight is the mean over pictures of the squared derivative of ½ ‖hidden state‖² (Aljundi et al.,
"Memory aware synapses", which has the magnitude where this has the square). It needs no labels. The file has a tensor
for each parameter of the model, 0 where the hidden state does not depend on it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import CommandParser, refuse, run_program

if TYPE_CHECKING:
    from torch import Tensor

PROGRAM = "weight_importance.py"
# What is imported in functions takes seconds, and --help and mistyped options should not.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.pretrained.files import WeightsError
    from escnet.pretrained.writing import check_suffix, write_weights

    try:
        check_suffix(args.output)
        files = pictures(args)
        importance = estimate(args, files)
        write_weights(args.output, importance, {"representation": args.features, "pictures": str(len(files))})
    except (ValueError, WeightsError, OSError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        return refuse(f"\n{PROGRAM}", "stopped; nothing was written", code=130)
    reached = sum(bool(value.any()) for value in importance.values())
    print(f"{args.output}: {len(files)} pictures; {reached} of {len(importance)} tensors have an importance above 0")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_model_options()
    parser.add_argument(
        "--features",
        default="both",
        metavar="NAME",
        help="hidden state: backbone, head or both (default); not text or all, as for tools/probe.py: features in text "
        "space have length 1 with any weights",
    )
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="image files, folders, quoted globs")
    parser.add_argument("--limit", type=int, metavar="K", help="only the first K pictures")
    parser.add_argument("--image-size", type=int, default=448, metavar="S", help="pictures become S x S (default 448)")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=".safetensors or .pth")
    parser.add_config_keys()
    args = parser.parse_args(arguments)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit is {args.limit}; at least one picture is needed")
    return args


def pictures(args: argparse.Namespace) -> list[str]:
    """The paths of the pictures.

    Raises:
        LabellingError: there is none, or an input matches nothing.
    """
    from escnet.labelling.pictures import LabellingError, find_pictures

    found = find_pictures(args.input)
    if found.missing:
        raise LabellingError(f"{found.missing[0]}: matches nothing; check --input")
    return [str(file) for file in found.files[: args.limit]]


def estimate(args: argparse.Namespace, files: Sequence[str]) -> dict[str, Tensor]:
    """The importance of each parameter, by its name.

    Raises:
        ValueError, WeightsError: the model, its weights or a picture cannot be used.
    """
    from escnet.config import check_device
    from escnet.evaluation.answering_models import load_answering_model
    from escnet.evaluation.probing.importance import hidden_state_importance
    from escnet.meta_arch.representation import RepresentingModel
    from escnet.publishing.chosen_models import chosen_config

    cfg = chosen_config(args.model, args.config_file, args.opts, args.weights)
    check_device(cfg)
    model = load_answering_model(cfg, RepresentingModel)
    return hidden_state_importance(model, files, args.features, args.image_size)


if __name__ == "__main__":
    sys.exit(run_program(main))
