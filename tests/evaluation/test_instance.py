"""Masks from boxes, on a model that fills them: scaling, chunks, scores, resumption, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from escnet.data.coco_instances import BoxPrompt, InstanceData, read_instances
from escnet.data.errors import DatasetError
from escnet.data.run_lengths import encode_mask
from escnet.evaluation.instance import BoxOptions, evaluate_instances
from escnet.evaluation.instance_results import InstanceResults, ObjectMask
from escnet.evaluation.runs.image_results import ResultsError
from escnet.meta_arch.interfaces import MaskPrediction, PromptableModel, Prompts
from escnet.vocabulary import Vocabulary

SIDE = 64
# (height, width) of each image, and the boxes (x, y, width, height) in it.
IMAGES = {"wide": ((32, 64), [(8, 4, 20, 10), (40, 16, 8, 8)]), "tall": ((128, 32), [(2, 20, 28, 60)])}


class Filler(PromptableModel):
    """Fills each box of its square input; expects ever less of its masks."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.side, self.encoded, self.chunks = side, 0, []

    @property
    def input_size(self) -> int:
        return self.side

    @property
    def mask_size(self) -> tuple[int, int]:
        return self.side, self.side

    def encode(self, images: Tensor) -> Tensor:
        assert images.shape[-2:] == (self.side, self.side)
        self.encoded += 1
        return images

    def masks(
        self, features: Tensor, prompts: Prompts, words: Vocabulary | None = None, multimask: bool = False
    ) -> MaskPrediction:
        self.chunks.append(len(prompts.boxes))
        places = torch.arange(self.side)
        x, y = ((places > low) & (places < high) for low, high in
                ((prompts.boxes[:, k, None], prompts.boxes[:, k + 2, None]) for k in (0, 1)))  # fmt: skip
        inside = y[:, None, :, None] & x[:, None, None, :]
        return MaskPrediction(torch.where(inside, 3.0, -3.0), 0.9 - 0.1 * torch.arange(len(x))[:, None])


def write(tmp_path: Path, **changes: Any) -> InstanceData:
    """Images of one colour and a file of rectangular objects in them, all of one class."""
    images, annotations = [], []
    for number, (name, ((height, width), boxes)) in enumerate(IMAGES.items()):
        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        for x, y, w, h in boxes:
            mask = np.zeros((height, width), dtype=bool)
            mask[y : y + h, x : x + w] = True
            annotations.append({"image_id": number, "category_id": 1, "bbox": [x, y, w, h],
                                "segmentation": encode_mask(mask)})  # fmt: skip
    contents = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (tmp_path / "instances.json").write_text(json.dumps(contents | changes))
    return read_instances(tmp_path / "instances.json")


@pytest.mark.parametrize("padded", [False, True])
def test_boxes_reach_the_model_and_masks_the_image(tmp_path: Path, padded: bool) -> None:
    model = Filler()
    scores = evaluate_instances(model, tmp_path, write(tmp_path), options=BoxOptions(padded=padded, chunk=1))
    assert scores.mean_iou == 1.0
    assert scores.ap.scores["AP"] == pytest.approx(1.0)
    assert (scores.images, scores.boxes, scores.unreadable) == (2, 3, {})
    assert (model.encoded, model.chunks) == (2, [1, 1, 1])


def test_a_detectors_boxes_and_scores(tmp_path: Path) -> None:
    """The first image's objects are found, the second one's is not, after an error of the highest score: AP by hand."""
    data = write(tmp_path)
    found = [((0, 24, 30, 32), 0.99), ((40, 16, 48, 24), 0.5), ((8, 4, 28, 14), 0.6)]
    boxes = {0: [BoxPrompt(box, 1, score) for box, score in found], 1: []}
    results = InstanceResults(None)
    scores = evaluate_instances(Filler(), tmp_path, data, boxes, results=results)
    assert [mask.score for mask in results.masks()] == [0.99, 0.5, 0.6]
    assert scores.mean_iou is None
    # Two of three objects, with a precision of 2/3 at both: recalls 0 to 0.66 of 101 have it.
    assert scores.ap.scores["AP50"] == pytest.approx(67 / 101 * 2 / 3)


def test_scores_of_annotated_boxes(tmp_path: Path) -> None:
    data = write(tmp_path)
    for option, expected in (("quality", [0.9, 0.8, 0.9]), ("one", [1.0, 1.0, 1.0])):
        results = InstanceResults(None)
        evaluate_instances(Filler(), tmp_path, data, options=BoxOptions(score=option), results=results)
        assert [mask.score for mask in results.masks()] == pytest.approx(expected)


