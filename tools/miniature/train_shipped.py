"""Train a small model on MojiScenes by its configuration and write it with a card, as it ships with the package.

    python tools/miniature/train_shipped.py --output output/esc_net.safetensors SOLVER.MAX_ITER 2000
    python tools/miniature/train_shipped.py --output output/clip_guided_sam.safetensors \
        --config-file configs/mojiscenes/clip_guided_sam.yaml PROMPTABLE.PROMPTS mixed SOLVER.MAX_ITER 2000

Training and checkpoints go to OUTPUT_DIR, and a stopped call goes on there. Beside the weights comes a card, the same
name with .json: options, command, seed, time, SHA-256, and the figures of the weights as written, in half precision.
Draw the pictures first: python datasets/prepare_mojiscenes.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from escnet.command_line import CommandParser, run_program, safetensors_path

BENCHMARKS = ("mojiscenes_val_novel", "mojiscenes_val_base", "mojiscenes_val_all", "mojiscenes_val_847[:50]")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output", type=safetensors_path, required=True, help="where the weights go, .safetensors")
    parser.add_argument("--config-file", default="configs/mojiscenes/escnet.yaml")
    parser.add_config_keys("over the configuration")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.training.failures import run_or_refuse

    return run_or_refuse("train_shipped", lambda: train(options), (ValueError, FloatingPointError), code=1)


def train(options: argparse.Namespace) -> None:
    """Train, or go on, and write the weights and their card.

    Raises:
        ValueError, WeightsError, FloatingPointError, OSError: something is missing, cannot be trained or not written.
    """
    from detectron2.utils.logger import setup_logger

    from escnet.config import load_config
    from escnet.data.registration import dataset_records
    from escnet.evaluation.loop import evaluate_datasets
    from escnet.miniature.cards import save_with_card, training_seconds
    from escnet.pretrained.reading import load_checkpoint
    from escnet.safe_files import check_writable
    from escnet.training.failures import leave_tracebacks_to_python
    from escnet.training.tasks.build import build_trainer

    cfg = load_config(options.config_file, options.opts)
    # What is needed after the training, which is long.
    check_writable(options.output)
    for benchmark in BENCHMARKS:
        dataset_records(benchmark)
    setup_logger(cfg.OUTPUT_DIR, name="detectron2")
    leave_tracebacks_to_python()
    cfg.DATASETS.TEST = ()
    trainer = build_trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    model = trainer.checkpointer.model.eval()
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in load_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth").items()
    }
    model.load_state_dict(halves)
    cfg.DATASETS.TEST = BENCHMARKS
    scores = {name: result["sem_seg"]["mIoU"] / 100 for name, result in evaluate_datasets(cfg, model).items()}
    recipe = {
        "config": options.config_file,
        "options": options.opts,
        "seed": cfg.SEED,
        "iterations": cfg.SOLVER.MAX_ITER,
    }
    figures = {"miou": {name: round(score, 4) for name, score in scores.items()}}
    print(json.dumps(figures, indent=1))
    seconds = training_seconds(Path(cfg.OUTPUT_DIR), cfg.SOLVER.MAX_ITER)
    save_with_card(options.output, halves, recipe, figures, seconds)


if __name__ == "__main__":
    sys.exit(run_program(main))
