"""Evaluation in this process: every file of a run, continuing, changed conditions, and a case worked out by hand."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from escnet.config import load_config
from escnet.data.errors import DatasetError
from escnet.data.images import read_image, read_labels, write_labels
from escnet.evaluation.report.html_report import write_report
from escnet.evaluation.report.published import PUBLISHED
from escnet.evaluation.report.result_table import measured_row, write_table
from escnet.evaluation.runs import image_results
from escnet.evaluation.runs.comparison import compare_runs
from escnet.evaluation.runs.conditions import SCORED, model_identity
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.runs.image_results import ImageResults, ResultsError
from escnet.evaluation.runs.run_folder import Run
from escnet.evaluation.semantic import SemanticEvaluator
from escnet.evaluation.zero_shot import ZeroShotTask, evaluate_zero_shot, models_to_evaluate
from escnet.evaluation.zero_shot import evaluate_run as evaluate_identified_run
from escnet.meta_arch import ESCNet
from escnet.meta_arch.interfaces import InferenceOptions, SegmentingModel
from escnet.meta_arch.segmentation import Segmentation

MINI = Path(__file__).parents[2] / "configs/camvid/escnet.yaml"


class RedModel(SegmentingModel):
    """Says of each pixel the word whose row is its red value; it has one weight, and counts its calls."""

    def __init__(self) -> None:
        super().__init__(InferenceOptions((4, 4)))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.calls = 0

    def encode_pixels(self, pixels):
        raise NotImplementedError

    def encode(self, images):
        return images[0].long()

    def segment_features(self, features, vocabulary):
        self.calls += 1
        one_hot = torch.nn.functional.one_hot(features, len(vocabulary.rows)).permute(2, 0, 1)
        return Segmentation(100 * one_hot[None].float())


def evaluate_run(run: Run, cfg, model: RedModel, weights: str = "", restart: bool = False):
    return evaluate_identified_run(run, cfg, model, model_identity(cfg, model, weights), restart)


@pytest.fixture
def cfg():
    return load_config(MINI, ["DATALOADER.NUM_WORKERS", "0"])


@pytest.fixture
def voc(tmp_path, monkeypatch) -> Path:
    """Two pictures of VOC with background in which some predictions are background words, worked out by hand below."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "VOCdevkit/VOC2012"
    labels = root / "annotations_detectron2_bg/val"
    (root / "JPEGImages").mkdir(parents=True)
    #   truth:      plane  plane  background  border
    #   row:        plane  word 1 word 2      plane
    write(root, labels, "a", [[0, 0, 20, 255]], [[0, 20, 58, 0]])
    #   truth:      cat    background  background
    #   row:        cat    cat         word 39
    write(root, labels, "b", [[7, 20, 20]], [[7, 7, 58]])
    return tmp_path


def write(root: Path, labels: Path, name: str, truth: list[list[int]], rows: list[list[int]]) -> None:
    """A picture of VOC: what the model answers, and the truth."""
    write_picture(root / f"JPEGImages/{name}.jpg", rows)
    write_labels(labels / f"{name}.png", np.kron(np.array(truth), np.ones((8, 8), int)), bits=8)


def write_picture(path: Path, rows: list[list[int]]) -> None:
    """8x8 blocks, as JPEG keeps them: the red of the picture says what the model answers."""
    red = np.kron(np.array(rows), np.ones((8, 8), int)).astype(np.uint8)
    Image.fromarray(np.stack([red] * 3, axis=-1)).save(path, quality=100, subsampling=0)


def relabel() -> None:
    """Change a pixel of a label map."""
    path = Path(os.environ["DETECTRON2_DATASETS"], "VOCdevkit/VOC2012/annotations_detectron2_bg/val/a.png")
    labels = np.array(Image.open(path))
    labels[3, 3] = 4
    write_labels(path, labels, bits=8)


@pytest.fixture
def run(voc, cfg) -> Run:
    return Run("Red", EvaluationData.load("voc_20b_val", cfg), voc / "out")


def test_background_of_pas20b_by_hand(run, cfg):
    metrics = evaluate_run(run, cfg, RedModel())
    # plane: 1 right of 2, never said elsewhere (the border does not count): 1/2. cat: 1 right, once too often: 1/2.
    # background: right where word 2 and word 39 are said; missed once, and said once for a plane: 2 / (2 + 1 + 1).
    assert metrics.miou == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert metrics.class_iou[20] == 0.5 and metrics.class_names[20] == "background"
    assert metrics.pixel_accuracy == pytest.approx(4 / 6)


