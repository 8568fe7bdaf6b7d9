"""Train the small CLIP of MojiScenes from captions alone, and say what it has learned.

    python tools/mini/pretrain_clip.py --output output/clip.safetensors

The pictures are drawn once, then the contrastive training runs with progress on the screen. Beside the weights comes a
card, the same name with .json: recipe, command, seed, time, figures on new pictures, SHA-256.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from escnet.data.errors import DatasetError
from escnet.layers.clip_encoder import ClipImageEncoder, ClipTextEncoder
from escnet.mini.cards import save_with_card
from escnet.mini.clip_evaluation import evaluate_clip
from escnet.mini.clip_pretraining import HIGH, LOW, MODEL, ClipRecipe, Stage, draw_captioned, train_clip
from escnet.weights import build_clip

TEST_PICTURES, TEST_SEED = 1000, 999


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="where the weights go, a .safetensors file")
    parser.add_argument("--seed", type=int, default=ClipRecipe.seed)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps and pictures, for a trial")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch (default: one for each core)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = ClipRecipe(stages=tuple(shortened(stage, options.share) for stage in (LOW, HIGH)), seed=options.seed)
    start = time.perf_counter()
    torch.manual_seed(recipe.seed)
    model, tokenizer = build_clip(MODEL)
    try:
        for number, stage in enumerate(recipe.stages):
            train_stage(model, tokenizer, stage, recipe, number)
            # What a stopped run leaves; each stage takes the place of the one before.
            save(options.output, model, tokenizer, recipe, number + 1, time.perf_counter() - start)
    except DatasetError as error:
        print(f"pretrain_clip: {error}", file=sys.stderr)
        return 1
    return 0


def shortened(stage: Stage, share: float) -> Stage:
    """A stage with a share of its steps and pictures."""
    part = {key: max(1, round(share * getattr(stage, key))) for key in ("steps", "pictures", "warmup")}
    return replace(stage, **part | {"pictures": max(part["pictures"], stage.batch_size)})


def train_stage(model: nn.Module, tokenizer: Callable, stage: Stage, recipe: ClipRecipe, number: int) -> None:
    """Draw the pictures of a stage and train on them, with progress on the screen."""
    start = time.perf_counter()
    data = draw_captioned(stage, seed=2 * recipe.seed + number)
    print(f"stage {number + 1}: {stage.pictures} pictures drawn in {time.perf_counter() - start:.0f} s", flush=True)
    with tqdm(total=stage.steps, unit="step", mininterval=10) as progress:

        def report(step: int, loss: float) -> None:
            progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
            progress.update()

        train_clip(model, tokenizer, data, stage, recipe, report)


def save(path: Path, model: nn.Module, tokenizer: Callable, recipe: ClipRecipe, stages: int, seconds: float) -> None:
    """Measure the model and write it with its card."""
    test = draw_captioned(replace(LOW, pictures=TEST_PICTURES), TEST_SEED)
    text = ClipTextEncoder(model, tokenizer)
    figures = {
        dense: asdict(evaluate_clip(ClipImageEncoder(model.visual, dense), text, test)) for dense in ("value", "qk")
    }
    figures["stages"] = stages
    print(json.dumps(figures, indent=1), flush=True)
    save_with_card(path, model.state_dict(), asdict(recipe), figures, seconds)


if __name__ == "__main__":
    sys.exit(main())
