"""Experiments with the small SAM-CLIP: its stages one after the other, and what the trained model keeps."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from torch import nn

import escnet.meta_arch  # noqa: F401  registers the systems
from escnet.config import load_config
from escnet.data.benchmarks import data_root
from escnet.evaluation.loop import evaluate_datasets
from escnet.meta_arch.parents import build_parent
from escnet.miniature.cards import training_seconds
from escnet.miniature.examination import FOLDER
from escnet.miniature.experiments import Options, digest
from escnet.miniature.judging import check_examination, judge
from escnet.predictor import Segmenter
from escnet.pretrained.files import file_sha256
from escnet.safe_files import replacing
from escnet.training.tasks.build import build_trainer

CONFIG = "configs/mojiscenes/sam_clip_{}.yaml"
STAGES = ("stage1", "stage2", "stage3")


class Row(ABC):
    """A model that is examined.

    Attributes:
        name: in a table.
        has_chance: whether its seed changes anything.
    """

    name: str
    has_chance: ClassVar[bool] = True

    @abstractmethod
    def identity(self, laboratory: Laboratory, seed: int) -> str:
        """What decides its weights, in short."""

    @abstractmethod
    def model(self, laboratory: Laboratory, seed: int) -> nn.Module:
        """The model itself, in evaluation mode; what is missing for it is trained."""


@dataclass(frozen=True)
class Chain(Row):
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

    def identity(self, laboratory: Laboratory, seed: int) -> str:
        return laboratory.folders(self, seed)[-1].name

    def model(self, laboratory: Laboratory, seed: int) -> nn.Module:
        weights = laboratory.train(self, seed)
        return Segmenter.from_config(laboratory.settings(self, seed)[-1], str(weights)).model


@dataclass(frozen=True)
class Parent(Row):
    """One of the two teachers, which is not trained here.

    Attributes:
        name: of the row.
        kind: one of `PARENTS`.
    """

    name: str
    kind: str
    has_chance: ClassVar[bool] = False

    def identity(self, laboratory: Laboratory, seed: int) -> str:
        return digest(self.kind, laboratory.settings(_SHORTEST, 0)[0].MODEL.dump())

    def model(self, laboratory: Laboratory, seed: int) -> nn.Module:
        return build_parent(self.kind, laboratory.settings(_SHORTEST, 0)[0])


# Whose configuration says what the parents are.
_SHORTEST = Chain("", stage2=None)


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
        for cfg in self.settings(chain, seed):
            for node in (cfg.MODEL.CLIP, cfg.MODEL.SAM):
                if Path(node.WEIGHTS).is_file():
                    node.WEIGHTS = file_sha256(Path(node.WEIGHTS))
            # Where the stages' own files would lie says nothing.
            cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
            history.append(cfg.dump())
            folders.append(self.output / "trainings" / digest(history))
        return folders

    def settings(self, chain: Chain, seed: int) -> list[CfgNode]:
        """The configuration of each stage of a chain."""
        return [self._load(stage, options, seed) for stage, options in chain.stages()]

    def seconds(self, chain: Chain, seed: int) -> list[float]:
        """What the training of each stage of a trained chain took, by its metrics; 0 of one too short to have them."""
        settings = zip(self.settings(chain, seed), self.folders(chain, seed), strict=True)
        return [training_seconds(folder, cfg.SOLVER.MAX_ITER) for cfg, folder in settings]

    def examine(self, row: Row, seed: int, sizes: Sequence[int], folder: str = FOLDER) -> dict[str, dict[str, float]]:
        """What `judge` finds on an examination below the data root; trains what is needed, or reads an earlier find.

        Raises:
            DatasetError: there is no such examination; told before anything is trained.
        """

        def find() -> dict[str, Any]:
            check_examination(data_root() / folder)
            return judge(row.model(self, seed), data_root() / folder, sizes)

        return self._remembered((row.identity(self, seed), folder, tuple(sizes)), find)

    def draw_maps(self, chain: Chain, seed: int, options: Options, datasets: Sequence[str]) -> dict[str, float]:
        """mIoU in percent of the label maps of each dataset, with KEY VALUE pairs of the evaluation alone."""

        def evaluate() -> dict[str, float]:
            weights = self.train(chain, seed)
            stage, trained = chain.stages()[-1]
            cfg = self._load(stage, (*trained, *options, "DATASETS.TEST", repr(tuple(datasets))), seed)
            cfg.OUTPUT_DIR = str(weights.parent / digest(options))
            scores = evaluate_datasets(cfg, Segmenter.from_config(cfg, str(weights)).model)
            return {name: values["sem_seg"]["mIoU"] for name, values in scores.items()}

        return self._remembered((chain.identity(self, seed), options, tuple(datasets)), evaluate)

    def _load(self, stage: str, options: Options, seed: int) -> CfgNode:
        return load_config(self.config.format(stage), [*self.common, *options, "SEED", str(seed)])

    def _train_stage(self, cfg: CfgNode, weights: str, folder: Path) -> None:
        cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = weights, str(folder)
        setup_logger(str(folder), name="escnet", configure_stdout=False)
        setup_logger(str(folder), name="detectron2", configure_stdout=False)
        trainer = build_trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()

    def _remembered(self, key: tuple[Any, ...], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.output / "results" / f"{digest(*key)}.json"
        if not path.is_file():
            found = find()
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))