def test_files_of_a_run(run, cfg):
    evaluate_run(run, cfg, RedModel())
    names = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert names == {
        "run.json", "images.0.jsonl", "metrics.json", "per_class.csv", "per_class.png", "confusions.csv",
        "worst.json", "worst/01_a.jpg", "worst/02_b.jpg",
    }  # fmt: skip
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert (metrics["images"], metrics["of"], metrics["dataset"]) == (2, 1449, "voc_20b_val")
    assert metrics["ignored"] == pytest.approx(1 / 7)
    with open(run.folder / "per_class.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21 and rows[0] == {
        "id": "0", "name": "aeroplane", "iou": "0.5", "accuracy": "0.5",
        "truth_pixels": "128", "predicted_pixels": "64",
    }  # fmt: skip
    with open(run.folder / "confusions.csv") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [
            ("aeroplane", "background", "64", "0.500000"),
            ("background", "cat", "64", "0.333333"),
        ]
    worst = json.loads((run.folder / "worst.json").read_text())
    assert [entry["image"] for entry in worst] == ["a", "b"]
    # a: plane 1/2, background 1/2; b: cat 1/2, background 1/2.
    assert [entry["miou"] for entry in worst] == [0.5, 0.5]
    assert [entry["pixel_accuracy"] for entry in worst] == pytest.approx([2 / 3, 2 / 3])


def test_only_missing_images_are_evaluated_again(run, cfg):
    model = RedModel()
    first = evaluate_run(run, cfg, model)
    assert model.calls == 4  # two images, each drawn once more
    lines = (run.folder / "images.0.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "images.0.jsonl").write_text(lines[0] + lines[1][:20])
    again = RedModel()
    assert evaluate_run(run, cfg, again).to_dict() == first.to_dict() and again.calls == 3
    assert evaluate_run(run, cfg, RedModel(), restart=True).to_dict() == first.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg, model: model.weight.data.add_(1), "model.all weights sha256 was"),
        (lambda cfg, model: relabel(), "data.file sizes sha256 was"),
        (lambda cfg, model: cfg.merge_from_list(["TEST.TEMPLATES", "imagenet"]), "vocabulary.sha256 was"),
        (lambda cfg, model: cfg.merge_from_list(["TEST.CLASS_NAMES", "clean"]), "class names was original, is clean"),
    ],
)
def test_other_conditions_are_refused(run, cfg, change, message):
    evaluate_run(run, cfg, RedModel())
    before = (run.folder / "metrics.json").read_bytes()
    model = RedModel()
    change(cfg, model)
    changed = Run(run.model, EvaluationData.load("voc_20b_val", cfg), run.output)
    with pytest.raises(ResultsError, match=rf"made under other conditions .*{message}"):
        evaluate_run(changed, cfg, model)
    assert (run.folder / "metrics.json").read_bytes() == before
    evaluate_run(changed, cfg, model, restart=True)


class SetModel(RedModel):
    """Depends on what ESC-Net depends on."""

    prediction_keys = ESCNet.prediction_keys


def test_what_changes_no_prediction_lets_a_run_go_on(run, cfg):
    evaluate_run(run, cfg, SetModel())
    cfg.merge_from_list(["MODEL.ESC.CLASS_CHUNK", "3", "MODEL.ESC.LOSS", "bce"])
    again = SetModel()
    evaluate_run(run, cfg, again)
    assert again.calls == 2  # the worst images are drawn, none is evaluated


def test_a_refusal_names_the_setting(run, cfg):
    evaluate_run(run, cfg, SetModel())
    cfg.MODEL.ESC.ALPHA = 0.3
    with pytest.raises(
        ResultsError, match=r"conditions \(model\.settings\.MODEL\.ESC\.ALPHA was 0\.\d+, is 0\.3\); evaluate"
    ):
        evaluate_run(run, cfg, SetModel())


