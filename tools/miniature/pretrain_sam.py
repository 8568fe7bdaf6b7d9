"""Train the small SAM of MojiScenes from prompts alone, on glyphs without names, and say what it has learned.

    python tools/miniature/pretrain_sam.py --output output/sam.safetensors

The pictures are drawn once, then the training runs with progress on the screen and checkpoints beside the weights; the
same command goes on with a training that was stopped. Beside the weights comes a card, the same name with .json:
recipe, command, seed, time, figures on new pictures of base and novel glyphs, SHA-256. Both are written at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import run_program, safetensors_path

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from escnet.miniature.sam_recipe import SamRecipe

# What is imported in functions takes seconds, and --help and mistyped options should not.
MODEL = "moji"
TEST_SETS, TEST_SEED = ("base", "novel", "unnamed"), 999


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=safetensors_path, required=True, help="where the weights go, .safetensors")
    parser.add_argument("--steps", type=int, help="of the training (default: the recipe's)")
    parser.add_argument("--pictures", type=int, help="drawn to train on (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, help="(default: the recipe's)")
    parser.add_argument("--learning-rate", type=float, help="(default: the recipe's)")
    parser.add_argument("--seed", type=int, help="(default: the recipe's)")
    parser.add_argument("--test-pictures", type=int, default=300, help="of each set of glyphs, to be measured on")
    parser.add_argument("--output-dir", type=Path, help="of checkpoints (default: --output, ending in .training)")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch (default: one for each core)")
    options = parser.parse_args(arguments)
    options.output_dir = options.output_dir or options.output.with_suffix(".training")
    for name in ("steps", "pictures", "batch_size", "test_pictures"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} has to be at least 1, got {getattr(options, name)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    from escnet.miniature.pretraining import pretrain_or_refuse

    return pretrain_or_refuse("pretrain_sam", lambda: pretrain(options), options.output, options.output_dir)


def pretrain(options: argparse.Namespace) -> None:
    """Train, or go on, and write the weights and their card.

    Raises:
        ValueError, WeightsError, FloatingPointError, OSError: something cannot be trained, or not written.
    """
    import torch

    from escnet.miniature.cards import save_with_card, training_seconds
    from escnet.miniature.sam_recipe import SamRecipe
    from escnet.pretrained.sam import build_sam
    from escnet.safe_files import check_writable
    from escnet.training.failures import leave_tracebacks_to_python

    if options.threads:
        torch.set_num_threads(options.threads)
    given = {key: getattr(options, key) for key in ("steps", "pictures", "batch_size", "learning_rate", "seed")}
    recipe = SamRecipe(**{key: value for key, value in given.items() if value is not None})
    torch.manual_seed(recipe.seed)
    sam = build_sam(MODEL)
    check_writable(options.output)
    leave_tracebacks_to_python()
    train(sam, recipe, options.output_dir)
    figures = measure(sam, recipe, options.test_pictures)
    print(json.dumps(figures, indent=1), flush=True)
    seconds = training_seconds(options.output_dir, recipe.steps)
    save_with_card(options.output, sam.state_dict(), asdict(recipe), figures, seconds)


def train(sam: Sam, recipe: SamRecipe, folder: Path) -> None:
    """Draw the pictures and train on them, with progress on the screen and checkpoints in a folder."""
    from detectron2.utils.logger import setup_logger

    from escnet.miniature.sam_recipe import draw_masked, sam_trainer

    start = time.perf_counter()
    data = draw_masked("unnamed", recipe.pictures, recipe.seed, recipe.style, recipe.least_area)
    print(f"{recipe.pictures} pictures drawn in {time.perf_counter() - start:.0f} s", flush=True)
    trainer = sam_trainer(sam, data, recipe, folder)
    setup_logger(str(folder), name="detectron2")
    trainer.resume_or_load()
    trainer.train()
    sam.eval()


def measure(sam: Sam, recipe: SamRecipe, pictures: int) -> dict[str, dict[str, float]]:
    """Mean IoU on new pictures of each set of glyphs, of the weights as they are written, in half precision."""
    from escnet.evaluation.prompting import evaluate_prompting
    from escnet.meta_arch.sam import PromptableSam
    from escnet.miniature.sam_recipe import GROUND, draw_masked

    model, figures = PromptableSam(sam.half().float()), {}
    for glyph_set in TEST_SETS:
        data = draw_masked(glyph_set, pictures, TEST_SEED, recipe.style, recipe.least_area)
        figures[glyph_set] = evaluate_prompting(model, data.images, data.regions, GROUND)
    return figures


if __name__ == "__main__":
    sys.exit(run_program(main))
