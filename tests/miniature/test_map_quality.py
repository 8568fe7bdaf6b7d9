"""The quality of correlation maps, against values worked out by hand; and the script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from types import ModuleType

import numpy as np
import pytest

from escnet.config import load_config
from escnet.miniature.map_quality import _judge, _majority, measure_maps


def test_a_map_judged_by_hand() -> None:
    is_class = np.array([[True, True], [True, False]])
    own = np.array([[0.9, 0.2], [0.5, 0.3]])
    other = np.array([[0.0, 0.4], [0.1, 0.0]])
    # In order of the map: class, class, not, class. The map is the highest in three cells, two of them the class's.
    expected = ((1 / 1 + 2 / 2 + 3 / 4) / 3, 2 / 3, 2 / 3, (0.9 + 0.2 + 0.5) / 3)
    assert _judge(np.stack([other, own]), is_class, 1) == pytest.approx(expected)
    assert np.isnan(_judge(np.stack([own + 1, own]), is_class, 1)[2])


def test_a_cell_is_what_more_than_half_of_it_is() -> None:
    truth = np.array([[3, 3, 1, 1], [3, 5, 2, 2], [7, 7, 4, 9], [7, 7, 6, 8]])
    assert _majority(truth, (2, 2)).tolist() == [[3, -1], [7, -1]]


def test_one_stage_more_than_there_are_blocks(tiny_config: str) -> None:
    stages = measure_maps(load_config(tiny_config, []), "mojiscenes_val_novel")
    assert len(stages) == 2
    assert stages[0].classes == stages[1].classes > 0
    for stage in stages:
        assert 0 < stage.average_precision <= 1
        assert 0 <= stage.covered <= 1
    dense = load_config(tiny_config, ["MODEL.META_ARCHITECTURE", "DenseClip"])
    (alone,) = measure_maps(dense, "mojiscenes_val_novel")
    assert astuple(alone) == pytest.approx(astuple(stages[0]), nan_ok=True)


def test_the_script(
    load_script: Callable[[str], ModuleType], tiny_config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load_script("tools/miniature/map_quality.py").main
    assert main(["--config-file", tiny_config, "--weights", ""]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["map", ":--------------", "CLIP", "after block 1"]
    assert main(["--config-file", tiny_config, "--weights", "missing.pth"]) == 1
    assert "missing.pth" in capsys.readouterr().err
