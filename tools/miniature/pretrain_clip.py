"""Train the small CLIP of MojiScenes from captions alone, and say what it has learned.

    python tools/miniature/pretrain_clip.py --output output/clip.safetensors

The pictures are drawn once, then the contrastive training runs with progress on the screen and checkpoints beside the
weights; the same command goes on with a training that was stopped. Beside the weights comes a card, the same name with
.json: recipe, command, seed, time, figures on new pictures, SHA-256.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from escnet.command_line import at_least_one, run_program, safetensors_path

if TYPE_CHECKING:
    from torch import Tensor, nn

    from escnet.miniature.clip_recipe import ClipRecipe

# What is imported in functions takes seconds, and --help and mistyped options should not.
TEST_PICTURES, TEST_SEED = 1000, 999
_LEAST_PICTURES = 10


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=safetensors_path, required=True, help="where the weights go, .safetensors")
    parser.add_argument("--steps", type=at_least_one, help="of the training (default: the recipe's)")
    parser.add_argument("--pictures", type=int, help="drawn to train on (default: the recipe's)")
    parser.add_argument("--seed", type=int, help="(default: the recipe's)")
    parser.add_argument("--output-dir", type=Path, help="of checkpoints (default: --output, ending in .training)")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch (default: one for each core)")
    options = parser.parse_args(arguments)
    options.output_dir = options.output_dir or options.output.with_suffix(".training")
    if options.pictures is not None and options.pictures < _LEAST_PICTURES:
        parser.error(f"--pictures is {options.pictures}, but at least {_LEAST_PICTURES} are needed")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    from escnet.miniature.pretraining import pretrain_or_refuse

    return pretrain_or_refuse("pretrain_clip", lambda: pretrain(options), options.output, options.output_dir)


def pretrain(options: argparse.Namespace) -> None:
    """Train, or go on, and write the weights and their card.

    Raises:
        ValueError, WeightsError, FloatingPointError, OSError: something cannot be trained, or not written.
    """
    import torch

    from escnet.layers.clip_image_encoder import DENSE_ATTENTION, ClipImageEncoder
    from escnet.layers.clip_text_encoder import ClipTextEncoder
    from escnet.miniature.cards import save_with_card, training_seconds
    from escnet.miniature.clip_evaluation import evaluate_clip
    from escnet.miniature.clip_recipe import MODEL, ClipRecipe, draw_captioned
    from escnet.pretrained.clip import build_clip
    from escnet.safe_files import check_writable
    from escnet.training.failures import leave_tracebacks_to_python

    if options.threads:
        torch.set_num_threads(options.threads)
    given = {name: getattr(options, name) for name in ("steps", "pictures", "seed")}
    recipe = ClipRecipe(**{name: value for name, value in given.items() if value is not None})
    torch.manual_seed(recipe.seed)
    model, tokenizer = build_clip(MODEL)
    check_writable(options.output)
    leave_tracebacks_to_python()
    train(model, tokenizer, recipe, options.output_dir)
    test = draw_captioned(replace(recipe, pictures=TEST_PICTURES), TEST_SEED)
    # The figures are those of the weights as they are written, in half precision.
    model.half().float()
    text = ClipTextEncoder(model, tokenizer)
    figures = {
        dense: asdict(evaluate_clip(ClipImageEncoder(model.visual, dense), text, test)) for dense in DENSE_ATTENTION
    }
    print(json.dumps(figures, indent=1), flush=True)
    seconds = training_seconds(options.output_dir, recipe.steps)
    save_with_card(options.output, model.state_dict(), asdict(recipe), figures, seconds)


def train(model: nn.Module, tokenizer: Callable[..., Tensor], recipe: ClipRecipe, folder: Path) -> None:
    """Draw the pictures and train on them, with progress on the screen and checkpoints in a folder."""
    from detectron2.utils.logger import setup_logger

    from escnet.miniature.clip_recipe import clip_trainer, draw_captioned

    start = time.perf_counter()
    data = draw_captioned(recipe, seed=recipe.seed)
    print(f"{recipe.pictures} pictures drawn in {time.perf_counter() - start:.0f} s", flush=True)
    trainer = clip_trainer(model, tokenizer, data, recipe, folder)
    setup_logger(str(folder), name="detectron2")
    trainer.resume_or_load()
    trainer.train()
    model.eval()


if __name__ == "__main__":
    sys.exit(run_program(main))