class ForeignModel(torch.nn.Module):
    """Scores of each class, as Detectron2's own models give them: the red value is the class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return [{"sem_seg": torch.nn.functional.one_hot(x["image"][0].long(), 52).permute(2, 0, 1)} for x in batch]


def test_a_model_of_another_kind_is_evaluated_and_goes_on(novel, cfg):
    metrics = evaluate_run(novel, cfg, ForeignModel())
    assert metrics.to_dict() == evaluate_run(novel, cfg, RedModel(), restart=True).to_dict()
    evaluate_run(novel, cfg, ForeignModel(), restart=True)
    assert evaluate_run(novel, cfg, ForeignModel()).to_dict() == metrics.to_dict()
    assert "more, see run.json; on cpu" in measured_row("Foreign", [novel]).how
    cfg.MODEL.RESNETS.DEPTH = 101
    with pytest.raises(ResultsError, match=r"model\.settings\.MODEL\.RESNETS\.DEPTH was 50, is 101"):
        evaluate_run(novel, cfg, ForeignModel())


def test_each_result_is_read_once_when_a_run_is_summed_up(run, cfg, monkeypatch):
    read = []
    parse = image_results._parse
    monkeypatch.setattr(image_results, "_parse", lambda *line: read.append(line) or parse(*line))
    evaluate_run(run, cfg, RedModel())
    assert len(read) == 2


def test_a_damaged_description_is_named(run, cfg):
    evaluate_run(run, cfg, RedModel())
    (run.folder / "run.json").write_text('{"conditions": ')
    with pytest.raises(ResultsError, match=r"run\.json: cannot be read"):
        evaluate_run(run, cfg, RedModel())


def test_baselines_are_the_training_free_systems_without_windows_where_they_know_none(cfg, tmp_path):
    cfg.merge_from_list(["MODEL.WEIGHTS", "x.pth", "TEST.SLIDING.ENABLED", "True", "TEST.FULL_SCORES", "True"])
    models = models_to_evaluate(cfg, ZeroShotTask((), tmp_path, "mine", baselines=True))
    found = [
        (name, model.MODEL.META_ARCHITECTURE, model.MODEL.WEIGHTS, model.TEST.SLIDING.ENABLED) for name, model in models
    ]
    assert found == [
        ("mine", "ESCNet", "x.pth", True),
        ("DenseClip", "DenseClip", "", True),
        ("ClipThenSam", "ClipThenSam", "", False),
    ]
    assert not any(model.TEST.FULL_SCORES for _, model in models)
    assert [name for name, _ in models_to_evaluate(cfg, ZeroShotTask((), tmp_path, "mine"))] == ["mine"]


def test_truth_that_does_not_fit_names_both_files(run, cfg, voc):
    write_labels(voc / "VOCdevkit/VOC2012/annotations_detectron2_bg/val/b.png", np.zeros((5, 5), int))
    with pytest.raises(ValueError, match=r"b\.jpg.*b\.png: prediction is 8x24 but truth is 5x5"):
        evaluate_run(run, cfg, RedModel())


def test_a_result_of_another_image_is_refused(run, cfg):
    evaluate_run(run, cfg, RedModel())
    line = json.loads((run.folder / "images.0.jsonl").read_text().splitlines()[0])
    (run.folder / "images.1.jsonl").write_text(json.dumps(line | {"image": "stranger"}) + "\n")
    with pytest.raises(ResultsError, match="results of 3 images, but the dataset 2; use --restart"):
        evaluate_run(run, cfg, RedModel())


def test_all_ignored_is_an_error(run, cfg, voc):
    for file in (voc / "VOCdevkit/VOC2012/annotations_detectron2_bg/val").iterdir():
        write_labels(file, np.full(np.array(Image.open(file)).shape, 255))
    with pytest.raises(ResultsError, match="not a pixel of 2 images"):
        evaluate_run(run, cfg, RedModel())


def test_results_without_description_are_refused(run, cfg):
    evaluate_run(run, cfg, RedModel())
    (run.folder / "run.json").unlink()
    with pytest.raises(ResultsError, match=r"no run\.json"):
        evaluate_run(run, cfg, RedModel())


def test_conditions_without_results_bind_nobody(run, cfg):
    evaluate_run(run, cfg, RedModel())
    (run.folder / "images.0.jsonl").unlink()
    cfg.MODEL.PRECISION = "bf16"
    with pytest.raises(ResultsError, match="other conditions"):
        evaluate_run(run, cfg, RedModel())
    # As a run leaves it that was refused before the first image.
    (run.folder / "metrics.json").unlink()
    (run.folder / "images.0.jsonl").write_text("")
    assert evaluate_run(run, cfg, RedModel()) is not None


def test_conditions_say_what_the_number_depends_on(run, cfg):
    evaluate_run(run, cfg, RedModel())
    conditions = json.loads((run.folder / "run.json").read_text())["conditions"]
    assert conditions["vocabulary"]["class names"] == "original" and conditions["vocabulary"]["classes"] == 21
    assert conditions["vocabulary"]["words of the background"] == 39
    assert conditions["vocabulary"]["templates"] == ["a photo of a {}"]
    assert conditions["model"]["architecture"] == "RedModel"
    assert conditions["model"]["settings"] == {"MODEL.PRECISION": "fp32"} and conditions["device"] == "cpu"
    assert conditions["data"]["images"] == 2 and conditions["data"]["images of the published split"] == [1449]
    assert len(conditions["model"]["all weights sha256"]) == 64 and conditions["versions"]["torch"] == torch.__version__


def test_checkpoint_is_named_by_its_hash(run, cfg, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"abc")
    evaluate_run(run, cfg, RedModel(), weights=str(tmp_path / "model.pth"))
    model = json.loads((run.folder / "run.json").read_text())["conditions"]["model"]
    assert model["checkpoint"] == "model.pth"
    # SHA-256 of "abc", from its specification (FIPS 180).
    assert model["checkpoint sha256"].startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_table_shows_measured_beside_published(run, cfg, voc):
    evaluate_run(run, cfg, RedModel())
    text = write_table(run.output, ["voc_20b_val"], [*PUBLISHED, measured_row("Red", [run])])
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert lines["Red"] == ["Red", "50.00", "(2/1449)", "measured"]
    assert lines["CAT-Seg ViT-L/14"][-2:] == ["82.5", "published"]
    assert "ESC-Net ViT-L/14" not in lines  # its authors give no number for this benchmark
    table = json.loads((run.output / "table.json").read_text())
    assert table["columns"] == [{"dataset": "voc_20b_val", "short": "pas20b", "title": "PAS-20b"}]
    assert table["rows"][-1]["scores"]["voc_20b_val"]["folder"] == "Red/voc_20b_val"
    markdown = (run.output / "table.md").read_text()
    assert "| Red " in markdown and "- Red: measured: no checkpoint" in markdown and "until 2022" in markdown
    assert "templates: 1; PRECISION fp32; on cpu; escnet" in markdown
    with open(run.output / "table.csv") as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["model"], last["dataset"], float(last["miou"]), last["of"]) == ("Red", "voc_20b_val", 0.5, "1449")


def test_published_rows_are_those_of_the_papers():
    rows = {row.model: {key: 100 * score["miou"] for key, score in row.scores.items()} for row in PUBLISHED}
    assert rows["ESC-Net ViT-L/14"] == pytest.approx(
        {
            "ade20k_847_val": 18.1,
            "pascal_context_459_val": 27.0,
            "ade20k_150_val": 41.8,
            "pascal_context_59_val": 65.6,
            "voc_20_val": 98.3,
        }
    )
    assert rows["ESC-Net ViT-B/16"] == pytest.approx(
        {"ade20k_150_val": 35.6, "pascal_context_59_val": 59.0, "voc_20_val": 97.3, "voc_20b_val": 80.1}
    )
    assert list(rows["CAT-Seg ViT-B/16"].values()) == pytest.approx([12.0, 19.0, 31.8, 57.5, 94.6, 77.3])


def test_a_slice_is_a_run_of_its_own_and_says_so(voc, cfg):
    data = EvaluationData.load("voc_20b_val[:1]", cfg)
    assert (len(data.records), data.complete, data.of, data.title) == (1, 2, 1449, "PAS-20b")
    run = Run("Red", data, voc / "out")
    evaluate_run(run, cfg, RedModel())
    assert run.folder.name == "voc_20b_val[:1]" and ImageResults(run.folder).images() == {"a"}


def test_two_rows_of_one_name_are_refused(voc, cfg):
    with pytest.raises(ValueError, match="would be called DenseClip; give the model another --name"):
        evaluate_zero_shot(cfg, ZeroShotTask(("voc_20b_val",), voc / "out", "DenseClip", baselines=True))


# A dataset of which only a part of the classes is scored: ids 0..11 are ground, 12..51 objects

NOVEL = "mojiscenes_val_novel"


@pytest.fixture
def novel(tmp_path, monkeypatch, cfg) -> Run:
    """Three pictures; the ground is mistaken for an object in one, and one has no object at all."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    pictures, labels = (tmp_path / "mojiscenes" / kind / "val_novel" for kind in ("images", "annotations"))
    pictures.mkdir(parents=True)
    for name, truth, answers in (
        ("a", [[0, 0, 12, 12]], [[0, 12, 12, 12]]),
        ("b", [[3, 3, 40, 51]], [[3, 3, 40, 20]]),
        ("c", [[5, 5, 5, 5]], [[5, 5, 5, 12]]),
    ):
        write_picture(pictures / f"{name}.jpg", answers)
        write_labels(labels / f"{name}.png", np.kron(np.array(truth), np.ones((8, 8), int)), bits=8)
    return Run("Red", EvaluationData.load(NOVEL, cfg), tmp_path / "out")


