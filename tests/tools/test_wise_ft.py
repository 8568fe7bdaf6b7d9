"""tools/wise_ft.py as a user starts it: from a small SAM to a SAM-CLIP, gone on with, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from escnet.config import load_config
from escnet.data.coco_instances import read_instances
from escnet.data.run_lengths import encode_mask
from escnet.evaluation.instance import evaluate_instances
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.sam import build_sam
from escnet.pretrained.shipped import resolve_shipped
from escnet.pretrained.writing import write_weights

CONFIG = "configs/mojiscenes/escnet.yaml"
OPTS = (
    *("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.IMAGE_SIZE", "(64, 64)", "MODEL.SAM_CLIP.HEAD_BLOCKS", "1"),
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of bright squares with their masks, the same pictures by class, and a tuned SAM-CLIP."""
    root = tmp_path_factory.mktemp("wise_ft")
    entries: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for number, (colour, name) in enumerate((((230, 60, 40), "red_square"), ((40, 90, 230), "blue_square"))):
        mask = np.zeros((64, 64), dtype=bool)
        mask[10 + 8 * number : 40, 14:50] = True
        picture = np.where(mask[..., None], np.array(colour, dtype=np.uint8), np.uint8(20))
        for folder in ("images", f"classes/{name}"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / folder / f"{number}.png")
        entries["images"].append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        entries["annotations"].append(
            {"id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "area": int(mask.sum())}
            | {"bbox": [14, 10 + 8 * number, 36, 30 - 8 * number], "segmentation": encode_mask(mask)}
        )
    (root / "objects.json").write_text(json.dumps(entries))
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, OPTS))
    torch.manual_seed(1)
    # Tuned to nothing: noise, in which SAM's ability is lost.
    tuned = {name: value + 3 * torch.randn_like(value) * value.std() if name.startswith("backbone") else value
             for name, value in model.state_dict().items()}  # fmt: skip
    write_weights(root / "tuned.safetensors", tuned)
    return root


@pytest.fixture
def run(load_script: Callable[[str], ModuleType], data: Path, tmp_path: Path) -> Callable[..., int]:
    def start(alphas: str, *options: str, keys: tuple[str, ...] = ()) -> int:
        tool = load_script("tools/wise_ft.py")
        own = ("--config-file", CONFIG, "--tuned", str(data / "tuned.safetensors"), "--output", str(tmp_path / "out"))
        sets = ("--classification", str(data / "classes"), "--images", str(data / "images"))
        objects = ("--annotations", str(data / "objects.json"), "--templates", "single", "--crop", "none")
        return tool.main(["--alphas", *alphas.split(), *own, *sets, *objects, *options, *OPTS, *keys])

    return start


def points(tmp_path: Path) -> dict[float, dict[str, float]]:
    contents = json.loads((tmp_path / "out/wise_ft.json").read_text())
    return {point["alpha"]: point["scores"] for point in contents["points"]}


def test_from_sam_to_the_tuned_model(run: Callable[..., int], data: Path, tmp_path: Path, capsys) -> None:
    assert run("0 1", "--teacher-accuracy", "90", "--instance-size", "128") == 0
    found = points(tmp_path)
    assert found.keys() == {0, 1}
    # SAM itself, at its own size.
    sam = evaluate_instances(
        PromptableSam(build_sam("moji", "shipped:sam")), data / "images", read_instances(data / "objects.json")
    )
    assert found[0]["mask AP from boxes"] == pytest.approx(sam.ap.scores["AP"]) and sam.ap.scores["AP"] > 0.3
    assert found[1]["mask AP from boxes"] < sam.ap.scores["AP"] - 0.2
    output = capsys.readouterr().out
    assert f"alpha 0: zero-shot accuracy {100 * found[0]['zero-shot accuracy']:.1f}" in output
    assert (tmp_path / "out/wise_ft.png").stat().st_size > 5000

    # Gone on with: only what is missing is judged.
    assert run("0 0.5 1", "--instance-size", "128") == 0
    output = capsys.readouterr().out
    assert "alpha 0.5: " in output and "alpha 0: " not in output and "alpha 1: " not in output
    assert points(tmp_path).keys() == {0, 0.5, 1} and points(tmp_path)[1] == found[1]

    assert run("0", "--instance-size", "64") == 2
    assert "made under other conditions (sizes was [0, 128], is [0, 64])" in capsys.readouterr().err
    assert run("0", "--instance-size", "64", "--restart") == 0
    assert points(tmp_path).keys() == {0}


def test_a_sam_by_itself_equals_the_configured_one(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("0", "--sam-weights", resolve_shipped("shipped:sam")) == 0
    before = points(tmp_path)
    # The conditions hold the weights, so that the same ones go on.
    assert run("0") == 0
    assert points(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "keys", "message"),
    [
        (("--sam-weights", "nowhere.pth"), (), "nowhere.pth: there is no such file"),
        ((), ("MODEL.META_ARCHITECTURE", "ESCNet"), "ESCNet cannot draw masks"),
        (("--classification", "nowhere"), (), "there is no folder"),
        (("--images", "nowhere"), (), "nowhere: has none of the 2 images of"),
        (("--annotations", "nowhere.json"), (), "nowhere.json: there is no such file of objects"),
        (("--sam-weights", "shipped:clip"), (), "only in the first: "),
        (("--instance-size", "100"), (), "--instance-size is (100, 100); both sides have to"),
        ((), ("MODEL.SAM_CLIP.IMAGE_SIZE", "(128, 100)"), "MODEL.SAM_CLIP.IMAGE_SIZE is (128, 100)"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    keys: tuple[str, ...],
    message: str,
) -> None:
    def judged(*_: object) -> None:
        raise AssertionError("pictures were classified first")

    monkeypatch.setattr("escnet.evaluation.zero_shot_classification.evaluate_classification", judged)
    assert run("0.5", *options, keys=keys) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wise_ft.py: ")]
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "out/wise_ft.json").exists()


def test_alphas_are_shares(run: Callable[..., int], capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("1.5")
    assert "--alphas has 1.5" in capsys.readouterr().err
