"""Experiments with the small SAM-CLIP: its stages one after the other, judged by what they keep; and their tables."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

import escnet.meta_arch  # noqa: F401  registers the systems
from escnet.config import load_config
from escnet.data.benchmarks import data_root
from escnet.evaluation.loop import evaluate_datasets
from escnet.miniature.examination import FOLDER
from escnet.miniature.experiments import Options, digest, mean_and_deviation
from escnet.miniature.judging import judge
from escnet.predictor import Segmenter
from escnet.pretrained.files import file_sha256
from escnet.safe_files import replacing
from escnet.training.tasks.build import build_trainer

CONFIG = "configs/mojiscenes/sam_clip_{}.yaml"
STAGES = ("stage1", "stage2", "stage3")
DATASETS = ("mojiscenes_val_novel[:100]", "mojiscenes_val_base[:100]")
LABEL_MAPS = ("clip", "both")


@dataclass(frozen=True)
class Chain:
    """Stages that follow each other, each with what it differs in from its configuration.

    Attributes:
        name: of the row.
        stage1, stage2, stage3: KEY VALUE pairs; None for a stage that is left out.
    """

    name: str
    stage1: Options | None = ()
    stage2: Options | None = ()
    stage3: Options | None = None

    def stages(self) -> list[tuple[str, Options]]:
        """The stages that are there, in order."""
        named = zip(STAGES, (self.stage1, self.stage2, self.stage3), strict=True)
        return [(name, options) for name, options in named if options is not None]


@dataclass(frozen=True)
class Question:
    """A table: chains that answer a question.

    Attributes:
        name: on the command line.
        text: above the table.
        chains: its rows.
        sizes: sides at which accuracy and AP are measured.
        maps: also measure mIoU of the label maps.
    """

    name: str
    text: str
    chains: tuple[Chain, ...]
    sizes: tuple[int, ...] = (48, 96, 128)
    maps: bool = True


@dataclass(frozen=True)
class Laboratory:
    """What all experiments of a call have in common.

    Attributes:
        output: folder of all of them.
        common: KEY VALUE pairs of every stage.
        config: name of the configuration of a stage, with {} for it.
    """

    output: Path
    common: Options = ()
    config: str = CONFIG

    def train(self, chain: Chain, seed: int) -> Path:
        """Train what is not trained yet of a chain, going on where it was stopped; the last stage's weights."""
        weights = ""
        for (stage, options), folder in zip(chain.stages(), self.folders(chain, seed), strict=True):
            final = folder / "model_final.pth"
            if not final.is_file():
                self._train_stage(self._load(stage, options, seed), weights, folder)
            weights = str(final)
        return Path(weights)

    def folders(self, chain: Chain, seed: int) -> list[Path]:
        """Where each stage of a chain is trained: the same for chains that begin alike, another once a file changes."""
        history, folders = [], []
        for stage, options in chain.stages():
            cfg = self._load(stage, options, seed)
            for node in (cfg.MODEL.CLIP, cfg.MODEL.SAM):
                if Path(node.WEIGHTS).is_file():
                    node.WEIGHTS = file_sha256(Path(node.WEIGHTS))
            # Where the stages' own files would lie says nothing.
            cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
            history.append(cfg.dump())
            folders.append(self.output / "trainings" / digest(history))
        return folders

    def _load(self, stage: str, options: Options, seed: int) -> CfgNode:
        return load_config(self.config.format(stage), [*self.common, *options, "SEED", str(seed)])

    def _train_stage(self, cfg: CfgNode, weights: str, folder: Path) -> None:
        cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = weights, str(folder)
        setup_logger(str(folder), name="escnet", configure_stdout=False)
        setup_logger(str(folder), name="detectron2", configure_stdout=False)
        trainer = build_trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()

    def scores(self, question: Question, chain: Chain, seed: int) -> dict[str, Any]:
        """Train a chain and judge it, or read what an earlier call has found."""
        key = digest(self.folders(chain, seed)[-1].name, question.sizes, question.maps)
        path = self.output / "results" / f"{key}.json"
        if not path.is_file():
            found = self._judge(self.train(chain, seed), chain, question, seed)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps({"chain": chain.name, "seed": seed, **found}, indent=1))
        return json.loads(path.read_text(encoding="utf-8"))

    def _judge(self, weights: Path, chain: Chain, question: Question, seed: int) -> dict[str, Any]:
        stage, options = chain.stages()[-1]
        cfg = self._load(stage, (*options, "DATASETS.TEST", repr(DATASETS)), seed)
        model = Segmenter.from_config(cfg, str(weights)).model
        found = judge(model, data_root() / FOLDER, question.sizes)
        if question.maps:
            cfg.OUTPUT_DIR = str(weights.parent)
            for label_map in LABEL_MAPS:
                model.label_map = label_map
                scores = evaluate_datasets(cfg, model)
                found[f"miou_{label_map}"] = {
                    name.split("_")[-1].split("[")[0]: values["sem_seg"]["mIoU"] for name, values in scores.items()
                }
        return found


def run_question(question: Question, laboratory: Laboratory, seeds: Sequence[int], jobs: int) -> Iterator[str]:
    """Run all experiments of a question, several at a time, each on one thread.

    Chains begin alike, so that those of one seed run in one process after the other.

    Yields:
        What was done last, and how much of all.
    """
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_run_seed, question, laboratory, seed): seed for seed in seeds}
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            yield f"{done}/{len(futures)}: seed {futures[future]}"


def write_up(question: Question, laboratory: Laboratory, seeds: Sequence[int]) -> str:
    """The table in Markdown, from the results on disk: percent, mean ± deviation over the seeds."""
    rows = []
    for chain in question.chains:
        runs = [laboratory.scores(question, chain, seed) for seed in seeds]
        columns = [(score, size) for score in ("accuracy", "ap") for size in map(str, question.sizes)]
        if question.maps:
            columns += [(f"miou_{label_map}", split) for split in ("novel", "base") for label_map in LABEL_MAPS]
        rows.append([chain.name, *(mean_and_deviation([run[a][b] for run in runs]) for a, b in columns)])
    titles = {"accuracy": "accuracy {}", "ap": "AP {}", "miou_clip": "mIoU {}, CLIP head", "miou_both": "mIoU {}, both"}
    headers = [question.name, *(titles[score].format(column) for score, column in columns)]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def _run_seed(question: Question, laboratory: Laboratory, seed: int) -> None:
    torch.set_num_threads(1)
    for chain in question.chains:
        laboratory.scores(question, chain, seed)
