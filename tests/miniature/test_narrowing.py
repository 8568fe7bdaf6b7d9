"""What looking at fewer classes costs: choices as they are spelled, recall and mIoU of each, and the script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from escnet.config import load_config
from escnet.evaluation.loop import evaluate_datasets
from escnet.meta_arch.correlation_model import ClassChoice
from escnet.miniature.narrowing import measure_choices, parse_choice
from escnet.predictor import Segmenter
from escnet.training.tasks.segmentation import segmentation_trainer

DATASET = "mojiscenes_val_novel"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", ClassChoice()),
        ("64", ClassChoice(64)),
        ("64>8", ClassChoice(64, 8)),
        ("all>12", ClassChoice(0, 12)),
        ("128>32@0.05", ClassChoice(128, 32, 0.05)),
        ("9>3@.5", ClassChoice(9, 3, 0.5)),
        ("64>12-24@0.02", ClassChoice(64, 24, 0.02, 12)),
    ],
)
def test_a_choice_is_spelled(text: str, expected: ClassChoice) -> None:
    assert parse_choice(text) == expected


@pytest.mark.parametrize("text", ["", "none", "64>", "64@0.1", "64>8@2", "64>8@", "64>4-8", "64>8-@0.1", "-3"])
def test_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no choice of classes"):
        parse_choice(text)


def test_a_choice_is_judged_as_an_evaluation_judges_the_same_configuration(tiny_config: str, tmp_path: Path) -> None:
    choices = ["all", "20", "20>5", "20>9@0.03", "20>5-9@0.03"]
    options = {
        "all": (0, 0, 0.0, 1),
        "20": (20, 0, 0.0, 1),
        "20>5": (20, 5, 0.0, 1),
        "20>9@0.03": (20, 9, 0.03, 1),
        "20>5-9@0.03": (20, 9, 0.03, 5),
    }
    cfg = load_config(tiny_config, ["OUTPUT_DIR", str(tmp_path / "training"), "SOLVER.MAX_ITER", "1"])
    trainer = segmentation_trainer(cfg)
    trainer.train()
    cfg.MODEL.WEIGHTS = str(tmp_path / "training" / "model_final.pth")
    scores = measure_choices(cfg, DATASET, [parse_choice(choice) for choice in choices])
    for choice, score in zip(choices, scores, strict=True):
        for key, value in zip(("MAX_CLASSES", "KEEP", "KEEP_SHARE", "KEEP_LEAST"), options[choice], strict=True):
            cfg.MODEL.ESC[key] = value
        cfg.DATASETS.TEST = (DATASET,)
        model = Segmenter.from_config(cfg).model
        expected = evaluate_datasets(cfg, model)[DATASET]["sem_seg"]["mIoU"]
        assert 100 * score.miou == pytest.approx(expected, abs=1e-9)
    everything, twenty, five, some, more = scores
    assert everything.recall == everything.first_recall == 1.0 and everything.kept == 52
    assert twenty.recall == twenty.first_recall == five.first_recall == some.first_recall
    assert five.recall <= some.recall <= twenty.recall
    assert five.kept == 5 and 1 <= some.kept <= more.kept and 5 <= more.kept <= 9


def test_a_model_without_choice_is_refused(tiny_config: str) -> None:
    cfg = load_config(tiny_config, ["MODEL.META_ARCHITECTURE", "DenseClip"])
    with pytest.raises(ValueError, match="DenseClip looks at all classes"):
        measure_choices(cfg, DATASET, [ClassChoice()])


def test_the_script(
    load_script: Callable[[str], ModuleType], tiny_config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load_script("tools/miniature/narrowing.py").main
    cfg = load_config(tiny_config, ["OUTPUT_DIR", str(tmp_path / "training"), "SOLVER.MAX_ITER", "1"])
    segmentation_trainer(cfg).train()
    weights = str(tmp_path / "training" / "model_final.pth")
    own = ["--config-file", tiny_config, "--weights", weights, weights, "--output", str(tmp_path / "results")]
    own += ["--datasets", f"{DATASET}[:2]"]
    assert main([*own, "--choices", "all", "20>5"]) == 0
    header, _, everything, five = capsys.readouterr().out.splitlines()
    assert "novel[:2]: mIoU" in header and "± 0.0" in everything and "± 0.0" in five
    assert len(list((tmp_path / "results").glob("*.json"))) == 1
    assert main([*own, "--choices", "20>5", "none"]) == 1
    assert '"none" is no choice of classes' in capsys.readouterr().err
