"""The score of held-out images: that of an evaluation, with the words of the training, in one process or more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from PIL import Image
from torch import nn

from escnet.config import add_escnet_config
from escnet.data.errors import DatasetError
from escnet.data.images import write_labels
from escnet.data.registration import dataset_records
from escnet.evaluation.held_out import held_out_miou
from escnet.evaluation.loop import evaluate_datasets


class ByColour(nn.Module):
    """Tells classes by the red of a pixel, which is 20 times the label, and takes the first three for one."""

    def __init__(self, lumped: int = 3) -> None:
        super().__init__()
        self.lumped = lumped
        self.words: list[str] = []

    def forward(self, batch):
        self.words += [sample["vocabulary"].templates[0] for sample in batch]
        labels = [(sample["image"][0].long() // 20).clamp(max=10) for sample in batch]
        return [{"labels": label.where(label >= self.lumped, torch.zeros(()).long())} for label in labels]


@pytest.fixture
def cfg(camvid_root: Path, tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("camvid_train",), ("camvid_train",)
    cfg.DATALOADER.NUM_WORKERS, cfg.OUTPUT_DIR = 0, str(tmp_path / "run")
    return cfg


def test_the_score_is_that_of_an_evaluation(cfg: CfgNode) -> None:
    model, records = ByColour(), dataset_records("camvid_train")
    expected = evaluate_datasets(cfg, model)["camvid_train"]["sem_seg"]["mIoU"]
    assert held_out_miou(cfg, model, records) == pytest.approx(expected)
    assert 60 < expected < 90 and model.training
    assert held_out_miou(cfg, ByColour(lumped=0), records) == pytest.approx(100)


def test_words_are_those_of_the_training(cfg: CfgNode) -> None:
    cfg.INPUT.TEMPLATES, cfg.TEST.TEMPLATES = "a drawing of a {}", "a photo of a {}"
    model = ByColour()
    held_out_miou(cfg, model, dataset_records("camvid_train")[:2])
    assert model.words == ["a drawing of a {}"] * 2


def test_of_several_datasets_it_is_the_mean(cfg: CfgNode, camvid_root: Path) -> None:
    folder = camvid_root / "mine"
    (folder / "images").mkdir(parents=True)
    Image.fromarray(np.full((4, 4, 3), 20, dtype=np.uint8)).save(folder / "images/0.png")
    write_labels(folder / "labels/0.png", np.full((4, 4), 1, dtype=np.uint8))
    (folder / "classes.txt").write_text("a\nb")
    cfg.DATASETS.TRAIN = ("camvid_train", f"folder:{folder}")
    ours, theirs = dataset_records("camvid_train"), dataset_records(f"folder:{folder}")
    model = ByColour()
    one = held_out_miou(cfg, model, ours)
    assert held_out_miou(cfg, model, theirs) == 0
    assert held_out_miou(cfg, model, [*theirs, *ours]) == pytest.approx(one / 2)


def test_images_without_a_pixel_to_score(cfg: CfgNode) -> None:
    records = dataset_records("camvid_train")[:1]
    write_labels(records[0]["sem_seg_file_name"], np.full((12, 16), 11, dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"no pixel to score; choose others with LABELLED\.SEED"):
        held_out_miou(cfg, ByColour(), records)


def test_an_error_names_the_image(cfg: CfgNode) -> None:
    records = dataset_records("camvid_train")[:1]
    write_labels(records[0]["sem_seg_file_name"], np.full((12, 16), 77, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"images/train/0\.png, .*annotations/train/0\.png: .*77"):
        held_out_miou(cfg, ByColour(), records)


def _process(rank: int, address: str, cfg: CfgNode, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    scores = [held_out_miou(cfg, ByColour(), dataset_records("camvid_train")[:count]) for count in (5, 1)]
    torch.save(scores, Path(folder) / f"{rank}.pth")


def test_processes_share_the_images_and_agree(cfg: CfgNode, tmp_path: Path) -> None:
    arguments = (f"file://{tmp_path}/address", cfg, str(tmp_path))
    torch.multiprocessing.start_processes(_process, arguments, nprocs=2, start_method="fork")
    expected = [held_out_miou(cfg, ByColour(), dataset_records("camvid_train")[:count]) for count in (5, 1)]
    assert [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)] == [expected, expected]
