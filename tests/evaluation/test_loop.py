"""The evaluation loop against Detectron2's, what a consumer is given, and the state in which a model is left."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from PIL import Image
from torch import nn

from escnet.config import load_config
from escnet.data.images import ImageError
from escnet.data.mappers import EvaluationMapper
from escnet.data.registration import dataset_records
from escnet.data.stream import build_evaluation_loader
from escnet.evaluation.loop import Prediction, evaluate_datasets, pass_images
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
        return [{"sem_seg": self.scores(sample["image"])} for sample in batch]

    def scores(self, image):
        generator = torch.Generator().manual_seed(int(image.sum()))
        return torch.rand(self.classes, *image.shape[1:], generator=generator)


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
    for sample, prediction, seconds in seen:
        labels, expected = prediction.labels, Scores()([sample])[0]["sem_seg"].argmax(dim=0).numpy()
        assert isinstance(labels, np.ndarray) and np.array_equal(labels, expected) and seconds > 0
        assert sample["sem_seg_truth"].shape == labels.shape
        # Detectron2's models do not say it.
        assert prediction.words_considered is None


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


def pass_three(
    cfg: CfgNode, model: nn.Module, done: list[str], consume: Callable[..., None] = lambda *_: None, **options: int
) -> None:
    """Pass the images of `cfg`, and add the name of each to `done` when it is consumed."""

    def note(sample: dict, prediction: Prediction, seconds: float) -> None:
        consume(sample, prediction, seconds)
        done.append(Path(sample["file_name"]).name)

    records = dataset_records("camvid_val")
    pass_images(model, records, EvaluationMapper(cfg, with_truth=True), note, title="x", **options)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_gives_each_image_its_labels_and_its_share_of_the_time(cfg: CfgNode, num_workers: int) -> None:
    seen, done, model = [], [], Scores()
    pass_three(cfg, model, done, lambda *given: seen.append(given), batch_size=2, num_workers=num_workers)
    assert done == ["0.png", "1.png", "2.png"] and len(model.modes) == 2
    for sample, prediction, _ in seen:
        assert np.array_equal(prediction.labels, model.scores(sample["image"]).argmax(dim=0).numpy())
    assert seen[0][2] == seen[1][2] > 0 and seen[2][2] != seen[1][2]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_consumer_is_told_how_many_words_a_model_looked_at(cfg: CfgNode, batch_size: int) -> None:
    class Few(Scores):
        def forward(self, batch):
            # A number and a tensor of one number are both numbers.
            counts = (2, torch.tensor(3), 4)
            named = [counts[int(Path(sample["file_name"]).stem)] for sample in batch]
            return [out | {"words_considered": n} for out, n in zip(super().forward(batch), named, strict=True)]

    seen = []
    pass_three(
        cfg, Few(), [], lambda _, prediction, __: seen.append(prediction.words_considered), batch_size=batch_size
    )
    assert seen == [2, 3, 4] and all(type(count) is int for count in seen)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("broken", ["images", "annotations"])
def test_a_file_that_cannot_be_read_is_named_when_the_others_of_its_batch_are_done(
    cfg: CfgNode, broken: str, num_workers: int
) -> None:
    path = Path(dataset_records("camvid_val")[0]["file_name"]).parents[2] / broken / "val/1.png"
    path.write_bytes(path.read_bytes()[:60])
    done: list[str] = []
    with pytest.raises(ImageError, match=rf"^{path}: is truncated"):
        pass_three(cfg, Scores(), done, batch_size=3, num_workers=num_workers)
    assert done == ["0.png", "2.png"]


def test_what_is_wrong_with_one_image_leaves_the_others_of_its_batch(cfg: CfgNode) -> None:
    def refuse(sample: dict, *_: object) -> None:
        if sample["file_name"].endswith("0.png"):
            raise ValueError("0.png: prediction and truth differ in size")

    done: list[str] = []
    with pytest.raises(ValueError, match=r"0\.png: prediction"):
        pass_three(cfg, Scores(), done, refuse, batch_size=3)
    assert done == ["1.png", "2.png"]


def test_scores_that_are_no_numbers_leave_the_others_of_their_batch(cfg: CfgNode) -> None:
    bad = int(EvaluationMapper(cfg)(dataset_records("camvid_val")[1])["image"].sum())

    class NoNumbers(Scores):
        def scores(self, image):
            return super().scores(image) * (torch.nan if int(image.sum()) == bad else 1)

    done: list[str] = []
    with pytest.raises(ValueError, match=r"val/1\.png: 'sem_seg' holds NaN"):
        pass_three(cfg, NoNumbers(), done, batch_size=3)
    assert done == ["0.png", "2.png"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_without_room_is_passed_one_by_one(
    cfg: CfgNode, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Small(Scores):
        def __init__(self, room: int) -> None:
            super().__init__()
            self.room = room

        def forward(self, batch):
            if len(batch) > 1 or int(batch[0]["image"].sum()) > self.room:
                raise error
            return super().forward(batch)

    with caplog.at_level(logging.WARNING, "escnet.evaluation.loop"):
        done: list[str] = []
        pass_three(cfg, Small(10**9), done, batch_size=3)
    assert done == ["0.png", "1.png", "2.png"]
    assert "no room for 3 images in one pass" in caplog.text
    sums = [int(EvaluationMapper(cfg)(record)["image"].sum()) for record in dataset_records("camvid_val")]
    done.clear()
    with pytest.raises(type(error)):
        pass_three(cfg, Small(max(sums) - 1), done, batch_size=3)
    assert len(done) == 2


def test_a_fault_in_a_batch_is_no_want_of_room(cfg: CfgNode) -> None:
    class Faulty(Scores):
        def forward(self, batch):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        pass_three(cfg, Faulty(), [], batch_size=3)

    class OneAtATime(Scores):
        def forward(self, batch):
            return super().forward(batch[:1])

    with pytest.raises(ValueError, match=r"OneAtATime gives 1 outputs for 3 images.*batch size of 1"):
        pass_three(cfg, OneAtATime(), [], batch_size=3)
