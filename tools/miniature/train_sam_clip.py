"""Train the small SAM-CLIP through its three stages and write it with a card, as it ships with the package.

    python tools/miniature/train_sam_clip.py --output output/sam_clip.safetensors

The stages are those of configs/mojiscenes/sam_clip_stage{1,2,3}.yaml. They are trained in the folder of
tools/miniature/sam_clip.py's experiments, which shares them, and a stopped call goes on there. Beside the weights comes
a card, the same name with .json: command, seed, time, SHA-256, and the figures of the weights as written, in half
precision: accuracy and AP by the side of the pictures, mIoU of the label maps.
Draw the pictures first: python datasets/prepare_mojireplay.py, and python datasets/prepare_mojiscenes.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escnet.command_line import CommandParser, run_program, safetensors_path

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import Tensor

BENCHMARKS = ("mojiscenes_val_novel[:100]", "mojiscenes_val_base[:100]")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output", type=safetensors_path, required=True, help="where the weights go, .safetensors")
    parser.add_argument("--folder", type=Path, default=Path("output/sam_clip"), help="of all experiments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_config_keys("of all stages")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    # Takes seconds, and --help and mistyped options should not.
    from escnet.training.failures import run_or_refuse

    return run_or_refuse("train_sam_clip", lambda: train(options), (ValueError, FloatingPointError), code=1)


def train(options: argparse.Namespace) -> None:
    """Train the stages that are not trained yet, and write the weights and their card.

    Raises:
        ValueError, WeightsError, FloatingPointError, OSError: something is missing, cannot be trained or not written.
    """
    from escnet.data.benchmarks import data_root
    from escnet.data.registration import dataset_records
    from escnet.miniature.cards import save_with_card
    from escnet.miniature.examination import FOLDER
    from escnet.miniature.judging import check_examination
    from escnet.miniature.sam_clip_experiments import Laboratory
    from escnet.miniature.sam_clip_questions import ALL_STAGES
    from escnet.pretrained.reading import load_checkpoint
    from escnet.safe_files import check_writable
    from escnet.training.failures import leave_tracebacks_to_python

    laboratory = Laboratory(options.folder, tuple(options.opts))
    stages = laboratory.settings(ALL_STAGES, options.seed)
    # What is needed after the training, which is long.
    check_writable(options.output)
    check_examination(data_root() / FOLDER)
    for benchmark in BENCHMARKS:
        dataset_records(benchmark)
    leave_tracebacks_to_python()
    trained = laboratory.train(ALL_STAGES, options.seed)
    weights = load_checkpoint(trained)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    figures = measure(stages[-1], trained, halves, options.folder)
    print(json.dumps(figures, indent=1))
    recipe = {
        "configs": [laboratory.config.format(name) for name, _ in ALL_STAGES.stages()],
        "options": options.opts,
        "seed": options.seed,
        "iterations": [cfg.SOLVER.MAX_ITER for cfg in stages],
    }
    save_with_card(options.output, halves, recipe, figures, sum(laboratory.seconds(ALL_STAGES, options.seed)))


def measure(cfg: CfgNode, trained: Path, weights: dict[str, Tensor], folder: Path) -> dict[str, Any]:
    """Accuracy and AP by the side of the pictures, in percent, and mIoU of the label maps.

    Args:
        cfg: of the last stage.
        trained: its checkpoint.
        weights: the same, rounded; they are judged.
        folder: for what the evaluation writes.
    """
    from escnet.data.benchmarks import data_root
    from escnet.evaluation.loop import evaluate_datasets
    from escnet.meta_arch.sam_clip import LABEL_MAPS
    from escnet.miniature.examination import FOLDER
    from escnet.miniature.judging import SIZES, judge
    from escnet.predictor import Segmenter

    cfg = cfg.clone()
    cfg.DATASETS.TEST, cfg.OUTPUT_DIR = BENCHMARKS, str(folder)
    model = Segmenter.from_config(cfg, str(trained)).model
    model.load_state_dict(weights)
    figures: dict[str, Any] = judge(model, data_root() / FOLDER, SIZES)
    for label_map in LABEL_MAPS:
        model.label_map = label_map
        scores = {name: result["sem_seg"]["mIoU"] / 100 for name, result in evaluate_datasets(cfg, model).items()}
        figures[f"miou, {label_map}"] = {name: round(score, 4) for name, score in scores.items()}
    return figures


if __name__ == "__main__":
    sys.exit(run_program(main))