def test_mean_over_the_novel_objects_by_hand(novel, cfg):
    metrics = evaluate_run(novel, cfg, RedModel())
    # 12: two right, said twice of the ground, once in the picture without objects. 40: right. 51: taken for 20.
    assert metrics.miou == pytest.approx((2 / 4 + 1 + 0) / 3)
    assert metrics.miou_d2_2021 == pytest.approx((2 / 4 + 1 + 0) / 4)
    assert metrics.pixel_accuracy == pytest.approx(9 / 12)
    written = json.loads((novel.folder / "metrics.json").read_text())
    assert written["scored_classes"] == [12, 52] and written["miou"] == metrics.miou
    # A picture without a scored class has no mIoU by which it could be among the worst.
    worst = {entry["image"]: entry["miou"] for entry in json.loads((novel.folder / "worst.json").read_text())}
    assert worst == {"b": pytest.approx(1 / 2), "a": pytest.approx(2 / 3)}


def test_evaluator_summary_and_comparison_agree_on_the_mean(novel, cfg):
    metrics = evaluate_run(novel, cfg, RedModel())
    evaluator = SemanticEvaluator(NOVEL)
    for record in novel.data.records:
        answers = read_image(record["file_name"])[..., 0]
        evaluator.process([{"sem_seg_truth": read_labels(record["sem_seg_file_name"])}], [{"labels": answers}])
    compared = compare_runs(novel.folder, novel.folder, samples=2)
    assert metrics.miou == pytest.approx(evaluator.evaluate()["sem_seg"]["mIoU"] / 100, rel=1e-12)
    assert metrics.miou == pytest.approx(compared.scores[0].a, rel=1e-12)
    assert compared.scores[0].images == 2
    table = measured_row("Red", [novel]).scores[NOVEL]
    assert table["miou"] == metrics.miou and table["scored"] == "40 of 52 classes (ids 12..51)"


