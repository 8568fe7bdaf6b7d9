"""Experiments: what decides a training, results that are kept, the tables, and the questions themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from escnet.config import load_config
from escnet.miniature import experiments
from escnet.miniature.ablations import TABLES
from escnet.miniature.experiments import Experiment, Table, Variant, run_experiment, write_up

NOVEL = ("mojiscenes_val_novel[:2]",)
PLAIN = Variant("plain")
CONFIG = Path(__file__).parents[2] / "configs/mojiscenes/escnet.yaml"


@pytest.fixture
def experiment(tiny_config: str, tmp_path: Path) -> Experiment:
    return Experiment(tiny_config, PLAIN, NOVEL, 0, tmp_path / "out")


def test_an_experiment_trains_evaluates_and_is_remembered(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_experiment(experiment)[NOVEL[0]]
    assert 0 <= result["miou"] <= 1
    assert len(result["class_iou"]) == 52
    assert result["trained"] > 0 and result["seconds"] > 0
    folder = experiment.training_folder
    assert (folder / "model_final.pth").is_file()
    monkeypatch.setattr(experiments, "_evaluate", lambda *arguments: pytest.fail("evaluated again"))
    assert run_experiment(experiment)[NOVEL[0]] == result


def test_the_score_is_the_mean_over_the_objects(experiment: Experiment) -> None:
    result = run_experiment(experiment)[NOVEL[0]]
    ious = [iou for iou in list(result["class_iou"].values())[12:] if iou is not None]
    assert result["miou"] == pytest.approx(sum(ious) / len(ious))


def test_evaluation_options_share_a_training(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    run_experiment(experiment)
    monkeypatch.setattr(experiments, "build_trainer", lambda *arguments: pytest.fail("trained again"))
    fewer = Variant("fewer", test=("MODEL.ESC.MAX_CLASSES", "2"))
    other = replace(experiment, variant=fewer)
    assert other.training_folder == experiment.training_folder
    assert other.result_file(NOVEL[0]) != experiment.result_file(NOVEL[0])
    result = run_experiment(other)[NOVEL[0]]
    assert result["options"][-2:] == ["MODEL.ESC.MAX_CLASSES", "2"]


def test_what_decides_the_weights_decides_the_folder(experiment: Experiment) -> None:
    others = (
        replace(experiment, seed=1),
        replace(experiment, variant=Variant("wide", ("MODEL.ESC.DIM", "24"))),
        replace(experiment, common=("SOLVER.MAX_ITER", "5")),
    )
    folders = {other.training_folder for other in (experiment, *others)}
    assert len(folders) == 4
    for same in (Variant("another name"), Variant("default", ("MODEL.ESC.ALPHA", "0.5"))):
        assert replace(experiment, variant=same).training_folder == experiment.training_folder


def test_weights_count_by_their_contents(experiment: Experiment, tmp_path: Path) -> None:
    clip = Path(load_config(experiment.config_file).MODEL.CLIP.WEIGHTS)
    moved = clip.rename(tmp_path / "moved.safetensors")
    there = replace(experiment, common=("MODEL.CLIP.WEIGHTS", str(moved)))
    folder = there.training_folder
    shutil.copy(moved, clip)
    assert experiment.training_folder == folder
    clip.write_bytes(b"other weights")
    assert replace(experiment).training_folder != folder


def test_baselines_are_not_trained(experiment: Experiment) -> None:
    dense = Variant("DenseClip", test=("MODEL.META_ARCHITECTURE", "DenseClip"), is_trained=False)
    result = run_experiment(replace(experiment, variant=dense))[NOVEL[0]]
    assert result["trained"] == 0
    assert not (replace(experiment, variant=dense).training_folder / "model_final.pth").exists()


def test_the_table_is_the_mean_and_deviation_of_what_is_on_disk(tiny_config: str, tmp_path: Path) -> None:
    wide = Variant("wide", ("MODEL.ESC.DIM", "24"))
    results = {
        PLAIN: {1: 0.1, 2: 0.2, 3: 0.3},
        wide: {1: 0.12, 2: 0.21, 3: 0.33},
        Variant("DenseClip", is_trained=False, test=("MODEL.META_ARCHITECTURE", "DenseClip")): {0: 0.1},
    }
    for variant, scores in results.items():
        for seed, score in scores.items():
            path = Experiment(tiny_config, variant, NOVEL, seed, tmp_path).result_file(NOVEL[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"miou": score, "seconds": 0.002, "trained": 0.5}))
    lines = write_up(Table("tiny", "Which?", tuple(results), NOVEL), tiny_config, tmp_path, (1, 2, 3)).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == ["tiny", "novel[:2]", "s/iteration", "ms/image"]
    assert rows[2] == ["plain", "20.0 ± 10.0", "0.50", "2"]
    assert rows[3] == ["wide", "22.0 ± 10.5 (+2.0 ± 1.0)", "0.50", "2"]
    assert rows[4] == ["DenseClip", "10.0", "-", "2"]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_question_has_valid_options_and_rows_of_its_own(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("escnet.config.resolve_shipped", lambda weights: weights)
    for variant in table.variants:
        Experiment(CONFIG, variant, table.datasets, 0, Path()).load([*variant.train, *variant.test])
    assert len({variant.name for variant in table.variants}) == len(table.variants)
    assert len({replace(variant, name="") for variant in table.variants}) == len(table.variants)


def test_the_script_runs_a_table(
    load_script: Callable[[str], ModuleType],
    tiny_config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script("tools/miniature/ablation.py")
    tiny = Table("sam_block", "Does it help?", (Variant("none", ("MODEL.SAM.INIT", "none")),), NOVEL)
    monkeypatch.setitem(TABLES, "sam_block", tiny)
    arguments = [
        "sam_block",
        "--config-file",
        tiny_config,
        "--output",
        str(tmp_path / "o"),
        "--seeds",
        "0",
        "--jobs",
        "1",
    ]
    assert script.main(arguments) == 0
    output = capsys.readouterr()
    assert "Does it help?" in output.out and "| none" in output.out
    assert "1/1 after" in output.err
    assert script.main(["--list"]) == 0
    assert "train_classes" in capsys.readouterr().out
    assert script.main([*arguments, "--set", "MODEL.NO_SUCH_KEY", "1"]) == 1
    assert "NO_SUCH_KEY" in capsys.readouterr().err
