"""The evaluation loop against Detectron2's, what a consumer is given, and the state in which a model is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from PIL import Image
from torch import nn

from escnet.config import load_config
from escnet.data.mappers import EvaluationMapper
from escnet.data.registration import dataset_records
from escnet.data.stream import build_evaluation_loader
from escnet.evaluation.loop import evaluate_datasets, pass_images
from escnet.evaluation.semantic import SemanticEvaluator

ROOT = Path(__file__).parents[2]
CLASSES = 11


class Scores(nn.Module):
    """Random scores of each class, as Detectron2's models give them; fixed by the picture."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.dropout = nn.Dropout()
        self.classes = classes
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, batch):
        self.modes.append((self.dropout.training, torch.is_grad_enabled()))
        generator = torch.Generator().manual_seed(int(batch[0]["image"].sum()))
        return [{"sem_seg": torch.rand(self.classes, *batch[0]["image"].shape[1:], generator=generator)}]


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    """Three validation pictures of CamVid."""
    generator = np.random.default_rng(0)
    for kind, shape, top in (("images", (12, 16, 3), 256), ("annotations", (12, 16), CLASSES)):
        folder = tmp_path / "camvid" / kind / "val"
        folder.mkdir(parents=True)
        for index in range(3):
            Image.fromarray(generator.integers(0, top, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    opts = ["DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "out"), "DATASETS.TEST", "('camvid_val',)"]
    return load_config(ROOT / "configs/camvid/escnet.yaml", opts)


def test_scores_are_those_of_detectron2s_loop(cfg: CfgNode) -> None:
    results = evaluate_datasets(cfg, Scores())
    loader = build_evaluation_loader(dataset_records("camvid_val"), EvaluationMapper(cfg))
    theirs = inference_on_dataset(Scores(), loader, SemanticEvaluator("camvid_val"))
    assert results == {"camvid_val": dict(theirs)} and 0 < theirs["sem_seg"]["mIoU"] < 100
    written = json.loads((Path(cfg.OUTPUT_DIR) / "inference/camvid_val/semantic_metrics.json").read_text())
    assert written["images"] == 3 and 100 * written["miou"] == pytest.approx(theirs["sem_seg"]["mIoU"])


def test_nothing_to_evaluate_on_gives_nothing(cfg: CfgNode) -> None:
    cfg.DATASETS.TEST = ()
    assert evaluate_datasets(cfg, Scores()) == {}


def test_a_consumer_is_given_each_image_with_its_truth_labels_and_time(cfg: CfgNode) -> None:
    seen = []
    records = dataset_records("camvid_val")
    pass_images(Scores(), records, EvaluationMapper(cfg, with_truth=True), lambda *given: seen.append(given), title="x")
    assert [sample["image_id"] for sample, _, _ in seen] == [record["image_id"] for record in records]
    for sample, labels, seconds in seen:
        expected = Scores()([sample])[0]["sem_seg"].argmax(dim=0).numpy()
        assert isinstance(labels, np.ndarray) and np.array_equal(labels, expected) and seconds > 0
        assert sample["sem_seg_truth"].shape == labels.shape


@pytest.mark.parametrize("training", [True, False])
def test_a_model_predicts_in_evaluation_mode_and_is_left_as_it_was(cfg: CfgNode, training: bool) -> None:
    model = Scores().train(training)
    evaluate_datasets(cfg, model)
    assert model.modes == [(False, False)] * 3 and model.dropout.training == training

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pass_images(model, dataset_records("camvid_val"), EvaluationMapper(cfg), fail, title="x")
    assert model.dropout.training == training


def test_scores_of_other_classes_name_the_image(cfg: CfgNode) -> None:
    with pytest.raises(
        ValueError, match=r"images/val/0\.png: 'sem_seg' has shape \(7, 12, 16\), expected \(11, H, W\)"
    ):
        evaluate_datasets(cfg, Scores(classes=7))
