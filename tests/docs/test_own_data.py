"""docs/own_data.md: every command on the page runs as it stands there, on fewer and smaller things.

The commands are read from the page. One of a tool that SMALLER does not know fails, as does one with a path that is
neither the user's nor the repository's: say there what it is to be run with.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from escnet.data.benchmarks import find_benchmark
from escnet.data.coco_writing import image_entry, object_entry
from escnet.data.folder import read_folder
from escnet.data.images import read_labels, write_labels
from escnet.data.label_studio_brush import encode_brush
from escnet.evaluation.runs.run_folder import read_json
from tests.warm_process import REPOSITORY, WarmProcesses

PAGE = REPOSITORY / "docs/own_data.md"
IGNORED = 255
ON_CPU = ("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0")
# Of each tool: the options and keys of the page that are given other values, options that are added before the others,
# and keys that are added after them.
SMALLER: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = {
    "datasets/import_annotations.py": ({}, ("--workers", "1"), ()),
    "datasets/prepare_camvid.py": ({}, (), ()),
    "datasets/prepare_mojiscenes.py": ({"--val": "5"}, ("--size", "64", "--workers", "1"), ()),
    "tools/check_dataset.py": ({}, ("--workers", "1", "--picture", "output/samples.jpg"), ()),
    "tools/tune.py": (
        {"--iterations": "1", "--period": "1", "--images": "4"},
        ("--iterations", "1", "--period", "1"),
        ON_CPU,
    ),
    "tools/eval_zero_shot.py": ({}, (), ON_CPU),
    "escnet predict": ({}, (), ON_CPU),
    "tools/probe.py": (
        {"--image-size": "64", "--batch-size": "2", "--epochs": "1", "LABELLED.IMAGES": "4"},
        (),
        ON_CPU,
    ),
}
# What of the page is something else in the test.
SMALL = {
    "configs/escnet/vitb16.yaml": "configs/mojiscenes/escnet.yaml",
    "model_final.pth": "shipped:esc_net",
    "camvid_train[:64]": "camvid_train[:4]",
    "camvid_val": "camvid_val[:1]",
    "mojiscenes_val_novel[:230]": "mojiscenes_val_novel[:4]",
    "mojiscenes_val_novel[230:330]": "mojiscenes_val_novel[4:5]",
}
# Labelled pictures, of which one is held out.
PHOTOGRAPHS = 4
# The user's files, which the test has in a folder of its own.
OWN_FILES = re.compile(r"(folder:)?((export\.json|photographs|streets|output|datasets|camvid_as_published)(/.*)?)")


class Command(NamedTuple):
    """A command of the page: the tool, the variables that are set before it, and its arguments."""

    tool: str
    variables: dict[str, str]
    arguments: tuple[str, ...]


def page_commands() -> dict[str, list[Command]]:
    """The commands of the page in order, by the data that they name: the user's streets, CamVid or MojiScenes."""
    found: dict[str, list[Command]] = {"streets": [], "camvid": [], "mojiscenes": []}
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            tokens, variables = shlex.split(line, comments=True), {}
            while tokens and re.match(r"[A-Z0-9_]+=", tokens[0]):
                name, _, variables[name] = tokens.pop(0).partition("=")
            if tokens:
                data = next((data for data in found if data in line), None)
                assert tokens.pop(0) == ".venv/bin/python" and data, f"the test does not know what {line} is"
                tool = f"{tokens[1]} {tokens[2]}" if tokens[0] == "-m" else tokens[0]
                found[data].append(Command(tool, variables, tuple(tokens[len(tool.split()) + (tokens[0] == "-m") :])))
    return found


class Runner:
    """Runs commands of the page; the user's files, and all that is written, are in a folder."""

    def __init__(self, folder: Path, warm: WarmProcesses) -> None:
        self.folder, self._warm = folder, warm

    def run(self, command: Command, *more: str) -> str:
        """Run a command to its end, with more arguments; returns its output."""
        assert command.tool in SMALLER, f"the test does not know {command.tool}, which the page has"
        smaller, options, keys = SMALLER[command.tool]
        page = [smaller.get(name) or self._small(value) for name, value in pairwise(("", *command.arguments))]
        arguments = [*map(self._small, options), *page, *keys, *more]
        log = self.folder / "log.txt"
        log.unlink(missing_ok=True)
        script, *words = command.tool.replace("escnet ", "escnet/__main__.py ").split()
        environment = {**os.environ, "DETECTRON2_DATASETS": str(self.folder / "datasets")}
        environment |= {name: self._small(value) for name, value in command.variables.items()}
        process = self._warm.start(log, REPOSITORY / script, *words, *arguments, environment=environment)
        code, told = process.wait(), log.read_text(encoding="utf-8")
        assert code == 0, f"{command.tool} {shlex.join(arguments)}\n{told[-3000:]}"
        return told

    def _small(self, value: str) -> str:
        """A value of the page as it is in the test."""
        if own := OWN_FILES.fullmatch(value):
            return f"{own[1] or ''}{self.folder / own[2]}"
        small = SMALL.get(value, value)
        assert "/" not in small or (REPOSITORY / small).exists(), f"the test does not know {value}, which the page has"
        return small