def test_the_table_says_what_is_scored(novel, cfg):
    evaluate_run(novel, cfg, RedModel())
    note = "Moji-novel: mIoU and mean accuracy are over 40 of 52 classes (ids 12..51)."
    assert write_table(novel.output, [NOVEL], [measured_row("Red", [novel])]).splitlines()[-1] == note
    assert note in (novel.output / "table.md").read_text().splitlines()
    assert json.loads((novel.output / "table.json").read_text())["notes"] == [note]
    assert note in write_report(novel.output).read_text()


def test_other_scored_classes_are_other_conditions(novel, cfg, monkeypatch):
    evaluate_run(novel, cfg, RedModel())
    assert json.loads((novel.folder / "run.json").read_text())["conditions"]["data"][SCORED] == [12, 52]
    metadata = vars(MetadataCatalog.get(NOVEL))
    for scored, now in (((12, 40), r"\[12, 40\]"), (None, "None")):
        monkeypatch.setitem(metadata, "scored_classes", scored)
        other = Run(novel.model, EvaluationData.load(NOVEL, cfg), novel.output)
        with pytest.raises(ResultsError, match=rf"scored classes \(first id, end\) was \[12, 52\], is {now}"):
            evaluate_run(other, cfg, RedModel())
    monkeypatch.setitem(metadata, "scored_classes", (12, 53))
    with pytest.raises(DatasetError, match=rf"'{NOVEL}': the scored classes are \(12, 53\), but of 52 classes"):
        EvaluationData.load(NOVEL, cfg)


def test_nothing_is_said_where_all_classes_are_scored(run, cfg):
    evaluate_run(run, cfg, RedModel())
    write_table(run.output, ["voc_20b_val"], [measured_row("Red", [run])])
    write_report(run.output)
    texts = [path.read_text() for path in run.output.rglob("*") if path.suffix in (".json", ".csv", ".md", ".html")]
    assert len(texts) == 9 and not any("scored" in text or "are over" in text for text in texts)
