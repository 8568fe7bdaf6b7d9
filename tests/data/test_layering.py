"""The data know nothing of what is built on them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import escnet.data

FOLDER = Path(escnet.data.__file__).parent
HIGHER = ("meta_arch", "evaluation", "training", "losses", "miniature", "labelling", "export")


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda file: file.relative_to(FOLDER).as_posix())
def test_no_module_imports_a_higher_one(file: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    higher = tuple(f"escnet.{name}" for name in HIGHER)
    assert not [name for name in imported if f"{name}.".startswith(tuple(f"{prefix}." for prefix in higher))]
