"""Average precision of masks: against pycocotools' own summary, between both libraries, and LVIS's by hand."""

from __future__ import annotations

import copy
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from escnet.data.coco_instances import InstanceData, read_instances
from escnet.data.run_lengths import encode_mask
from escnet.evaluation import mask_ap
from escnet.evaluation.mask_ap import FASTER, LIBRARIES, PYCOCOTOOLS, choose_library, mask_average_precision

HEIGHT, WIDTH = 100, 120


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """A rectangle, of any of COCO's three ranges of area."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    y, x = rng.integers(0, HEIGHT - 4), rng.integers(0, WIDTH - 4)
    height, width = rng.integers(3, rng.choice([8, 40, 110]), 2)
    mask[y : y + height, x : x + width] = True
    return mask


def random_data(seed: int, is_lvis: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A file of objects in eight images, with crowds, ids in no order and a class without objects; and results."""
    rng = np.random.default_rng(seed)
    categories = [{"id": k, "name": str(k), "frequency": "rcf"[k % 3]} for k in (4, 2, 9, 1, 7)]
    images: list[dict[str, Any]] = [{"id": k, "file_name": "a", "height": HEIGHT, "width": WIDTH} for k in range(8)]
    annotations, results = [], []
    for image in images:
        if is_lvis:
            image |= {"neg_category_ids": [int(rng.choice([1, 2, 4]))], "not_exhaustive_category_ids": [9]}
        for _ in range(rng.integers(0, 8)):
            mask, category = random_mask(rng), int(rng.choice([1, 2, 4, 9]))
            crowd = 0 if is_lvis else int(rng.random() < 0.15)
            entry = {"image_id": image["id"], "category_id": category}
            annotations.append(entry | {"iscrowd": crowd, "segmentation": encode_mask(mask)})
            for _ in range(rng.integers(0, 4)):
                found = mask & (rng.random(mask.shape) > 0.4 * rng.random())
                if found.any():
                    wrong = {"category_id": int(rng.choice([1, 2, 4, 7, 9]))} if rng.random() < 0.2 else {}
                    score = round(float(rng.random()), 1)  # with ties
                    results.append(entry | wrong | {"segmentation": encode_mask(found), "score": score})
    for number, annotation in enumerate(annotations):
        annotation["id"] = number
    return {"images": images, "categories": categories, "annotations": annotations}, results


def read(tmp_path: Path, contents: dict[str, Any]) -> InstanceData:
    (tmp_path / "instances.json").write_text(json.dumps(contents))
    return read_instances(tmp_path / "instances.json")


