"""The rules of the house, read from its imports: what is shared knows no system, and no two rooms import each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "escnet"
FILES = sorted(ROOT.rglob("*.py"))
SHARED = ("training/trainer.py", "training/optimizer.py", "evaluation/runs/conditions.py", "complexity.py")
SYSTEMS = r"ESC|CLIP|SAM|DenseClip|ClipThenSam"
# Detectron2's key for the clipping of gradients.
NOT_A_SYSTEM = r"CLIP_GRADIENTS|CLIP_VALUE|CLIP_TYPE"


def imports(path: Path) -> Iterator[str]:
    """The modules of escnet that a file imports, those for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "escnet":
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "escnet")


def room(path: Path) -> str:
    """The folder of a file below escnet, or its own name."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in FILES:
        for module in imports(path):
            parts = module.split(".")
            if len(parts) > 1 and ((ROOT / parts[1]).is_dir() or (ROOT / f"{parts[1]}.py").is_file()):
                found.setdefault(room(path), set()).add(parts[1])
    return found


def test_nothing_imports_the_miniature() -> None:
    guests = {name for name, rooms in imported_rooms().items() if "miniature" in rooms}
    assert guests <= {"miniature", "__main__"}


def test_no_two_rooms_import_each_other() -> None:
    rooms = imported_rooms()
    pairs = {(a, b) for a, others in rooms.items() for b in others if a != b and a in rooms.get(b, ())}
    assert not pairs


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("layers", {"meta_arch", "data", "training", "evaluation", "config", "pretrained", "predictor"}),
        ("losses", {"layers", "meta_arch", "data", "training", "evaluation", "config"}),
        ("pretrained", {"layers", "meta_arch", "data", "training", "evaluation", "config", "predictor"}),
        ("meta_arch", {"data", "training", "evaluation", "predictor"}),
        ("data", {"meta_arch", "training", "evaluation", "predictor", "losses"}),
        ("drawing", {"meta_arch", "data", "training", "evaluation", "predictor"}),
        ("evaluation", {"training"}),
        ("vocabulary", {"layers", "meta_arch", "data", "training", "evaluation", "config", "pretrained"}),
    ],
)
def test_nothing_lower_imports_anything_higher(lower: str, higher: set[str]) -> None:
    assert not imported_rooms().get(lower, set()) & higher


def test_layers_import_neither_detectron2_nor_files() -> None:
    for path in (ROOT / "layers").glob("*.py"):
        assert not re.search(r"^\s*(from|import) (detectron2|pathlib|os)\b", path.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("file", SHARED)
def test_shared_files_name_no_system(file: str) -> None:
    text = re.sub(NOT_A_SYSTEM, "", (ROOT / file).read_text(encoding="utf-8"))
    assert not re.findall(SYSTEMS, text)
