"""Models that look at some of the words alone: what an evaluation notes of it for each image, and where it is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from escnet.config import load_config
from escnet.data.mappers import EvaluationMapper
from escnet.evaluation.loop import evaluate_datasets
from escnet.evaluation.report.html_report import write_report
from escnet.evaluation.report.result_table import Row, measured_row, words_looked_at, words_note, write_table
from escnet.evaluation.runs.conditions import model_identity
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.runs.image_results import ImageResults
from escnet.evaluation.runs.run_folder import Run
from escnet.evaluation.zero_shot import ZeroShotTask, evaluate_run, evaluate_zero_shot
from escnet.predictor import Segmenter

DATASET = "mojiscenes_val_novel"
PRUNED = (
    *("MODEL.ESC.MAX_CLASSES", "30", "MODEL.ESC.KEEP", "20"),
    *("MODEL.ESC.KEEP_SHARE", "0.1", "MODEL.ESC.KEEP_LEAST", "1"),
)
ALL = ("MODEL.ESC.MAX_CLASSES", "0", "MODEL.ESC.KEEP", "0", "MODEL.ESC.KEEP_SHARE", "0.0")
WINDOWS = ("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "(64, 96)", "TEST.SLIDING.WINDOW", "(64, 64)")


def evaluate(cfg: CfgNode, output: Path, batch_size: int = 1) -> tuple[dict, dict, str]:
    """Metrics and CSV line of an evaluation, and the text of all that was written for people."""
    table = evaluate_zero_shot(cfg, ZeroShotTask((DATASET,), output, "ESCNet", batch_size=batch_size))
    metrics = json.loads((output / f"ESCNet/{DATASET}/metrics.json").read_text())
    with open(output / "table.csv") as file:
        (line,) = csv.DictReader(file)
    written = [(output / name).read_text() for name in ("table.md", "report.html")]
    return metrics, line, "\n".join([table, *written])


def rows_of_each_image(cfg: CfgNode) -> list[int]:
    """How many rows the model keeps in each image when it is asked for them one by one."""
    data = EvaluationData.load(DATASET, cfg)
    mapper = EvaluationMapper({DATASET: data.space})
    torch.manual_seed(cfg.SEED)
    model = Segmenter.from_config(cfg).model
    with torch.no_grad():
        encoded = [model.encode(mapper(record)["image"]) for record in data.records]
        return [model.segment(features, data.space.vocabulary).rows.shape[1] for features in encoded]


@pytest.mark.parametrize("options", [(), WINDOWS], ids=["whole images", "windows"])
def test_the_mean_of_a_pruned_model_is_told(tiny_config: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    cfg = load_config(tiny_config, [*PRUNED, *options])
    expected = rows_of_each_image(cfg)
    assert len(set(expected)) > 1, "the images have to keep different numbers of words"
    mean = sum(expected) / len(expected)
    metrics, line, text = evaluate(cfg, tmp_path / "out")
    words = metrics["words"]
    assert metrics["words_considered"] == mean < words
    assert (float(line["words_considered"]), int(line["words"])) == (mean, words)
    results = {result.image: result.words_considered for result in ImageResults(tmp_path / f"out/ESCNet/{DATASET}")}
    assert list(results.values()) == expected
    note = f"ESCNet looked at a part of the words in an image: on average {mean:.1f} of {words} (Moji-novel)."
    assert text.splitlines().count(note) == 2 and f'<p class="faint">{note}</p>' in text
    assert f"mean of words looked at per image</th><td>{mean:.1f} of {words}</td>" in text
    assert json.loads((tmp_path / "out/table.json").read_text())["notes"][-1] == note


def test_an_evaluation_of_a_training_tells_it_too(tiny_config: str, tmp_path: Path) -> None:
    cfg = load_config(tiny_config, [*PRUNED, "DATASETS.TEST", str((DATASET,)), "OUTPUT_DIR", str(tmp_path)])
    expected = rows_of_each_image(cfg)
    torch.manual_seed(cfg.SEED)
    evaluate_datasets(cfg, Segmenter.from_config(cfg).model)
    (report,) = tmp_path.glob("inference/*/semantic_metrics.json")
    assert json.loads(report.read_text())["words_considered"] == sum(expected) / len(expected)


def test_batches_stops_and_processes_change_nothing(tiny_config: str, tmp_path: Path) -> None:
    cfg = load_config(tiny_config, PRUNED)
    alone = evaluate(cfg, tmp_path / "alone")[0]["words_considered"]
    assert evaluate(cfg, tmp_path / "batch", batch_size=2)[0]["words_considered"] == alone
    folder = tmp_path / f"batch/ESCNet/{DATASET}"
    first, second = (folder / "images.0.jsonl").read_text().splitlines(keepends=True)
    (folder / "images.0.jsonl").write_text(first)
    assert evaluate(cfg, tmp_path / "batch")[0]["words_considered"] == alone
    # As two processes leave it.
    (folder / "images.0.jsonl").write_text(second)
    (folder / "images.1.jsonl").write_text(first)
    assert evaluate(cfg, tmp_path / "batch")[0]["words_considered"] == alone


def test_nothing_more_is_said_of_a_model_that_looks_at_all(tiny_config: str, tmp_path: Path) -> None:
    metrics, line, text = evaluate(load_config(tiny_config, ALL), tmp_path / "out")
    assert metrics["words_considered"] == metrics["words"] == int(line["words"]) == float(line["words_considered"])
    assert "looked at" not in text


class Foreign(nn.Module):
    """Scores of each class, as Detectron2's own models give them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.classes = classes

    def forward(self, batch):
        return [{"sem_seg": torch.eye(self.classes)[x["image"][0].long() % self.classes].movedim(2, 0)} for x in batch]


