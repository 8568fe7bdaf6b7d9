"""What tiles leave of seams: mosaics, the measures, and the script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from escnet import Vocabulary
from escnet.data.images import read_image
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.labelling.tiles import TileGrid, Tiling
from escnet.miniature import tile_seams
from escnet.miniature.tile_seams import Mosaic, Seams, load, make_mosaic, mean_seams

SCRIPT, DATASET = "tools/miniature/tile_seams.py", "mojiscenes_val_novel"


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script(SCRIPT)


@pytest.fixture
def arguments(tiny_config: str) -> list[str]:
    return ["--config-file", tiny_config, "--weights", "", "--dataset", DATASET, "--seeds", "0"]


def test_a_table_of_all_ways(
    script: ModuleType,
    arguments: list[str],
    cells: Callable[[str, str], list[list[str]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert script.main([*arguments, "1", "--mosaic", "2", "1", "--overlaps", "0", "0.5"]) == 0
    rows = cells(capsys.readouterr().out, "2 mosaics")
    names = ["one pass", "TEST.SLIDING", "0.00 uniform", "0.50 uniform", "0.50 linear", "0.50 cosine"]
    assert [row[0] for row in rows] == names
    tiles = [int(row[1]) for row in rows]
    assert tiles == [1, 3, 2, 3, 3, 3]
    # Each is as it is itself.
    assert rows[0][6] == rows[1][5] == "100.0%"


def test_tiles_are_held_against_the_same_sums_in_memory(
    script: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*arguments, "--whole", "2", "2", "64", "MODEL.ESC.KEEP", "15"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("mosaic 0, 128 x 128, tiles of 64, ") and line.endswith(" classes: 0 labels differ")


def test_what_is_missing_is_told(script: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([*arguments[:-4], "--dataset", "nowhere"]) != 0
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        script.main([*arguments, "--overlaps", "1"])


def test_a_mosaic_is_made_of_whole_pictures(tiny_config: str) -> None:
    data = EvaluationData.load(DATASET, tile_seams.load_config(tiny_config))
    mosaic = make_mosaic(data, 3, 2, 3)
    assert mosaic.pixels.shape == (128, 192, 3) and mosaic.truth.shape == (128, 192) and mosaic.side == 64
    top, left = (mosaic.side - offset for offset in mosaic.offset)
    middle = mosaic.pixels[top : top + 64, left : left + 64]
    assert any(np.array_equal(middle, read_image(record["file_name"])) for record in data.records)


def test_changes_are_counted_where_they_are() -> None:
    """Labels that change at the border of two tiles, and at that of two pictures, which does not count."""
    labels = np.zeros((4, 24), np.int64)
    labels[:, 8:], labels[:, 15:] = 1, 2
    mosaic = Mosaic(np.zeros((4, 24, 3), np.uint8), labels, 12, (0, 9))
    data = SimpleNamespace(space=SimpleNamespace(vocabulary=Vocabulary(["a", "b", "c"])), class_names=("a", "b", "c"))
    reference = tile_seams._Reference(labels, np.zeros_like(labels))
    grid = TileGrid((4, 24), (8, 8), Tiling(8, 0))
    seams = tile_seams._judge("x", 3, labels, reference, mosaic, data, grid)
    # Borders of tiles are before the columns 8 and 16, those of pictures, which do not count, before 3 and 15.
    assert grid.lefts == [0, 8, 16]
    assert seams.at_borders == 1 and seams.elsewhere == 0
    assert (seams.agreement, seams.agreement_in_one_pass, seams.accuracy) == (1, 8 / 24, 1)


def test_means_over_mosaics() -> None:
    one = Seams("a", 4, 0.1, 0.2, 0.5, 0.6, 0.7, 0.4)
    ((mean, deviation),) = mean_seams([[one], [replace(one, at_borders=0.3, miou=0.6)]])
    assert (mean.name, mean.tiles) == ("a", 4)
    assert mean.at_borders == pytest.approx(0.2) and mean.miou == pytest.approx(0.5)
    assert deviation == pytest.approx(0.1414, abs=1e-3)


def test_the_model_is_as_it_was_afterwards(tiny_config: str) -> None:
    segmenter, data = load(tiny_config, "", DATASET)
    before = segmenter.model.inference
    list(tile_seams.measure_seams(segmenter, data, 0, mosaic_size=(2, 1), overlaps=()))
    assert segmenter.model.inference is before
