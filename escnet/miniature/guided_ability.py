"""What a training on words leaves of SAM's own ability: masks of single objects from clicks and boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from escnet.evaluation.prompting import RegionWords, evaluate_prompting
from escnet.miniature.experiments import Experiment, Options, Variant, digest, mean_and_deviation, run_experiment
from escnet.miniature.guided_tables import CONFIG, METHODS, POINTS, few
from escnet.miniature.sam_recipe import GROUND, number_regions
from escnet.miniature.world.classes import words
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import SceneStyle, compose
from escnet.own_process import several_processes
from escnet.predictor import Segmenter
from escnet.safe_files import replacing
from escnet.vocabulary import Vocabulary

PICTURES = 100
# No other pictures are drawn with this seed.
_SEED = 998
LEAST_AREA = 32
QUESTION = "What is left of SAM's own ability (IoU of single objects, novel ones, in percent)?"


class _Row(NamedTuple):
    """A trained model and how it is asked.

    Attributes:
        name: in the table.
        variant: its training.
        with_words: whether the word of each object is said too.
    """

    name: str
    variant: Variant
    with_words: bool


def _trained(name: str, prompts: str, method: Options = ()) -> tuple[_Row, _Row]:
    variant = Variant(name, (*few(64), "PROMPTABLE.PROMPTS", prompts, *method))
    return _Row(name, variant, False), _Row(f"{name}, with words", variant, True)


ROWS = (
    _Row("SAM", Variant("SAM", is_trained=False), False),
    *_trained("trained by text", "text"),
    *_trained("trained with points", "points"),
    *_trained("trained with boxes", "boxes"),
    *_trained("trained with all of them", "mixed"),
    _trained("decoder alone, by text", "text", METHODS["decoder alone"])[0],
)


def run_ability(output: Path, seeds: Sequence[int], jobs: int, common: Options = ()) -> Iterator[str]:
    """Train and judge what is not done yet, several at a time, each on one thread; yields what was done last."""
    trainings: dict[Path, list[tuple[_Row, int]]] = {}
    for row in ROWS:
        for seed in _seeds(row, seeds):
            trainings.setdefault(_experiment(row, seed, output, common).training_folder, []).append((row, seed))
    with several_processes(jobs) as pool:
        futures = {pool.submit(_judge_all, group, output, common): group for group in trainings.values()}
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            row, seed = futures[future][0]
            yield f"{done}/{len(futures)}: {row.name}, seed {seed}"


def write_up_ability(output: Path, seeds: Sequence[int], common: Options = ()) -> str:
    """The table in Markdown: percent, mean ± deviation over the seeds."""
    lines, columns = [], []
    for row in ROWS:
        found = [_judge(row, seed, output, common) for seed in _seeds(row, seeds)]
        columns = [name for name in found[0] if name != "objects"]
        lines.append([row.name, *(mean_and_deviation([100 * run[name] for run in found]) for name in columns)])
    return tabulate(lines, headers=["ability", *columns], tablefmt="pipe", disable_numparse=True)


def draw_named_objects(count: int) -> tuple[Tensor, Tensor, RegionWords]:
    """Pictures of novel objects (n, 3, size, size), their regions (n, size, size), and what these are."""
    glyphs, names = load_glyphs("novel"), [row.name for row in words()]
    images, regions = [], []
    rows = torch.zeros(count, GROUND, dtype=torch.long)
    for number in range(count):
        scene = compose(glyphs, np.random.default_rng([_SEED, number]), SceneStyle())
        own = number_regions(scene, LEAST_AREA)
        for region in np.unique(own[(own > 0) & (own < GROUND)]).tolist():
            rows[number, region] = int(scene.labels[own == region][0])
        images.append(torch.from_numpy(scene.image.transpose(2, 0, 1).copy()))
        regions.append(torch.from_numpy(own))
    return torch.stack(images), torch.stack(regions), RegionWords(Vocabulary(names, allow_duplicates=True), rows)


def _seeds(row: _Row, seeds: Sequence[int]) -> Sequence[int]:
    return seeds if row.variant.is_trained else (0,)


def _experiment(row: _Row, seed: int, output: Path, common: Options) -> Experiment:
    # Judged under one protocol too, so that it is trained.
    return Experiment(CONFIG, row.variant, POINTS[:1], seed, output, common)


def _judge_all(group: Sequence[tuple[_Row, int]], output: Path, common: Options) -> None:
    torch.set_num_threads(1)
    for row, seed in group:
        _judge(row, seed, output, common)


def _judge(row: _Row, seed: int, output: Path, common: Options) -> dict[str, float]:
    experiment = _experiment(row, seed, output, common)
    key = digest("ability", experiment.training_folder.name, row.variant.is_trained, row.with_words, PICTURES)
    path = output / "results" / f"{key}.json"
    if not path.is_file():
        run_experiment(experiment)
        cfg = experiment.load(experiment.train_options)
        weights = str(experiment.training_folder / "model_final.pth") if row.variant.is_trained else None
        model = Segmenter.from_config(cfg, weights).model
        images, regions, named = draw_named_objects(PICTURES)
        found = evaluate_prompting(model, images, regions, GROUND, words=named if row.with_words else None)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))