def test_of_a_model_that_does_not_say_it_nothing_is_known(tiny_config: str, tmp_path: Path) -> None:
    cfg = load_config(tiny_config)
    run = Run("Foreign", EvaluationData.load(DATASET, cfg), tmp_path / "out")
    model = Foreign(len(run.data.class_names))
    evaluate_run(run, cfg, model, model_identity(cfg, model))
    assert "words_considered" not in (run.folder / "images.0.jsonl").read_text()
    assert "words_considered" not in json.loads((run.folder / "metrics.json").read_text())
    assert "looked at" not in write_table(run.output, [DATASET], [measured_row("Foreign", [run])])
    with open(run.output / "table.csv") as file:
        (line,) = csv.DictReader(file)
    assert line["words_considered"] == line["words"] == ""
    assert "looked at" not in write_report(run.output).read_text()


def test_results_of_before_it_was_noted_are_gone_on_with(tiny_config: str, tmp_path: Path) -> None:
    cfg = load_config(tiny_config, PRUNED)
    evaluate(cfg, tmp_path)
    path = tmp_path / f"ESCNet/{DATASET}/images.0.jsonl"
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    del first["words_considered"]
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    assert evaluate(cfg, tmp_path)[0]["words_considered"] == second["words_considered"]
    del second["words_considered"]
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    metrics, line, text = evaluate(cfg, tmp_path)
    assert "words_considered" not in metrics and line["words_considered"] == "" and "looked at" not in text


def test_a_row_says_it_of_each_column_where_words_were_left_out() -> None:
    scores = {
        "a": {"miou": 0.5, "words": 847, "words_considered": 15.24},
        "b": {"miou": 0.5, "words": 20, "words_considered": 20.0},
        "c": {"miou": 0.5},
        "d": {"miou": 0.5, "words": 459, "words_considered": 9},
    }
    assert [words_looked_at(entry) for entry in scores.values()] == ["15.2 of 847", None, None, "9.0 of 459"]
    row, names = Row("M", "measured", "how", scores), ("a", "b", "c", "d", "e")
    said = "M looked at a part of the words in an image: on average 15.2 of 847 (A), 9.0 of 459 (D)."
    assert words_note(row, names, [name.upper() for name in names]) == said
    assert words_note(row, ("b", "c"), ("B", "C")) is None
