r"""Fine-tune a model on one's own labelled images, and judge it before and after, on one page.

    python -m escnet tune --config-file configs/escnet/vitb16.yaml --weights model_final.pth \
        --data folder:/data/streets/train --test folder:/data/streets/val --output output/streets

A share of the images is held out; the training ends where they show no gain any more, and the weights that were best on
them are the result: OUTPUT/training/model_final.pth. The page is OUTPUT/index.html. A stopped call goes on. What begins
with a published model, --model shipped:esc_net or hub:owner/name, ends as one too: OUTPUT/model.
datasets/import_annotations.py makes folders of COCO JSON, Label Studio, CVAT and masks.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from escnet.command_line import CommandParser, at_least_one, positive_number, program_name, share, zero_or_more

PROGRAM = program_name("tune")
# Below the output folder.
MODEL = "model"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args, start = parse(arguments), time.perf_counter()
    # What is imported in functions takes seconds, and --help and mistyped options should not.
    from detectron2.utils.logger import setup_logger

    from escnet.training.failures import leave_tracebacks_to_python, run_or_refuse

    for name in ("escnet", "detectron2"):
        setup_logger(name=name).setLevel(logging.WARNING)
    setup_logger(name="detectron2.utils.events").setLevel(logging.INFO)  # the progress of the training
    leave_tracebacks_to_python()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {text}", flush=True)

    def work() -> None:
        from escnet.config import load_usable_config
        from escnet.data.benchmarks import full_dataset_name
        from escnet.pretrained.reading import load_checkpoint
        from escnet.publishing.chosen_models import chosen_config
        from escnet.publishing.model_folder import write_model_folder
        from escnet.publishing.portable_config import portable_yaml
        from escnet.tuning.report import write_page
        from escnet.tuning.tuning import TuningTask, tune

        cfg = load_usable_config(chosen_config(args.model, args.config_file, args.opts, args.weights))
        task = TuningTask(
            full_dataset_name(args.data),
            args.output,
            full_dataset_name(args.test) if args.test else "",
            args.images,
            args.validation,
            args.iterations,
            args.period,
            args.patience,
            args.learning_rate or 0.0,
        )
        if args.model:
            portable_yaml(cfg)  # What cannot be written as a model should be told before the training.
        tuning = tune(cfg, task, say)
        weights = tuning.cfg.MODEL.WEIGHTS
        if args.model:
            say(f"writing the model to {args.output / MODEL}")
            write_model_folder(args.output / MODEL, tuning.cfg, load_checkpoint(weights), overwrite=True)
        say("drawing the page")
        page = write_page(tuning, predict_command(args, weights, tuning.judged.class_names))
        before, after = tuning.miou()
        on = f"{len(tuning.judged.records)} {'test' if args.test else 'held-out'} images"
        print(
            f"\nmIoU {before:.1f} before, {after:.1f} after, on {on}; {tuning.iterations} iterations, "
            f"{tuning.seconds:.0f} s of training\nweights: {weights}\npage: {page}",
            flush=True,
        )

    return run_or_refuse(PROGRAM, work, (ValueError, FloatingPointError))


def predict_command(args: argparse.Namespace, weights: str, names: Sequence[str]) -> str:
    """The command that segments pictures with the tuned model."""
    words = ", ".join(name.replace(",", "|") for name in names)
    model, opts = ["--config-file", str(args.config_file), "--weights", weights], args.opts
    if args.model:
        # Its configuration has what the options set.
        model, opts = ["--model", str(args.output / MODEL)], []
    command = ["python", "-m", "escnet", "predict", *model]
    return shlex.join([*command, "--input", "PICTURES", "--vocabulary", words, "--output", "out", *opts])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_model_options("to begin with: a checkpoint, or a published model (else MODEL.WEIGHTS)")
    parser.add_argument("--data", required=True, metavar="DATASET", help="labelled images: folder:PATH, or a name")
    parser.add_argument(
        "--test", default="", metavar="DATASET", help="labelled images that judge (else those held out of --data)"
    )
    parser.add_argument(
        "--images", type=float, default=0, metavar="N", help="so many of the images; below 1 a share (default: all)"
    )
    parser.add_argument(
        "--validation", type=share, default=0.2, metavar="SHARE", help="of them that is held out (default: %(default)s)"
    )
    parser.add_argument(
        "--iterations", type=at_least_one, default=1000, metavar="N", help="at most (default: %(default)s)"
    )
    parser.add_argument(
        "--period", type=at_least_one, default=50, metavar="N", help="between two looks at them (default: %(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=zero_or_more,
        default=6,
        metavar="N",
        help="looks in a row without gain that end the training (default: %(default)s; 0: none do)",
    )
    parser.add_argument("--learning-rate", type=positive_number, metavar="X", help="of new parts (else SOLVER.BASE_LR)")
    parser.add_argument(
        "--output", type=Path, default=Path("output/tuned"), metavar="DIR", help="(default %(default)s)"
    )
    parser.add_config_keys()
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