@pytest.fixture
def runner(tmp_path: Path, warm: WarmProcesses) -> Runner:
    return Runner(tmp_path, warm)


class Labelled(NamedTuple):
    """Pictures that somebody has labelled: a folder of photographs, their label maps by name, the words of the ids."""

    photographs: Path
    labels: dict[str, np.ndarray]
    words: tuple[str, ...]

    def size(self, name: str) -> tuple[int, int]:
        """Height and width of a picture."""
        return self.labels[name].shape

    def masks(self, name: str) -> dict[str, np.ndarray]:
        """The masks of a picture, (H, W) bool, by word."""
        found = self.labels[name]
        return {self.words[i]: found == i for i in np.unique(found) if i != IGNORED}


@pytest.fixture
def labelled(request: pytest.FixtureRequest, tmp_path: Path) -> Labelled:
    """Pictures of the data that a test names: "camvid", real photographs, or "mojiscenes", drawn ones."""
    benchmark = find_benchmark(f"{request.param}_train")
    root = request.getfixturevalue("sample_data" if request.param == "camvid" else "tiny_data")
    (tmp_path / "photographs").mkdir()
    labels = {}
    for photograph in sorted((root / request.param / "images/train").iterdir())[:PHOTOGRAPHS]:
        (tmp_path / "photographs" / photograph.name).symlink_to(photograph)
        ids = read_labels(root / request.param / f"annotations/train/{photograph.stem}.png")
        labels[photograph.name] = np.where(ids == benchmark.ignore_label, IGNORED, ids)
    present = sorted({i for ids in labels.values() for i in np.unique(ids)} - {IGNORED})
    renumbered = np.full(256, IGNORED)
    renumbered[present] = range(len(present))
    labels = {name: renumbered[ids] for name, ids in labels.items()}
    return Labelled(tmp_path / "photographs", labels, tuple(benchmark.class_names[i] for i in present))


def export_coco(labelled: Labelled, folder: Path) -> tuple[str, ...]:
    ids = {word: number for number, word in enumerate(labelled.words, start=1)}
    names = list(enumerate(labelled.labels, start=1))
    objects = [
        object_entry(mask, image, ids[word]) for image, name in names for word, mask in labelled.masks(name).items()
    ]
    contents = {
        "images": [image_entry(image, name, labelled.size(name)) for image, name in names],
        "categories": [{"id": number, "name": word} for word, number in ids.items()],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(objects)],
    }
    (folder / "export.json").write_text(json.dumps(contents))
    return ()


def export_label_studio(labelled: Labelled, folder: Path) -> tuple[str, ...]:
    def brush(word: str, mask: np.ndarray) -> dict[str, Any]:
        value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [word]}
        size = {"original_height": mask.shape[0], "original_width": mask.shape[1], "image_rotation": 0}
        return {"id": word, "type": "brushlabels", "value": value, **size}

    tasks = [
        {
            "id": number,
            "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
            "annotations": [{"id": number, "result": [brush(*item) for item in labelled.masks(name).items()]}],
        }
        for number, name in enumerate(labelled.labels)
    ]
    (folder / "export.json").write_text(json.dumps(tasks))
    return ()


def export_cvat(labelled: Labelled, folder: Path) -> tuple[str, ...]:
    def drawn(word: str, mask: np.ndarray) -> str:
        flat = mask.ravel()
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *edges, flat.size]).tolist()
        text = ", ".join(map(str, [0, *runs] if flat[0] else runs))
        return (
            f'<mask label={quoteattr(word)} rle="{text}" left="0" top="0" '
            f'width="{mask.shape[1]}" height="{mask.shape[0]}" z_order="0"/>'
        )

    listed = "".join(f"<label><name>{word}</name></label>" for word in labelled.words)
    images = "".join(
        f'<image id="{number}" name={quoteattr(name)} width="{labelled.size(name)[1]}" '
        f'height="{labelled.size(name)[0]}">{"".join(drawn(*item) for item in labelled.masks(name).items())}</image>'
        for number, name in enumerate(labelled.labels)
    )
    text = f"<annotations><meta><task><labels>{listed}</labels></task></meta>{images}</annotations>"
    (folder / "annotations.xml").write_text(text)
    return "--annotations", str(folder / "annotations.xml")


