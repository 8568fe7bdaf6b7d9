"""tools/eval_instances.py as a user starts it, on small pictures and the SAM that ships with the package."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from escnet.data.run_lengths import encode_mask
from escnet.evaluation import instance_run
from escnet.miniature.world.classes import words
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import SceneStyle, compose

CONFIG = "configs/mojiscenes/escnet.yaml"
KEYS = ("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0")
STYLE = SceneStyle(objects=(2, 3), object_size=(0.3, 0.5), repeats=0)


def annotated(image: int, mask: np.ndarray, category: int) -> dict[str, Any]:
    y, x = np.where(mask)
    box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
    return {"image_id": image, "category_id": category, "bbox": box, "area": int(mask.sum()), "iscrowd": 0,
            "segmentation": encode_mask(mask)}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of 96x128, the masks of their objects and the boxes of a detector that is never wrong."""
    root = tmp_path_factory.mktemp("world")
    contents: dict[str, list] = {"images": [], "annotations": []}
    for number in range(4):
        scene = compose(load_glyphs("base"), np.random.default_rng(number), STYLE)
        Image.fromarray(scene.image[:96]).save(root / f"{number}.png")
        contents["images"].append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        for k in range(1, int(scene.instances.max()) + 1):
            mask = scene.instances[:96] == k
            if mask.any():
                contents["annotations"].append(annotated(number, mask, int(scene.labels[:96][mask][0])))
    contents["categories"] = [{"id": row, "name": words()[row].name} for row in range(80)]
    boxes = [{key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.7} for a in
             contents["annotations"]]  # fmt: skip
    (root / "instances.json").write_text(json.dumps(contents))
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root


@pytest.fixture
def run(load_script: Callable[[str], ModuleType], world: Path, tmp_path: Path) -> Callable[..., int]:
    def start(*options: str, keys: tuple[str, ...] = ()) -> int:
        common = ("--config-file", CONFIG, "--images", str(world), "--annotations", str(world / "instances.json"))
        tool = load_script("tools/eval_instances.py")
        return tool.main([*common, "--output", str(tmp_path / "out"), *options, *KEYS, *keys])

    return start


def scores(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out" / "results.json").read_text())["scores"]


def test_annotated_boxes_and_what_is_written(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--system", "sam", "--library", "pycocotools") == 0
    output = capsys.readouterr().out
    found, out = scores(tmp_path), tmp_path / "out"
    assert f"mask AP    {100 * found['AP']:.2f}" in output
    assert f"{found['boxes']} masks in 4 images; COCO's definition, counted by pycocotools" in output
    # The SAM that ships with the package has learned these objects.
    assert found["mean_iou"] > 0.6
    assert found["AP50"] > 0.6
    masks = json.loads((out / "masks.json").read_text())
    assert len(masks) == found["boxes"]
    assert coco_masks.decode(masks[0]["segmentation"]).shape == (96, 128)
    with open(out / "per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["boxes"]) for row in rows) == found["boxes"]
    assert np.mean([float(row["ap"]) for row in rows if row["ap"]]) == pytest.approx(found["AP"])

    lines = (out / "images.jsonl").read_text().splitlines(keepends=True)
    (out / "images.jsonl").write_text("".join(lines[:2]))  # as if it had been stopped
    assert run("--system", "sam", "--library", "faster-coco-eval") == 0
    assert scores(tmp_path) == pytest.approx(found | {"library": "faster-coco-eval"}, abs=1e-6)
    assert (out / "images.jsonl").read_text().splitlines(keepends=True)[:2] == lines[:2]

    capsys.readouterr()
    assert run("--system", "sam", "--padded") == 2
    assert "padded was False, is True" in capsys.readouterr().err
    assert run("--system", "sam", "--padded", "--restart", "--limit", "1") == 0
    assert scores(tmp_path)["images"] == 1


def test_a_detectors_boxes_for_a_merged_model(run: Callable[..., int], world: Path, tmp_path: Path) -> None:
    """Its backbone is SAM's own as long as nothing was distilled, so that it draws the same masks."""
    boxes = ("--boxes", str(world / "boxes.json"))
    assert run("--system", "sam", *boxes) == 0
    found = scores(tmp_path)
    assert found["mean_iou"] is None
    assert found["AP50"] > 0.6
    merged = ("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.IMAGE_SIZE", "(128, 128)")
    assert run(*boxes, "--restart", keys=merged) == 0
    assert scores(tmp_path) == pytest.approx(found, abs=1e-3)
    # And so does a SAM whose adapters have learned nothing.
    assert run(*boxes, "--restart", keys=("MODEL.META_ARCHITECTURE", "ClipGuidedSam")) == 0
    assert scores(tmp_path) == pytest.approx(found, abs=1e-6)


def test_a_call_that_ended_before_its_first_result_binds_nobody(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = ("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.IMAGE_SIZE")

    def fail(*_: object) -> None:
        raise ValueError("no image can be read")

    with monkeypatch.context() as patch:
        patch.setattr(instance_run, "evaluate_instances", fail)
        assert run("--limit", "1", keys=(*merged, "(96, 96)")) == 2
    assert (tmp_path / "out/run.json").exists()
    assert run("--limit", "1", keys=(*merged, "(64, 64)")) == 0
    (tmp_path / "out/images.jsonl").unlink()
    assert run("--limit", "1", keys=(*merged, "(128, 128)")) == 2  # results.json has some
    assert "made under other conditions" in capsys.readouterr().err


def test_a_model_that_cannot_is_refused(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    able = "MODEL.META_ARCHITECTURE ClipGuidedSam or SamClip"
    expected = f"ESCNet cannot draw masks from boxes; take {able}, or --system sam"
    assert capsys.readouterr().err == f"eval_instances.py: {expected}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "nowhere"), "not one of 4 images can be read"),
        (("--annotations", "nowhere.json"), "there is no such file of objects"),
        (("--boxes", "nowhere.json"), "there is no such file of boxes"),
        (("--weights", "nowhere.pth"), "nowhere.pth"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run("--system", "sam", *options) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eval_instances.py: ")]
    assert len(error) == 1
    assert message in error[0]
