r"""Average the weights of two models: Wise-FT's interpolation, or each weight by its importance.

    python tools/merge_weights.py before.pth tuned.pth --alpha 0.5 --output merged.safetensors
    python tools/merge_weights.py sam_vit_b_01ec64.pth clip_vit_b16.safetensors --alpha 0.3 --output sam_and_clip.pth
    python tools/merge_weights.py A B --importance A_importance.safetensors B_importance.safetensors --output merged.pth

The result is (1 - ALPHA) A + ALPHA B. Two models of one architecture have all tensors in common; of a SAM and a CLIP,
of equal widths and depths, the blocks of the image encoders are averaged, and the rest stays SAM's; a SAM and a
SAM-CLIP give a SAM-CLIP, whose CLIP head stays as it is. Importances are what tools/weight_importance.py writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import refuse, run_program

if TYPE_CHECKING:
    from torch import Tensor

PROGRAM = "merge_weights.py"
# What is imported in functions takes seconds, and --help and mistyped options should not.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse(arguments)
    from escnet.pretrained.files import WeightsError
    from escnet.pretrained.writing import check_suffix, write_weights

    try:
        check_suffix(args.output)
        if args.output.resolve() in (Path(args.a).resolve(), Path(args.b).resolve()):
            raise WeightsError(f"{args.output}: is one of the two models; give the result another name")
        weights, what = merge(args)
        notes = {"a": Path(args.a).name, "b": Path(args.b).name, "alpha": f"{args.alpha:g}", "merged": what}
        write_weights(args.output, weights, notes)
    except (ValueError, WeightsError, OSError) as error:
        return refuse(PROGRAM, error)
    except KeyboardInterrupt:
        return refuse(f"\n{PROGRAM}", "stopped; nothing was written", code=130)
    print(f"{args.output}: {what}, alpha {args.alpha:g}, {len(weights)} tensors")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", help="weights, as a path or shipped:NAME")
    parser.add_argument("b", metavar="B", help="weights of the same architecture, or as said above")
    parser.add_argument("--alpha", type=float, default=0.5, metavar="X", help="share of B, 0 to 1 (default 0.5)")
    parser.add_argument("--importance", nargs=2, metavar=("A", "B"), help="files with the importance of each weight")
    parser.add_argument(
        "--normalise", action="store_true", help="scale each importance to a mean of 1, where their losses differ"
    )
    parser.add_argument(
        "--clip-head-width", type=int, default=64, metavar="N", help="channels of a head of CLIP's tower (default 64)"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=".safetensors or .pth")
    args = parser.parse_args(arguments)
    if not 0 <= args.alpha <= 1:
        parser.error(f"--alpha is {args.alpha:g}; it has to be between 0, A alone, and 1, B alone")
    if args.normalise and not args.importance:
        parser.error("--normalise is of the files of --importance; give them, or leave it out")
    return args


def merge(args: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """The average, and in words what was averaged.

    Raises:
        WeightsError: a file cannot be read, or the models have no common part.
    """
    from escnet.pretrained.common_parts import average_sam_and_clip, is_clip, is_sam, sam_as_sam_clip
    from escnet.pretrained.files import WeightsError
    from escnet.pretrained.merging import interpolate, unit_mean, weighted_average
    from escnet.pretrained.reading import read_weights

    a, b = read_weights(args.a), read_weights(args.b)
    if is_clip(a) and is_sam(b):
        raise WeightsError(f"{args.a} is a CLIP and {args.b} a SAM; name the SAM first, since the result is one")
    if is_sam(a) and is_clip(b):
        if args.importance:
            raise WeightsError("a SAM and a CLIP are averaged without importances; leave --importance out")
        return average_sam_and_clip(a, b, args.alpha, args.clip_head_width), "SAM with CLIP's blocks averaged in"
    if is_sam(a) and not is_sam(b):
        a = sam_as_sam_clip(a, b)
    if not args.importance:
        return interpolate(a, b, args.alpha), "all tensors interpolated"
    importances = [read_weights(file) for file in args.importance]
    if args.normalise:
        importances = [unit_mean(importance) for importance in importances]
    return weighted_average(a, b, *importances, args.alpha), "all tensors averaged by importance"


if __name__ == "__main__":
    sys.exit(run_program(main))
