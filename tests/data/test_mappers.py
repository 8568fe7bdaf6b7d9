"""The training and evaluation mappers: alignment of image and labels, determinism by seed, ignored ids, bad input."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from escnet.data.augmentations import ColorJitter
from escnet.data.errors import DatasetError
from escnet.data.images import ImageError, write_labels
from escnet.data.label_spaces import LabelSpace, label_spaces
from escnet.data.mappers import IGNORE_LABEL, EvaluationMapper, TrainingMapper
from escnet.data.registration import dataset_records
from escnet.vocabulary import Vocabulary


def space(num_classes: int = 11, ignore_label: int = 11) -> LabelSpace:
    return LabelSpace(Vocabulary([f"class {index}" for index in range(num_classes)]), ignore_label)


def training_mapper(label_space: LabelSpace | None = None, **changes) -> TrainingMapper:
    settings = {"short_sides": (32, 48), "max_size": 200, "crop_size": (24, 28), "color_jitter": False}
    return TrainingMapper({"tiny": label_space or space()}, **{**settings, **changes})


def record(folder, labels: np.ndarray, image: np.ndarray | None = None) -> dict:
    """A record of the files that are written here; the image is black if none is given."""
    if image is None:
        image = np.zeros((*labels.shape, 3))
    Image.fromarray(image.astype(np.uint8)).save(folder / "image.png")
    write_labels(folder / "labels.png", labels)
    return {
        "file_name": str(folder / "image.png"),
        "sem_seg_file_name": str(folder / "labels.png"),
        "image_id": "image",
        "dataset": "tiny",
    }


def blocks(ids: list[int], side: int = 10) -> np.ndarray:
    """A label map of 2 x n blocks, each of `side` pixels squared."""
    return np.kron(np.array(ids).reshape(2, -1), np.ones((side, side), int))


@pytest.mark.parametrize("side", [15, 30], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("seed", range(8))
def test_augmentation_keeps_image_and_labels_aligned(tmp_path, seed, side):
    rows, columns = np.mgrid[:side, :side]
    image = np.stack([columns * 8, rows * 8, rows * 0], axis=-1)
    tiny = record(tmp_path, rows * side + columns, image)
    mapper = training_mapper(space(900, 65535), short_sides=(10, 22, 37, 60), crop_size=(20, 21))
    sample = mapper(tiny, seed)
    # The colours say where in the scene a pixel's middle is; its label has to be that of the nearest place.
    inside = sample["sem_seg"] != IGNORE_LABEL
    x, y, label = *sample["image"][:2, inside].float() / 8, sample["sem_seg"][inside]
    assert label.unique().numel() > 20
    assert (x - label % side).abs().max() < 0.6 and (y - label // side).abs().max() < 0.6


def test_labels_are_sampled_at_pixel_centres(tmp_path):
    # An edge at two thirds of 30 columns: enlarged 1.5 times, it is at column 30 of 45, with 16 bits too.
    labels = np.zeros((30, 30), int)
    labels[:, 20:] = 700
    mapper = training_mapper(space(900, 65535), short_sides=(45,), crop_size=(45, 45), random_flip="none")
    sem_seg = mapper(record(tmp_path, labels), 0)["sem_seg"]
    assert (sem_seg[:, :30] == 0).all() and (sem_seg[:, 30:] == 700).all()
    # Shrunk to a third, the middle of each output pixel is the middle of its three input pixels.
    labels[:] = np.arange(30)
    mapper = training_mapper(space(900, 65535), short_sides=(10,), crop_size=(10, 10), random_flip="none")
    assert mapper(record(tmp_path, labels), 0)["sem_seg"][0].tolist() == list(range(1, 30, 3))


def test_sample_has_the_agreed_form(tmp_path):
    mapper = training_mapper()
    sample = mapper(record(tmp_path, blocks([0, 1, 2, 3])), 0)
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, 24, 28)
    assert sample["sem_seg"].dtype == torch.int64 and sample["sem_seg"].shape == (24, 28)
    assert (sample["height"], sample["width"]) == (20, 20)
    assert sample["file_name"] == str(tmp_path / "image.png")
    assert sample["vocabulary"].names == tuple(f"class {index}" for index in range(11))
    assert mapper(record(tmp_path, blocks([0, 1, 2, 3])), 1)["vocabulary"] is sample["vocabulary"]


def test_ignored_pixels_and_padding(tmp_path):
    labels = np.full((10, 10), 11)
    labels[:, :5] = 3
    mapper = training_mapper(short_sides=(10,), crop_size=(12, 15), random_flip="none")
    sample = mapper(record(tmp_path, labels), 0)
    expected = np.full((12, 15), IGNORE_LABEL)
    expected[:10, :5] = 3
    np.testing.assert_array_equal(sample["sem_seg"].numpy(), expected)
    assert (sample["image"][:, 10:] == 128).all() and (sample["image"][:, :, 10:] == 128).all()


def test_255_is_a_class_when_there_are_more(tmp_path):
    labels = np.array([[255, 65535], [846, 0]])
    mapper = training_mapper(space(847, 65535), short_sides=(2,), crop_size=(2, 2), random_flip="none")
    assert mapper(record(tmp_path, labels), 0)["sem_seg"].tolist() == [[255, IGNORE_LABEL], [846, 0]]


def test_same_seed_same_sample_and_global_state_is_kept(tmp_path):
    tiny = record(tmp_path, blocks([0, 1, 2, 3, 4, 5]), np.random.default_rng(0).integers(0, 256, (20, 30, 3)))
    mapper = training_mapper(color_jitter=True)
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    states = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    first = mapper(tiny, 5)
    assert (np.random.get_state()[1] == states[0]).all() and random.getstate() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    np.random.seed(2)
    second = mapper(tiny, 5)
    assert torch.equal(first["image"], second["image"]) and torch.equal(first["sem_seg"], second["sem_seg"])
    assert len({mapper(tiny, seed)["image"].sum().item() for seed in range(10)}) > 5


def test_random_choices_cover_their_range(tmp_path):
    tiny = record(tmp_path, blocks([0, 1, 2, 3]))
    # Short sides 20 and 40 of a 20x20 image cropped to 20x20: the whole image, or about a quarter of it.
    mapper = training_mapper(short_sides=(20, 40), crop_size=(20, 20))
    corners = {tuple(mapper(tiny, seed)["sem_seg"][[0, 0, -1, -1], [0, -1, 0, -1]].tolist()) for seed in range(60)}
    assert {(0, 1, 2, 3), (1, 0, 3, 2)} <= corners and len(corners) > 5


def test_color_jitter_changes_colours_and_not_labels(tmp_path):
    tiny = record(tmp_path, blocks([0, 1, 2, 3]), np.random.default_rng(0).integers(60, 190, (20, 20, 3)))
    plain, jittered = training_mapper(), training_mapper(color_jitter=True)
    # Scale and crop are drawn before the colours, so the same seed shows the same part of the scene.
    means = []
    for seed in range(40):
        image, reference = jittered(tiny, seed)["image"].float(), plain(tiny, seed)["image"].float()
        means.append((image.mean() - reference.mean()).item())
    assert min(means) < -20 and max(means) > 20  # brightness and contrast, up to 32 and 50 % either way
    assert abs(np.mean(means)) < 20


def test_color_jitter_ranges():
    grey = np.full((4, 4, 3), 100, np.uint8)
    red = np.full((4, 4, 3), (200, 50, 50), np.uint8)
    np.random.seed(0)
    jitters = [ColorJitter().get_transform(grey) for _ in range(300)]
    greys = np.stack([jitter.apply_image(grey)[0, 0] for jitter in jitters]).astype(int)
    # Grey has neither hue nor saturation; brightness shifts by 32 at most, then contrast scales by 0.5 to 1.5.
    assert (greys.max(axis=1) == greys.min(axis=1)).all()
    assert 34 <= greys.min() < 60 and 150 < greys.max() <= 198 and (greys == 100).all(axis=1).any()
    hues = [Image.fromarray(jitter.apply_image(red)).convert("HSV").getpixel((0, 0))[0] for jitter in jitters]
    turned = [(hue + 128) % 256 - 128 for hue in hues]
    assert -27 <= min(turned) < -15 and 15 < max(turned) <= 27


def test_crop_avoids_one_class_filling_it(tmp_path):
    labels = np.zeros((40, 40), int)
    labels[:8, :8] = 1
    tiny = record(tmp_path, labels)
    settings = {"short_sides": (40,), "crop_size": (10, 10), "random_flip": "none"}
    free = [training_mapper(**settings)(tiny, seed)["sem_seg"].unique().numel() for seed in range(30)]
    kept = [training_mapper(**settings, single_category_max_area=0.99)(tiny, seed)["sem_seg"] for seed in range(30)]
    assert np.mean([labels.unique().numel() for labels in kept]) > np.mean(free) + 0.3


@pytest.mark.parametrize("shape", [(1, 1), (50, 3000), (3000, 50), (1, 3000)])
def test_extreme_shapes(tmp_path, shape):
    sample = training_mapper(color_jitter=True)(record(tmp_path, np.full(shape, 3)), 0)
    assert sample["image"].shape == (3, 24, 28) and sample["sem_seg"].shape == (24, 28)
    assert (sample["sem_seg"] == 3).any()


def test_other_size_of_labels_names_both_files(tmp_path):
    tiny = record(tmp_path, blocks([0, 1]), np.zeros((20, 11, 3)))
    with pytest.raises(ImageError, match=r"image.png has 20x11 .*labels.png have 20x10"):
        training_mapper()(tiny, 0)


@pytest.mark.parametrize("bad", [12, 255])
def test_ids_out_of_range_name_file_ids_and_class_count(tmp_path, bad):
    with pytest.raises(ImageError, match=rf"labels.png: the ids {bad} are not among the 11 classes.*ignored id 11"):
        training_mapper()(record(tmp_path, blocks([0, bad])), 0)


@pytest.mark.parametrize("mapper", [training_mapper(), EvaluationMapper({"tiny": space()})])
def test_records_of_another_dataset_are_refused(tmp_path, mapper):
    tiny = {**record(tmp_path, blocks([0, 1])), "dataset": "other"}
    with pytest.raises(DatasetError, match=r"image.png.*'other'.*\['tiny'\]"):
        mapper(tiny)


def test_evaluation_keeps_the_original_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    tiny = record(tmp_path, blocks([0, 1, 2, 3, 4, 5]), image)
    sample = EvaluationMapper({"tiny": space()})(tiny)
    np.testing.assert_array_equal(sample["image"].numpy(), image.transpose(2, 0, 1))
    assert sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"], sample["image_id"]) == (20, 30, "image")
    assert sample["sem_seg_file_name"] == tiny["sem_seg_file_name"]
    assert sample["vocabulary"].num_classes == 11


def configuration():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("camvid_train[:2]",), ("camvid_val",)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (16, 20), 64
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [8, 9]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.TEMPLATES = "single"
    cfg.INPUT.CLASS_NAMES = "original"
    cfg.TEST.CLASS_NAMES = "original"
    cfg.TEST.TEMPLATES = ["a drawing of a {}"]
    return cfg


def test_mappers_build_from_a_configuration(camvid_root):
    cfg = configuration()
    sample = TrainingMapper(cfg)(dataset_records("camvid_train[:2]")[1], 0)
    assert sample["image"].shape == (3, 8, 9) and sample["sem_seg"].max() <= 10
    assert sample["vocabulary"] == Vocabulary(MetadataCatalog.get("camvid_train").stuff_classes)
    sample = EvaluationMapper(cfg)(dataset_records("camvid_val")[0])
    assert sample["image"].shape == (3, 12, 16) and sample["vocabulary"].templates == ("a drawing of a {}",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.FORMAT", "BGR"),
        ("INPUT.RANDOM_FLIP", "vertical"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        ("INPUT.CROP.ENABLED", False),
        ("INPUT.CROP.TYPE", "relative"),
    ],
)
def test_settings_without_effect_are_refused(camvid_root, key, value):
    cfg = configuration()
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=key.split(".")[1]):
        TrainingMapper(cfg)


def test_datasets_without_classes_are_refused():
    DatasetCatalog.register("foreign", list)
    try:
        with pytest.raises(DatasetError, match=r"foreign.*stuff_classes"):
            label_spaces(["foreign"])
        MetadataCatalog.get("foreign").stuff_classes = ["cat"]
        with pytest.raises(DatasetError, match=r"foreign.*ignore_label"):
            label_spaces(["foreign"])
    finally:
        DatasetCatalog.remove("foreign")
        MetadataCatalog.remove("foreign")


def test_all_of_camvid_can_be_mapped(sample_data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(sample_data))
    records = dataset_records("camvid_train")
    assert len(records) == 80 and len(dataset_records("camvid_val")) == 30
    mapper = TrainingMapper(
        label_spaces(["camvid_train"]), short_sides=(192,), max_size=400, crop_size=(192, 192), color_jitter=True
    )
    for index in range(0, 80, 16):
        sample = mapper(records[index], index)
        assert sample["sem_seg"].unique().numel() > 4 and sample["image"].float().std() > 20