def export_masks(labelled: Labelled, folder: Path) -> tuple[str, ...]:
    for name, ids in labelled.labels.items():
        # Counted from 1, as most tools do: 0 is in no region.
        write_labels(folder / f"masks/{Path(name).stem}.png", np.where(ids == IGNORED, 0, ids + 1))
    lines = [f"{word}: {number}" for number, word in enumerate(labelled.words, start=1)]
    (folder / "names.txt").write_text("\n".join(lines))
    return "--annotations", str(folder / "masks"), "--palette", str(folder / "names.txt")


# Each writes what a tool exports to a folder, and says by which arguments it is read if not by those of the page.
EXPORTS: dict[str, Callable[[Labelled, Path], Sequence[str]]] = {
    "coco": export_coco,
    "label_studio": export_label_studio,
    "cvat": export_cvat,
    "masks": export_masks,
}


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("labelled", ["mojiscenes", "camvid"], indirect=True)
def test_what_tools_export_comes_back_to_the_pixel(labelled: Labelled, runner: Runner, export: str) -> None:
    (command,) = (each for each in page_commands()["streets"] if each.tool == "datasets/import_annotations.py")
    runner.run(command, *EXPORTS[export](labelled, runner.folder))
    found = {}
    for part in ("train", "val"):
        folder = read_folder(f"folder:{runner.folder}/streets/{part}")
        assert sorted(folder.classes) == sorted(labelled.words)
        ids = np.array([*map(labelled.words.index, folder.classes), *[IGNORED] * (256 - len(folder.classes))])
        found |= {pair.image.name: ids[read_labels(pair.labels)] for pair in folder.pairs}
    assert len(folder.pairs) == 1 and found.keys() == labelled.labels.keys()
    for name, ids in found.items():
        np.testing.assert_array_equal(ids, labelled.labels[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labelled", "export"), [("mojiscenes", "label_studio"), ("camvid", "coco")], indirect=["labelled"]
)
def test_from_annotations_to_a_model_that_is_used(labelled: Labelled, runner: Runner, export: str) -> None:
    assert not EXPORTS[export](labelled, runner.folder)
    for command in page_commands()["streets"]:
        runner.run(command)
    output, weights = runner.folder / "output", "streets/training/model_final.pth"
    (after,) = (output / "streets/evaluation/after").glob("*/metrics.json")
    (again,) = (output / "streets_judged").glob("*/*/metrics.json")
    unequal = {name for name, value in read_json(again).items() if value != read_json(after)[name]}
    assert unequal <= {"seconds_per_image"}
    assert f"--weights {output / weights}" in (output / "streets/index.html").read_text()
    own = sorted(labelled.words) if export == "label_studio" else list(labelled.words)
    for folder, words in (("streets_labels", own), ("streets_puddles", ["puddle", "road"])):
        for name in labelled.labels:
            found = read_json(output / folder / f"{Path(name).stem}.json")
            assert found["class_names"] == words and found["weights"] == str(output / weights)
            assert read_labels(output / folder / f"{Path(name).stem}_labels.png").shape == labelled.size(name)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["camvid", "mojiscenes"])
def test_the_runs_of_the_table(data: str, runner: Runner, request: pytest.FixtureRequest) -> None:
    if data == "camvid":
        source = request.getfixturevalue("sample_data") / "camvid"
        for part, images in (("train", 4), ("val", 1)):
            for picture in sorted((source / "images" / part).iterdir())[:images]:
                for kind in ("images", "annotations"):
                    link = runner.folder / "camvid_as_published" / kind / part / picture.name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(source / kind / part / picture.name)
    commands = page_commands()[data]
    for command in commands:
        runner.run(command)
    output = runner.folder / "output/own"
    tuned = sorted(page.parent.name for page in output.glob("*/index.html"))
    probed = sorted(found.parents[1].name for found in output.glob("*/*/results.json"))
    named = [Path(command.arguments[command.arguments.index("--output") + 1]).name for command in commands[1:]]
    assert sorted(tuned + probed) == sorted(named)
    for path in output.glob("*/training/labelled.json"):
        assert read_json(path)["seed"] == 0
    for path in output.glob("*/*/results.json"):
        found = read_json(path)["probings"]["segmentation"]
        assert found["conditions"]["labelled"] == {"images": 4, "seed": -1, "validation": 0}
        assert all(head["seeds"].keys() == {"0", "1", "2"} for head in found["heads"].values())


def test_a_command_that_the_test_does_not_know_fails(runner: Runner) -> None:
    tune = next(command for command in page_commands()["streets"] if command.tool == "tools/tune.py")
    for other in (
        tune._replace(tool="tools/other.py"),
        tune._replace(arguments=("--data", "somewhere/else")),
        tune._replace(arguments=("--weights", "configs/none.yaml")),
    ):
        with pytest.raises(AssertionError, match="the test does not know"):
            runner.run(other)
