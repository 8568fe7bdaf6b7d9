"""Every shipped configuration is complete and valid, and every key has its line of explanation."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import get_cfg

from escnet.config import ConfigError, add_escnet_config, find_config, load_config
from escnet.config_ranges import RANGES, check_ranges, value_of
from escnet.training.tasks.segmentation import check_config

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
# The others are plans of comparisons, which name configurations.
CONFIGS = [path for path in FILES if path.parent.name != "comparison"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configurations_load(path):
    cfg = load_config(path)
    assert cfg.MODEL.META_ARCHITECTURE in ("ESCNet", "DenseClip", "ClipThenSam", "SamClip", "ClipGuidedSam")
    assert cfg.INPUT.FORMAT == "RGB"


def test_the_paper_is_the_default():
    cfg = load_config(ROOT / "configs" / "escnet" / "vitl14.yaml")
    esc, solver = cfg.MODEL.ESC, cfg.SOLVER
    assert (esc.NUM_BLOCKS, esc.NUM_PROMPTS, esc.PROMPTS, cfg.MODEL.SAM.INIT) == (4, 5, "point+mask", "pretrained")
    assert (solver.BASE_LR, solver.CLIP_MULTIPLIER, solver.IMS_PER_BATCH, solver.MAX_ITER) == (2e-4, 0.01, 4, 80000)
    assert cfg.MODEL.CLIP.IMAGE_SIZE == (336, 336)


def test_every_key_is_explained():
    source = (ROOT / "escnet" / "config_keys.py").read_text()
    lines = [line.strip() for line in source.splitlines()]
    keys, unexplained = [], []
    for before, line in itertools.pairwise(lines):
        key = re.match(
            r"cfg\.((?:(?:MODEL|TEST)\.(?:CLIP|SAM|SAM_CLIP|GUIDED|ESC|SLIDING)|DISTILL(?:\.\w+)?|PROMPTABLE|LABELLED)"
            r"\.\w+) = (?!CN)",
            line,
        )
        # A comment may explain the keys that follow it without a gap.
        keys += [key.group(1)] if key else []
        if key and not before.startswith(("#", "cfg.")):
            unexplained.append(key.group(1))
    assert {"MODEL.ESC.ALPHA", "MODEL.SAM_CLIP.SCORE", "DISTILL.BALANCE", "DISTILL.SAM.WEIGHT"} < set(keys)
    assert {"MODEL.GUIDED.SIGNALS", "PROMPTABLE.NEGATIVES", "LABELLED.IMAGES"} < set(keys)
    assert unexplained == []


def test_options_override_the_file():
    assert load_config(CONFIGS[0], ["MODEL.ESC.NUM_PROMPTS", "3"]).MODEL.ESC.NUM_PROMPTS == 3


@pytest.mark.parametrize(
    ("opts", "message"), [(["MODEL.ESC.NUM_PROMPT", "3"], "NUM_PROMPT"), (["MODEL.ESC.DIM", "wide"], "wide")]
)
def test_a_wrong_key_or_value_is_named(opts, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS[0], opts)


def test_a_config_is_copied():
    cfg = get_cfg()
    add_escnet_config(cfg)
    load_config(cfg, ["MODEL.ESC.ALPHA", "0.25"])
    assert cfg.MODEL.ESC.ALPHA == 0.5


def write(path: Path, key: str, value: str) -> Path:
    """A .yaml file that sets one key."""
    *sections, name = key.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    path.write_text("\n".join([*lines, f"{'  ' * len(sections)}{name}: {value}"]))
    return path


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("TEST.TEMPLATES", '["a photo of a {}", "a {}"]', ("a photo of a {}", "a {}")),
        ("INPUT.TEMPLATES", '["a photo of a {}"]', ("a photo of a {}",)),
        ("TEST.TEMPLATES", "imagenet", "imagenet"),
        ("MODEL.ESC.ALPHA", "1", 1.0),
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("MODEL.ESC.DECODER_DIMS", "[16, 8]", (16, 8)),
        ("MODEL.PIXEL_MEAN", "[1, 2, 3]", [1.0, 2.0, 3.0]),
        ("MODEL.ESC.CHECKPOINT", "False", False),
    ],
)
def test_a_value_is_taken_in_a_file_and_on_the_command_line(
    tmp_path: Path, key: str, value: str, expected: Any
) -> None:
    for cfg in (load_config(write(tmp_path / "a.yaml", key, value)), load_config(CONFIGS[0], [key, value])):
        found = value_of(cfg, key)
        assert found == expected and type(found) is type(expected)
        # A list takes the place of a string, and a string that of a list.
        assert load_config(cfg, ["TEST.TEMPLATES", "single"]).TEST.TEMPLATES == "single"


def test_a_template_that_is_a_bare_place_for_the_name() -> None:
    assert load_config(CONFIGS[0], ["TEST.TEMPLATES", "{}"]).TEST.TEMPLATES == "{}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TEST.TEMPLATES", "[1]"),
        ("INPUT.TEMPLATES", "[]"),
        ("INPUT.TEMPLATES", "5"),
        ("TEST.TEMPLATES", "a photo"),
        ("MODEL.ESC.ALPHA", "True"),
        ("MODEL.ESC.DIM", "32.5"),
        ("MODEL.ESC.CHECKPOINT", "1"),
        ("MODEL.ESC", "1"),
        ("MODEL.ESC.LOSS", "3"),
        ("DATASETS.TRAIN", "camvid_train"),
        ("MODEL.ESC.NOTHING", "1"),
    ],
)
def test_a_value_of_the_wrong_kind_names_the_key(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        load_config(write(tmp_path / "a.yaml", key, value))
    with pytest.raises(ConfigError, match=re.escape(key)):
        load_config(CONFIGS[0], [key, value])


def test_an_older_kind_of_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: VERSION is 1"):
        load_config(write(tmp_path / "a.yaml", "VERSION", "1"))


@pytest.mark.parametrize("key", RANGES)
def test_a_number_out_of_its_range_is_refused(key: str) -> None:
    for value in ("-2", "None"):
        with pytest.raises(ConfigError, match=rf"{re.escape(key)} is {value}"):
            load_config(CONFIGS[0], [key, value])


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.ESC.NUM_BLOCKS", "0"), "NUM_BLOCKS is 0"),
        (("MODEL.ESC.NUM_PROMPTS", "0"), "NUM_PROMPTS is 0"),
        (("MODEL.ESC.MAX_CLASSES", "-1"), "0 keeps all classes"),
        (("MODEL.ESC.TRAIN_CLASSES", "8", "MODEL.ESC.TRAIN_LEAST", "9"), "drawn from the one to the other"),
        (("MODEL.ESC.TRAIN_CLASSES", "8", "MODEL.ESC.TRAIN_FIRST", "7"), "8 and 0, are chosen from them"),
        (("MODEL.ESC.TRAIN_LEAST", "9", "MODEL.ESC.TRAIN_FIRST", "8"), "0 and 9, are chosen from them"),
        (("MODEL.ESC.KEEP", "4", "MODEL.ESC.KEEP_LEAST", "5"), "KEEP_LEAST is 5, more than MODEL.ESC.KEEP, 4"),
        (("MODEL.ESC.DIM", "30", "MODEL.ESC.NUM_HEADS", "4"), "NUM_HEADS, 4, does not divide"),
        (("MODEL.ESC.DECODER_DIMS", "(40, 16)"), "DECODER_DIMS has 40"),
        (("MODEL.CLIP.IMAGE_SIZE", "(64,)"), "IMAGE_SIZE is"),
        (("TEST.SLIDING.OVERLAP", "1.0"), "OVERLAP is 1.0"),
        (("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "(64, 64)"), "WINDOW.* is larger than"),
        (("SOLVER.CHECKPOINT_PERIOD", "0"), "CHECKPOINT_PERIOD is 0"),
        (("SOLVER.MAX_ITER", "0"), "MAX_ITER is 0; it has to be at least 1"),
    ],
)
def test_numbers_that_cannot_work_are_refused_in_every_way_in(opts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS[0], opts)
    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.merge_from_list(list(opts))
    for check in (load_config, check_ranges, lambda cfg: check_config(cfg, True), lambda cfg: check_config(cfg, False)):
        with pytest.raises(ValueError, match=message):
            check(cfg)


def test_zero_is_allowed_where_it_means_something() -> None:
    opts = ["MODEL.ESC.MAX_CLASSES", "0", "TEST.SLIDING.OVERLAP", "0", "DATALOADER.NUM_WORKERS", "0"]
    assert load_config(CONFIGS[0], opts).TEST.SLIDING.OVERLAP == 0.0


@pytest.mark.parametrize("name", ["configs/escnet/vitl14.yaml", "escnet/vitl14.yaml"])
def test_configurations_of_the_package_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = load_config(name)
    # Of the file and of its base.
    assert cfg.MODEL.CLIP.IMAGE_SIZE == (336, 336) and cfg.DATASETS.TRAIN == ("coco_stuff_train",)
    # A file of the user goes before that of the package.
    own = tmp_path / name
    own.parent.mkdir(parents=True)
    own.write_text("OUTPUT_DIR: mine")
    assert load_config(name).OUTPUT_DIR == "mine"
    with pytest.raises(ConfigError, match=r"nothing\.yaml.*escnet/vitb16\.yaml"):
        find_config("configs/nothing.yaml")


@pytest.mark.slow
def test_a_wheel_holds_the_configurations(tmp_path: Path) -> None:
    # In a copy, since setuptools leaves its own files in the folder that it builds.
    source, target = tmp_path / "source", tmp_path / "installed"
    for name in ("escnet", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run([sys.executable, *command], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    assert {path.relative_to(target / "escnet") for path in (target / "escnet/configs").rglob("*.yaml")} == {
        path.relative_to(ROOT) for path in FILES
    }
    program = (
        'import escnet.config as c; print(c.__file__, c.load_config("configs/camvid/escnet_overfit.yaml").VERSION)'
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.split() == [str(target / "escnet/config.py"), "2"]
