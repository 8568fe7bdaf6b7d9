"""Forty miniature pictures, the smallest model, and labellings of them as the command runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from escnet import Segmenter, Vocabulary
from escnet.commands.label_corpus import main
from escnet.config import load_config
from escnet.labelling.corpus.labeller import Job, UnitLabeller
from escnet.labelling.corpus.units import Unit

ROOT = Path(__file__).parents[3]
CONFIG = str(ROOT / "configs/mojiscenes/escnet.yaml")
# Without blocks, an image takes some milliseconds, and the CLIP that ships gives each process the same labels.
OPTS = ("MODEL.META_ARCHITECTURE", "DenseClip")
WORDS = "cat, grass, red apple|fruit"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of several sizes, in a folder and a folder in it."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more.d").mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        size = (40 + number % 3, 32 + number % 5)
        place = folder / ("more.d" if number % 4 == 3 else "") / f"{number:02d}.png"
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(place)
    return folder


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return Segmenter.from_config(CONFIG, opts=OPTS, device="cpu")


@pytest.fixture(scope="session")
def expected(segmenter: Segmenter, pictures: Path) -> dict[str, np.ndarray]:
    """The label map of each picture, one call after the other, by its key."""
    files = sorted(pictures.rglob("*.png"))
    return {file.relative_to(pictures).as_posix(): segmenter(file, WORDS).labels for file in files}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    cfg = load_config(CONFIG, OPTS)
    return Job(cfg, "cpu", Vocabulary.parse(WORDS, "", cfg.TEST.TEMPLATES), tmp_path / "labels")


@pytest.fixture
def labeller(job: Job, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> UnitLabeller:
    """A labeller with the model of the session."""
    monkeypatch.setattr("escnet.labelling.corpus.labeller.Segmenter.from_config", lambda *_, **__: segmenter)
    return UnitLabeller(job)


def arguments(entry: str | Path, output: Path, *options: str, words: str = WORDS) -> list[str]:
    """Those of the command."""
    named = {"config-file": CONFIG, "input": entry, "words": words, "output": output, "device": "cpu"}
    flags = [str(word) for name, value in named.items() for word in (f"--{name}", value)]
    return [*flags, "--samples-per-shard", "2", *options, *OPTS]


@pytest.fixture
def label(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command in this process, with the model of the session; returns the exit code."""

    def run(entry: str | Path, output: Path, *options: str, words: str = WORDS) -> int:
        with monkeypatch.context() as patch:
            patch.setattr("escnet.labelling.corpus.labeller.Segmenter.from_config", lambda *_, **__: segmenter)
            return main(arguments(entry, output, *options, words=words))

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen]:
    """Starts the command in a process of its own; `before` is a folder whose sitecustomize.py runs in all processes."""
    started = []

    def run(entry: str | Path, output: Path, *options: str, before: Path | None = None) -> subprocess.Popen:
        path = os.pathsep.join(map(str, [*([before] if before else []), ROOT]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "tools/label_corpus.py"), *arguments(entry, output, *options)]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def rows(output: Path) -> list[dict]:
    """The rows of all Parquet files of an output, unit by unit."""
    return [row for path in sorted((output / "labels").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def finished(output: Path) -> int:
    """How many units are finished."""
    return len(list((output / "records").rglob("*.json")))


def decoded(row: dict) -> np.ndarray:
    """The label map of a row."""
    labels = np.full((row["height"], row["width"]), -1)
    for entry in row["classes"]:
        size = {"size": [row["height"], row["width"]], "counts": entry["counts"]}
        labels[coco_masks.decode(size).astype(bool)] = entry["id"]
    return labels


def unit(pictures: Path, *keys: str) -> Unit:
    """A unit of these pictures."""
    return Unit(0, "files", str(pictures), keys=keys, count=len(keys))


def ended(label: Callable[[], object]) -> int:
    """The exit code of a process that calls something and then ends."""
    pid = os.fork()
    if not pid:
        label()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
