"""What tools/benchmark_export.py measures and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SYSTEM = ("--config-file", "configs/mojiscenes/sam_clip.yaml", "--weights", "shipped:sam_clip")


@pytest.fixture
def tool(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tiny_data: Path) -> ModuleType:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_data))
    script = load_script("tools/benchmark_export.py")
    monkeypatch.setattr(script, "in_own_process", lambda function, *arguments: function(*arguments))
    return script


def test_the_table_has_pytorch_and_each_export(
    tool: ModuleType, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(exported)
    given = [*SYSTEM, "--exported", folder, folder, "--dataset", "mojiscenes_val_novel", "MODEL.DEVICE", "cpu"]
    assert tool.main(given) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == list(tool.HEADS)
    plain, *others = rows[2:]
    assert plain[:2] == ["PyTorch", ""]
    assert [row[0] for row in others] == [folder, folder]
    for row in others:
        assert float(row[1]) == pytest.approx(tool._size(exported), abs=0.1)
        assert float(row[6]) == pytest.approx(float(plain[6]), abs=0.5)
        assert float(row[7]) > 99.9
        assert all(float(cell) > 0 for cell in row[3:6])


def test_what_cannot_be_measured_is_told_in_a_line(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([*SYSTEM, "--exported", str(tmp_path), "--dataset", "mojiscenes_val_novel"]) == 2
    assert "card.json: cannot be read" in capsys.readouterr().err
