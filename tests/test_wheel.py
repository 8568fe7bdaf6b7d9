"""The wheel, as a stranger has it: installed elsewhere, run from elsewhere, with all that it needs inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
# What a wheel is built of; a copy, since setuptools leaves its files in the folder that it builds.
SOURCES = ("escnet", "configs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel was installed."""
    above = tmp_path_factory.mktemp("wheel")
    source, target = above / "source", above / "site"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for command in (
        ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", above, source],
        ["install", "--no-deps", "--no-compile", "--no-index", "--target", target, "--find-links", above, "escnet"],
    ):
        done = subprocess.run([*pip, *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return target


def _run(installed: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "escnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_the_package_is_the_installed_one(installed: Path, tmp_path: Path) -> None:
    from escnet import __version__

    assert _run(installed, tmp_path, "--version").stdout == f"escnet {__version__}\n"
    scripts = (next(installed.glob("escnet-*.dist-info")) / "entry_points.txt").read_text()
    assert "escnet = escnet.__main__:main" in scripts


def test_a_command_is_called_what_was_typed(installed: Path, tmp_path: Path) -> None:
    assert _run(installed, tmp_path, "predict", "--help").stdout.startswith("usage: escnet predict ")
    told = _run(installed, tmp_path, "export", "--model", "shipped:esc_net", "--config-file", "x").stderr
    assert told.splitlines()[-1].startswith("escnet export: error: argument --config-file: not allowed with")


def test_all_that_is_no_code_is_in_it(installed: Path) -> None:
    def data(folder: Path) -> set[str]:
        # Not rglob, which goes into no folder that is a link.
        found = (Path(above, name) for above, _, names in os.walk(folder, followlinks=True) for name in names)
        return {str(path.relative_to(folder)) for path in found if path.suffix not in (".py", ".pyc")}

    assert data(installed / "escnet") == data(ROOT / "escnet")


def test_a_shipped_model_segments_a_picture(installed: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (40, 160, 60)).save(tmp_path / "green.png")
    options = ("--input", "green.png", "--vocabulary", "grass, snow", "--output", "out", "--device", "cpu")
    done = _run(installed, tmp_path, "predict", "--model", "shipped:esc_net", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "green.json").read_text())
    assert report["model"] == "shipped:esc_net" and report["class_names"] == ["grass", "snow"]
    assert Image.open(tmp_path / "out" / "green_labels.png").size == (64, 48)