def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    data, path = write(tmp_path), tmp_path / "out" / "images.jsonl"

    class Interrupted(Filler):
        def encode(self, images: Tensor) -> Tensor:
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode(images)

    with pytest.raises(KeyboardInterrupt):
        evaluate_instances(Interrupted(), tmp_path, data, results=InstanceResults(path))
    with open(path, "a") as file:
        file.write('{"image": 1, "obj')  # as a kill leaves it
    model = Filler()
    scores = evaluate_instances(model, tmp_path, data, results=InstanceResults(path))
    assert model.encoded == 1
    assert scores == evaluate_instances(Filler(), tmp_path, data)
    assert evaluate_instances(model, tmp_path, data, results=InstanceResults(path)) == scores
    assert model.encoded == 1


def test_damaged_results_are_named(tmp_path: Path) -> None:
    path = tmp_path / "images.jsonl"
    results = InstanceResults(path)
    mask = ObjectMask(4, 1, encode_mask(np.eye(3, dtype=bool)), 0.5, None)
    results.add(4, [mask], 0.1)
    results.close()
    assert list(InstanceResults(path).masks()) == [mask]
    line = path.read_text()
    path.write_text(line + line)
    with pytest.raises(ResultsError, match="line 2: a second result of the image 4"):
        InstanceResults(path).images()
    path.write_text(line + "{}\n")
    with pytest.raises(ResultsError, match="line 2: is damaged"):
        InstanceResults(path).images()


def test_an_unreadable_image_is_left_out_and_its_objects_missed(tmp_path: Path) -> None:
    data = write(tmp_path)
    (tmp_path / "tall.png").write_bytes(b"no image")
    scores = evaluate_instances(Filler(), tmp_path, data)
    assert scores.unreadable.keys() == {"tall.png"}
    assert scores.to_dict()["unreadable"] == 1
    assert scores.ap.scores["AP50"] == pytest.approx(67 / 101)
    (tmp_path / "wide.png").unlink()
    with pytest.raises(DatasetError, match="not one of 2 images can be read"):
        evaluate_instances(Filler(), tmp_path, data)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no box to ask for in 2 images"):
        evaluate_instances(Filler(), tmp_path, write(tmp_path, annotations=[]))
    data = write(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "wide.png")
    with pytest.raises(DatasetError, match=r"wide\.png: is 9x9, but .*instances\.json says 32x64"):
        evaluate_instances(Filler(), tmp_path, data)
    with pytest.raises(ValueError, match="score must be one of"):
        BoxOptions(score="best")
    with pytest.raises(ValueError, match="a chunk needs a box"):
        BoxOptions(chunk=0)


@pytest.mark.parametrize("padded", [False, True])
def test_photographs_with_polygons_and_run_lengths(sample_data: Path, tmp_path: Path, padded: bool) -> None:
    """COCO's photographs: of every second thing the mask, of the others their boxes as polygons, which Filler hits."""
    folder = sample_data / "coco_panoptic"
    panoptic = json.loads((folder / "panoptic_examples.json").read_text())
    things = {category["id"] for category in panoptic["categories"] if category["isthing"]}
    contents = {"images": panoptic["images"], "categories": panoptic["categories"], "annotations": []}
    for entry in panoptic["annotations"]:
        pixels = np.array(Image.open(folder / "panoptic_examples" / entry["file_name"])).astype(int)
        ids = pixels @ [1, 256, 256**2]
        for number, segment in enumerate(entry["segments_info"]):
            if segment["category_id"] in things and not segment["iscrowd"]:
                x, y, w, h = segment["bbox"]
                polygon, mask = [[x, y, x + w, y, x + w, y + h, x, y + h]], encode_mask(ids == segment["id"])
                shape = {"segmentation": polygon if number % 2 else mask, "image_id": entry["image_id"]}
                contents["annotations"].append(segment | shape | {"box": bool(number % 2)})
    (tmp_path / "instances.json").write_text(json.dumps(contents))
    data, results = read_instances(tmp_path / "instances.json"), InstanceResults(None)
    options = BoxOptions(padded=padded)
    scores = evaluate_instances(Filler(512), folder / "input_images", data, options=options, results=results)
    assert scores.boxes == len(contents["annotations"]) > 20
    ious = {True: [], False: []}
    for mask, annotation in zip(results.masks(), contents["annotations"], strict=True):
        if annotation["area"] > 32**2:
            ious[annotation["box"]].append(mask.iou)
    assert min(ious[True]) > 0.85
    assert 0.2 < np.mean(ious[False]) < 0.8
