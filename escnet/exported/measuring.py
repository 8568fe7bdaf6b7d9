"""A model run on pictures in a process of its own: what it takes, and what it says; PyTorch only for PyTorch's own."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from escnet.exported.card import PROGRAM, read_card
from escnet.own_process import peak_memory
from escnet.vocabulary import Vocabulary

if TYPE_CHECKING:
    from detectron2.config import CfgNode

_TASK, _CONFIG, _PICTURES, _LABELS, _FIGURES = "task.json", "config.yaml", "pictures.npz", "labels.npz", "figures.json"


@dataclass(frozen=True)
class Measured:
    """What a run took, and what it said.

    Attributes:
        start: seconds from the start of the process to the model that is ready.
        whole: seconds of each image with its words, after one that is not counted.
        words: seconds of the same words once more on each encoded image.
        memory: the peak of the process in MiB.
        labels: (H, W) of each image.
    """

    start: float
    whole: list[float]
    words: list[float]
    memory: float
    labels: list[np.ndarray]

    @classmethod
    def read(cls, place: Path, begun: float) -> Measured:
        """What `run` wrote.

        Args:
            place: its folder.
            begun: `time.time` when its process was started.
        """
        figures = json.loads((place / _FIGURES).read_text(encoding="utf-8"))
        with np.load(place / _LABELS) as labels:
            return cls(
                start=figures["ready"] - begun,
                whole=figures["whole"],
                words=figures["words"],
                memory=figures["memory"],
                labels=[labels[str(i)] for i in range(len(labels))],
            )


def write_task(
    place: Path,
    folder: Path | None,
    cfg: CfgNode,
    vocabulary: Vocabulary,
    pictures: Sequence[np.ndarray],
    threads: int,
) -> None:
    """What `run` is to do.

    Args:
        place: a folder for it.
        folder: of an exported model; None for that of the configuration.
        cfg: with the weights.
        vocabulary: the words.
        pictures: (H, W, 3) uint8.
        threads: of whatever computes.
    """
    task = {
        "folder": folder and str(folder.absolute()),
        "names": vocabulary.names,
        "background": vocabulary.background,
        "templates": vocabulary.templates,
        "threads": threads,
    }
    (place / _TASK).write_text(json.dumps(task), encoding="utf-8")
    (place / _CONFIG).write_text(cfg.dump(), encoding="utf-8")
    np.savez(place / _PICTURES, **{str(i): picture for i, picture in enumerate(pictures)})


def run(place: str) -> None:
    """Do what `write_task` wrote, and write what `Measured.read` reads."""
    folder = Path(place)
    task = json.loads((folder / _TASK).read_text(encoding="utf-8"))
    segmenter = _segmenter(task, folder)
    ready = time.time()
    words = Vocabulary(task["names"], task["background"], task["templates"], allow_duplicates=True)
    whole, again, labels = [], [], []
    with np.load(folder / _PICTURES) as pictures:
        segmenter(pictures["0"], words)
        for i in range(len(pictures)):
            picture, begun = pictures[str(i)], time.perf_counter()
            image = segmenter.encode(picture)
            labels.append(image(words).labels)
            middle = time.perf_counter()
            image(words)
            whole.append(middle - begun)
            again.append(time.perf_counter() - middle)
    figures = {"ready": ready, "whole": whole, "words": again, "memory": peak_memory()}
    np.savez(folder / _LABELS, **{str(i): label_map for i, label_map in enumerate(labels)})
    (folder / _FIGURES).write_text(json.dumps(figures), encoding="utf-8")


def _segmenter(task: dict[str, Any], folder: Path) -> Any:
    if task["folder"] is None:
        import torch

        from escnet.predictor import Segmenter

        torch.set_num_threads(task["threads"])
        return Segmenter.from_config(folder / _CONFIG)
    if read_card(Path(task["folder"]))["kind"] == PROGRAM:
        import torch

        from escnet.exported.programs import ProgramSegmenter

        torch.set_num_threads(task["threads"])
        return ProgramSegmenter(task["folder"])
    from escnet.exported.segmenter import OnnxSegmenter

    return OnnxSegmenter(task["folder"], task["threads"])
