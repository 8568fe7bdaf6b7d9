"""The demonstration: pictures, training, zero-shot evaluation and a page, in a few minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from escnet.config import ConfigError, load_config
from escnet.data.images import read_image
from escnet.data.label_spaces import read_training_labels
from escnet.drawing.prompt_sheets import Example
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.zero_shot import ZeroShotTask, evaluate_zero_shot
from escnet.miniature.demo_page import write_page
from escnet.miniature.world.writing import FOLDER, World, write_world
from escnet.predictor import Segmenter
from escnet.training.tasks.segmentation import segmentation_trainer

NAME = "ESC-Net"
BENCHMARKS = ("mojiscenes_val_base", "mojiscenes_val_novel")
LARGE_VOCABULARY = "mojiscenes_val_847"
# Rows beside those of ESC-Net and the baselines: name, configuration, keys.
COMPARED = (
    (
        "SAM-CLIP, both heads",
        "configs/mojiscenes/sam_clip.yaml",
        ("MODEL.WEIGHTS", "shipped:sam_clip", "MODEL.SAM_CLIP.LABEL_MAP", "both", "MODEL.CLIP.SMOOTHING", "3"),
    ),
    ("CLIP-Guided SAM", "configs/mojiscenes/clip_guided_sam.yaml", ("MODEL.WEIGHTS", "shipped:clip_guided_sam")),
)


@dataclass(frozen=True)
class DemoTask:
    """What the demonstration does.

    Attributes:
        config_file: of ESC-Net.
        output: folder for everything.
        world: the pictures.
        large_limit: pictures that are judged among 847 words, which takes longest.
        examples: pictures on the page.
        opts: KEY VALUE pairs over the configuration.
    """

    config_file: str
    output: Path
    world: World
    large_limit: int = 15
    examples: int = 12
    opts: tuple[str, ...] = ()


def run_demo(task: DemoTask, say: Callable[[str], None]) -> Path:
    """Draw pictures, train ESC-Net on their masks, judge it on classes that it has seen no mask of, write a page.

    What an earlier call has finished is kept, and a stopped training goes on.

    Args:
        task: what to do.
        say: is told each step.

    Returns:
        The page.

    Raises:
        DatasetError, WeightsError, ConfigError: as the parts do.
    """
    start = time.perf_counter()
    with datasets_in(task.output / "data"):
        cfg = load_config(
            task.config_file, ["OUTPUT_DIR", str(task.output / "training"), "DATASETS.TEST", "()", *task.opts]
        )
        if not cfg.MODEL.CLIP.WEIGHTS:
            raise ConfigError(
                f"{task.config_file}: MODEL.CLIP.WEIGHTS is empty, but the demonstration needs a trained CLIP: "
                "make one with tools/miniature/pretrain_clip.py, and give its path"
            )
        say("1/4  drawing pictures")
        write_world(task.output / "data" / FOLDER, task.world)
        say("2/4  training ESC-Net")
        trainer = segmentation_trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
        say("3/4  evaluating it, two baselines and two other systems on its own words, on others, and on 847")
        datasets = (*BENCHMARKS, f"{LARGE_VOCABULARY}[:{task.large_limit}]")
        evaluation = task.output / "evaluation"
        others = tuple(
            (name, load_config(config_file, [*keys, "MODEL.DEVICE", cfg.MODEL.DEVICE]))
            for name, config_file, keys in COMPARED
        )
        table = evaluate_zero_shot(cfg, ZeroShotTask(datasets, evaluation, NAME, baselines=True, others=others))
        say(f"\n{table}\n")
        say("4/4  drawing the page")
        examples, num_classes = collect_examples(cfg, "mojiscenes_val_novel", task.examples)
        minutes = (time.perf_counter() - start) / 60
        return write_page(task.output, evaluation, Path(cfg.OUTPUT_DIR), examples, num_classes, minutes)


def collect_examples(cfg: CfgNode, dataset: str, count: int) -> tuple[list[Example], int]:
    """The first pictures of a dataset with what the model makes of them, each seen from the largest class it looks at.

    Of the scored classes that the picture shows; where none of them is looked at, from the first that is. The maps
    are probabilities, softmax over the classes: that is what the pseudo prompts are read from.
    """
    segmenter, data = Segmenter.from_config(cfg), EvaluationData.load(dataset, cfg)
    first, end = data.scored or (0, len(data.class_names))
    scale, examples = segmenter.model.logit_scale.cpu(), []
    for record in data.records[:count]:
        truth = read_training_labels(record["sem_seg_file_name"], data.space)
        areas = np.bincount(truth[truth >= 0], minlength=len(data.class_names))
        result = segmenter(read_image(record["file_name"]), data.space.vocabulary)
        rows = list(range(len(areas))) if result.rows is None else result.rows[0].tolist()
        class_id = max(rows, key=lambda row: (first <= row < end) * areas[row])
        own = slice(rows.index(class_id), rows.index(class_id) + 1)
        maps = [(correlation * scale).softmax(dim=1)[:, own] for correlation in result.correlations]
        prompts = [of_block.classes(own) for of_block in result.prompts]
        name = data.class_names[class_id]
        examples.append(Example(result.image, truth, result.labels, class_id, name, maps, prompts))
    return examples, len(data.class_names)


@contextmanager
def datasets_in(folder: Path) -> Iterator[None]:
    """Datasets are looked for in `folder` meanwhile."""
    before = os.environ.get("DETECTRON2_DATASETS")
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["DETECTRON2_DATASETS"]
        else:
            os.environ["DETECTRON2_DATASETS"] = before
