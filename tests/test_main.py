"""`python -m escnet`: commands by name, none imported before it is called; what is said where a package is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import escnet
from escnet import __main__ as program
from escnet.optional_packages import EXTRAS, INSTALL_DETECTRON2, missing_package

ROOT = Path(__file__).parents[1]
# As a module that is not there, in a process of its own.
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == sys.argv[1] else found(name, package)
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(("option", "says"), [("--help", "predict "), ("--version", f"escnet {escnet.__version__}")])
def test_nothing_heavy_is_imported_to_say_what_there_is(option: str, says: str) -> None:
    code = f"import sys; from escnet.__main__ import main; main([{option!r}]); print(sorted(set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert says in done.stdout
    imported = done.stdout.splitlines()[-1]
    assert not [name for name in ("torch", "numpy", "detectron2", "PIL") if f"'{name}'" in imported]


def test_a_command_gets_its_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        program.main(["predict", "--help"])
    assert stopped.value.code == 0 and "--model NAME" in capsys.readouterr().out
    assert program.main([]) == 0
    assert "usage: python -m escnet COMMAND" in capsys.readouterr().out


def test_each_command_is_there() -> None:
    for command in program.COMMANDS.values():
        assert importlib.util.find_spec(command.module) is not None


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["predcit"]) == 2
    assert (
        capsys.readouterr().err
        == "escnet: there is no command predcit; there are demo, predict, app, export, tune, label_corpus\n"
    )


def _run_without(module: str, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, module]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_missing_detectron2_is_told_with_its_remedy() -> None:
    options = ["predict", "--model", "shipped:esc_net", "--input", "LICENSE", "--vocabulary", "a, b", "--output", "x"]
    done = _run_without("detectron2", f"from escnet.__main__ import main; sys.exit(main({options}))")
    assert done.returncode == 2
    assert done.stderr == f"escnet predict: {missing_package(ModuleNotFoundError(name='detectron2'))}\n"
    done = _run_without("detectron2", "from escnet import Vocabulary, Segmenter")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: detectron2 is not installed, and pip alone")
    assert INSTALL_DETECTRON2 in done.stderr


def test_the_command_installs_the_version_that_is_pinned() -> None:
    pinned = (ROOT / "requirements-detectron2.txt").read_text().split("\n")[1].split()[0]
    assert pinned in INSTALL_DETECTRON2


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: str) -> None:
        raise ModuleNotFoundError("No module named 'gradio.blocks'", name="gradio.blocks")

    monkeypatch.setattr(program, "import_module", fail)
    assert program.main(["app"]) == 2
    assert capsys.readouterr().err == "escnet app: gradio is not installed: pip install 'escnet[app]'\n"


def test_a_fault_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ModuleNotFoundError("No module named 'escnet.gone'", name="escnet.gone")

    monkeypatch.setattr(program, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match=r"escnet\.gone"):
        program.main(["app"])


def test_every_extra_that_is_named_is_there() -> None:
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    names = {line.split(" = ")[0] for line in text.partition("[tool")[0].splitlines() if " = [" in line}
    assert set(EXTRAS.values()) <= names
