"""Each tool answers --help and mistyped options before it imports what takes seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from escnet.miniature.__main__ import parse
from escnet.miniature.demo import DemoTask
from tests.warm_process import WarmProcesses

ROOT = Path(__file__).parents[2]
TOOLS = sorted([*(ROOT / "tools").rglob("*.py"), *(ROOT / "datasets").glob("*.py")])
# Of each interpreter; none of them imports torch or detectron2, or the tests fail.
LIGHT = ("escnet.command_line", "escnet.own_process", "numpy", "tabulate", "PIL.Image", "concurrent.futures.process")
PROGRAM = """
import runpy, sys
tool = sys.argv[1]
sys.argv = [tool, sys.argv[2]]
try:
    runpy.run_path(tool, run_name="__main__")
finally:
    print("torch" in sys.modules, "detectron2" in sys.modules)
"""


@pytest.fixture(scope="module")
def light() -> Iterator[WarmProcesses]:
    """Starts processes that have imported what most tools import to read their options."""
    processes = WarmProcesses(LIGHT)
    yield processes
    processes.close()


@pytest.mark.parametrize(("option", "code"), [("--help", 0), ("--no-such-option", 2)])
@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_options_are_read_before_anything_heavy_is_imported(
    tool: Path, option: str, code: int, light: WarmProcesses, tmp_path: Path
) -> None:
    program, log = tmp_path / "program.py", tmp_path / "log.txt"
    program.write_text(PROGRAM)
    ended = light.start(log, program, str(tool), option).wait(timeout=60)
    output = log.read_text()
    assert ended == code, output
    assert "usage:" in output
    assert output.splitlines()[-1] == "False False"


def test_a_tool_as_it_is_typed() -> None:
    command = [sys.executable, "tools/predict.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 0 and "usage: predict.py" in done.stdout and not done.stderr


def test_what_the_demonstration_shows_by_default() -> None:
    options = parse([])
    assert (options.large, options.examples) == (DemoTask.large_limit, DemoTask.examples)


def test_an_unknown_question_is_named(
    load_script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_script("tools/miniature/ablation.py").main(["weather"]) == 2
    assert "no question weather; choose of" in capsys.readouterr().err