def summary(data: InstanceData, results: list[dict[str, Any]]) -> list[float | None]:
    """What pycocotools prints: AP, AP50, AP75, APs, APm, APl."""
    with redirect_stdout(StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy({"images": data.images, "categories": data.categories,
                                       "annotations": data.annotations, "info": {}})  # fmt: skip
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [None if value == -1 else value for value in judge.stats[:6]]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("seed", range(6))
def test_coco_against_the_summary_of_pycocotools(tmp_path: Path, library: str, seed: int) -> None:
    contents, results = random_data(seed, is_lvis=False)
    data = read(tmp_path, contents)
    found = mask_average_precision(data, results, library)
    assert list(found.scores) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert list(found.scores.values()) == pytest.approx(summary(data, results), abs=1e-9)
    assert 0.05 < found.scores["AP"] < 0.95
    assert (found.library, found.protocol) == (library, "COCO")


@pytest.mark.parametrize("is_lvis", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_both_libraries_agree(tmp_path: Path, is_lvis: bool, seed: int) -> None:
    contents, results = random_data(100 + seed, is_lvis)
    data = read(tmp_path, contents)
    ours, theirs = (mask_average_precision(data, results, library) for library in LIBRARIES)
    assert ours.scores == pytest.approx(theirs.scores, abs=1e-6)
    for one, other in zip(ours.classes, theirs.classes, strict=True):
        assert one == (other.id, other.name, pytest.approx(other.ap, abs=1e-6))
    assert [row.ap is None for row in ours.classes] == [False, False, False, False, True]


def square(x: int) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[:10, x : x + 10] = True
    return encode_mask(mask)


@pytest.mark.parametrize("library", LIBRARIES)
def test_lvis_by_hand(tmp_path: Path, library: str) -> None:
    """One image: class 1 is marked, 2 was looked for in vain, 3 was not looked for, of 4 not all are marked."""
    image = {"id": 1, "file_name": "a", "height": HEIGHT, "width": WIDTH, "neg_category_ids": [2],
             "not_exhaustive_category_ids": [4]}  # fmt: skip
    other = image | {"id": 2, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    categories = [{"id": k, "name": f"class {k}", "frequency": f} for k, f in ((1, "r"), (2, "c"), (3, "f"), (4, "f"))]
    marked = [(1, 1, 0), (2, 2, 0), (2, 3, 0), (1, 4, 0)]
    annotations = [{"image_id": i, "category_id": c, "segmentation": square(x)} for i, c, x in marked]
    found = [
        (1, 1, 40, 0.9), (1, 1, 0, 0.8),  # an error before the right one: precision 1/2
        (1, 2, 40, 0.9), (2, 2, 0, 0.8),  # an error where it was looked for in vain: precision 1/2
        (1, 3, 40, 0.9), (2, 3, 0, 0.8),  # nobody knows whether it is one: precision 1
        (1, 4, 40, 0.9), (1, 4, 0, 0.8),  # perhaps one that is not marked: precision 1
    ]  # fmt: skip
    results = [{"image_id": i, "category_id": c, "segmentation": square(x), "score": s} for i, c, x, s in found]
    contents = {"images": [image, other], "categories": categories, "annotations": annotations}
    judged = mask_average_precision(read(tmp_path, contents), results, library)
    assert [row.ap for row in judged.classes] == pytest.approx([0.5, 0.5, 1.0, 1.0])
    expected = {"AP": 0.75, "APr": 0.5, "APc": 0.5, "APf": 1.0}
    assert {name: judged.scores[name] for name in expected} == pytest.approx(expected)
    assert judged.protocol == "LVIS"
    plain = [{key: image[key] for key in ("id", "file_name", "height", "width")} for image in (image, other)]
    coco = mask_average_precision(read(tmp_path, contents | {"images": plain}), results, library)
    assert [row.ap for row in coco.classes] == pytest.approx([0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("library", LIBRARIES)
def test_only_the_best_masks_of_an_image_count_in_lvis(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_ap, "LVIS_MASKS", 1)
    contents, _ = random_data(0, is_lvis=True)
    contents["annotations"] = [{"image_id": 0, "category_id": c, "segmentation": square(0)} for c in (1, 2)]
    results = [contents["annotations"][k] | {"score": 0.5 + k / 10} for k in (0, 1)]
    judged = mask_average_precision(read(tmp_path, contents), results, library)
    assert {row.id: row.ap for row in judged.classes if row.ap is not None} == pytest.approx({2: 1.0, 1: 0.0})


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_found_is_nothing_right(tmp_path: Path, library: str) -> None:
    contents, _ = random_data(0, is_lvis=False)
    assert mask_average_precision(read(tmp_path, contents), [], library).scores["AP"] == 0.0


def test_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_library() == FASTER
    assert choose_library(is_lvis=True) == PYCOCOTOOLS
    assert choose_library(PYCOCOTOOLS) == PYCOCOTOOLS
    monkeypatch.setattr(mask_ap.importlib.util, "find_spec", lambda name: None)
    assert choose_library() == PYCOCOTOOLS
    with pytest.raises(ValueError, match="faster-coco-eval is not installed"):
        choose_library(FASTER)
    with pytest.raises(ValueError, match="there is no library lvis"):
        choose_library("lvis")
