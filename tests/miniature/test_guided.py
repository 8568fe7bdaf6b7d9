"""Experiments with CLIP-Guided SAM: their questions, curves, and what is left of SAM's own ability."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from escnet.miniature import experiments, guided_ability, guided_curves, guided_regions, guided_tables
from escnet.miniature.experiments import Experiment, Table, Variant, run_experiment
from escnet.miniature.guided_curves import CURVES, save_curves, write_up_curves
from escnet.miniature.guided_tables import CONFIG, TABLES, few
from escnet.miniature.world.classes import NOVEL, words

SHORT = (
    "SOLVER.MAX_ITER", "1", "LABELLED.PERIOD", "1", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0",
)  # fmt: skip


@pytest.fixture(autouse=True)
def world(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a tiny world, of which two are labelled."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_data))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments are done here, where the tests' changes hold."""
    for module in (experiments, guided_ability):
        monkeypatch.setattr(module, "several_processes", lambda _: ThreadPoolExecutor(1))


@pytest.mark.parametrize("table", (CURVES | TABLES).values(), ids=CURVES | TABLES)
def test_every_question_has_valid_options_and_rows_of_its_own(table: Table) -> None:
    for variant in table.variants:
        Experiment(CONFIG, variant, table.datasets, 0, Path()).load([*variant.train, *variant.test])
    assert len({variant.name for variant in table.variants}) == len(table.variants)
    assert len({replace(variant, name="") for variant in table.variants}) == len(table.variants)


def test_an_experiment_is_judged_under_both_protocols(tmp_path: Path) -> None:
    columns = ("mojiscenes_val_novel[:1]", "mojiscenes_val_novel[:1]@oracle", "mojiscenes_val_novel[:1]@oracle-points")
    variant = Variant("few", (*few(2), "LABELLED.VALIDATION", "0.5"))
    found = run_experiment(Experiment(CONFIG, variant, columns, 0, tmp_path, SHORT))
    assert [0 <= found[column]["miou"] <= 1 for column in columns] == [True] * 3
    assert found[columns[0]]["pixel_accuracy"] is not None and found[columns[1]]["pixel_accuracy"] is None
    assert found[columns[0]]["parameters"] > 100_000


def tiny_curves(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(guided_curves, "COUNTS", (2, 0))
    variants = (
        Variant("not trained | 2000", is_trained=False),
        Variant("guided | 2", (*few(2), "LABELLED.VALIDATION", "0.5")),
        Variant("guided | 2000", (*few(0), "LABELLED.VALIDATION", "0.5", "MODEL.GUIDED.ADAPTERS", "()")),
    )
    return Table("text", "Which?", variants, ("mojiscenes_val_novel[:1]@oracle",), shows_parameters=True)


def test_curves_are_a_table_and_a_plot(
    load_script: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(CURVES, "text", tiny_curves(monkeypatch))
    script, plot = load_script("tools/miniature/clip_guided_sam.py"), tmp_path / "curves.png"
    arguments = ["text", "--output", str(tmp_path / "o"), "--seeds", "0", "1", "--jobs", "1", "--plot", str(plot)]
    assert script.main([*arguments, "--set", *SHORT]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == ["novel[:1], oracle", "trained parameters", "2", "2000"]
    assert rows[2][0] == "not trained" and rows[2][2] == rows[2][3] and rows[2][1] == "0"
    assert rows[3][0] == "guided" and "±" in rows[3][2]
    assert np.asarray(Image.open(plot)).std() > 5
    assert write_up_curves(CURVES["text"], CONFIG, tmp_path / "o", (0, 1), SHORT).count("guided") == 1
    save_curves(plot, CURVES["text"], CONFIG, tmp_path / "o", (0,), SHORT)


def test_named_objects_are_drawn_with_their_words() -> None:
    images, regions, named = guided_ability.draw_named_objects(3)
    assert images.shape == (3, 3, 128, 128) and regions.shape == (3, 128, 128)
    for of_image, rows in zip(regions, named.rows, strict=True):
        numbers = [k for k in of_image.unique().tolist() if 0 < k < guided_ability.GROUND]
        assert numbers and all(rows[k].item() in NOVEL for k in numbers)
    assert named.vocabulary.names[NOVEL[0]] == words()[NOVEL[0]].name


def test_the_ability_is_judged_with_and_without_words(
    load_script: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(guided_ability, "PICTURES", 2)
    monkeypatch.setattr(guided_ability, "POINTS", ("mojiscenes_val_novel[:1]@oracle-points",))
    train = (*few(2), "LABELLED.VALIDATION", "0.5", "SOLVER.WARMUP_ITERS", "0")
    rows = tuple(row._replace(variant=replace(row.variant, train=train)) for row in guided_ability.ROWS[:3])
    monkeypatch.setattr(guided_ability, "ROWS", rows)
    script = load_script("tools/miniature/clip_guided_sam.py")
    arguments = ["ability", "--output", str(tmp_path / "o"), "--seeds", "0", "--jobs", "1", "--set", *SHORT]
    torch.manual_seed(0)
    assert script.main(arguments) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert table[0] == ["ability", "box", "1 click, best of 3", "1 click", "3 clicks", "5 clicks"]
    assert [row[0] for row in table[2:]] == ["SAM", "trained by text", "trained by text, with words"]
    found = [path.read_text() for path in (tmp_path / "o/results").glob("*.json") if "clicks" in path.read_text()]
    assert len(set(found)) == 3


def test_a_region_is_compared_with_a_thing_by_area() -> None:
    region, thing = torch.zeros(2, 2, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    region[0] = True
    thing[:3, 1:] = True  # 2, 4 (above), 1, 2 (below) of four pixels of a cell each
    assert guided_regions.overlap(region, thing) == pytest.approx(((0.5 + 1) / 2, 1.5 / 2.25))
    assert guided_regions.overlap(~region & region, thing) == (0, 0)


def test_regions_are_looked_at_for_each_similarity_and_threshold(
    load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guided_regions, "PICTURES", 2)
    monkeypatch.setattr(guided_regions, "THRESHOLDS", (0.5, 0.9))
    assert load_script("tools/miniature/clip_guided_sam.py").main(["regions", "--set", *SHORT]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0][2:] == ["novel: on the thing", "novel: covered", "base: on the thing", "base: covered"]
    found = [[float(cell) for cell in row[2:]] for row in rows[2:]]
    assert len(found) == 6 and all(0 <= value <= 100 for row in found for value in row)
    for low, high in zip(found[::2], found[1::2], strict=True):
        # A higher threshold leaves a part of the region.
        assert low[1] > high[1] > 0 and low[3] > high[3] > 0
    assert found[1] != found[3] != found[5] != found[1]


def test_mistakes_are_refused(
    load_script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("tools/miniature/clip_guided_sam.py")
    assert script.main(["nothing"]) != 0
    assert "there is no question nothing; choose of text, manual, signals" in capsys.readouterr().err
    assert script.main(["signals", "--plot", str(tmp_path / "x.png")]) != 0
    assert "draws curves, of text and manual alone" in capsys.readouterr().err
    assert script.main(["--list"]) == 0
    assert "ability" in capsys.readouterr().out
    assert set(guided_tables.METHODS) >= {"CLIP-Guided SAM", "LoRA", "plain adapters", "decoder alone"}
