"""tune: judged before and after, on one page; stopped and refused as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from escnet.commands import tune
from escnet.evaluation.runs.run_folder import read_json

SMALL = (
    "MODEL.CLIP.IMAGE_SIZE", "(64,64)", "INPUT.CROP.SIZE", "(64,64)", "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "MODEL.ESC.NUM_BLOCKS", "1", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu",
)  # fmt: skip


def run(
    output: Path, *arguments: str, config: str = "configs/camvid/escnet.yaml", small: tuple[str, ...] = SMALL
) -> int:
    return tune.main(["--config-file", config, "--output", str(output), *arguments, *small])


@pytest.mark.slow
def test_a_tuning_is_judged_and_goes_on(camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tuned"
    options = (
        "--data",
        "camvid_train",
        "--test",
        "camvid_val",
        "--iterations",
        "4",
        "--period",
        "2",
        "--patience",
        "9",
    )
    assert run(output, *options) == 0
    told = capsys.readouterr().out
    before, after = (
        100 * read_json(output / "evaluation" / name / "camvid_val" / "metrics.json")["miou"]
        for name in ("before", "after")
    )
    assert f"mIoU {before:.1f} before, {after:.1f} after, on 3 test images; 4 iterations" in told
    page = (output / "index.html").read_text()
    assert f"mIoU {before:.1f} before, <b>{after:.1f}</b> after" in page
    assert "4 labelled\nimages were trained on" in page and "1 were held out" in page
    assert page.count("data:image") == 1 + 3 and 'src="http' not in page
    assert (output / "training/model_final.pth").is_file() and (output / "evaluation/report.html").is_file()
    validated = [line for line in _metrics(output) if "validation" in line]
    assert [line["iteration"] for line in validated] == [1, 3]

    made = (output / "training/model_final.pth").stat().st_mtime_ns
    assert run(output, *options) == 0
    assert (output / "training/model_final.pth").stat().st_mtime_ns == made
    assert run(output, *options, "--images", "4") == 2
    assert re.search(r"tuning\.json: is of a tuning with another config, images; choose", capsys.readouterr().err)


def _metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "training/metrics.json").read_text().splitlines()]


def test_the_command_of_the_page_has_the_words_and_the_keys() -> None:
    arguments = ["--config-file", "a.yaml", "--data", "folder:x", "MODEL.PRECISION", "bf16"]
    command = tune.predict_command(tune.parse(arguments), "final.pth", ["cat", "building, edifice"])
    assert command == (
        "python -m escnet predict --config-file a.yaml --weights final.pth --input PICTURES "
        "--vocabulary 'cat, building| edifice' --output out MODEL.PRECISION bf16"
    )


def test_data_that_training_would_refuse_are_refused_before(
    camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The weights are not there: had a model been built, they would have been missed.
    options = ("--weights", "nowhere.pth", "--data", "folder:" + str(tmp_path / "own"))
    for kind, top, channels in (("images", 255, (3,)), ("labels", 2, ())):
        (tmp_path / "own" / kind).mkdir(parents=True)
        pixels = np.full((8, 8, *channels), top, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "own" / kind / "a.png")
    (tmp_path / "own/classes.txt").write_text("cat\ngrass\n")
    assert run(tmp_path / "tuned", *options) == 2
    assert "a.png: unknown ids 2; known are 0..1 and 255" in capsys.readouterr().err
    assert run(tmp_path / "tuned", "--data", "camvid_train", "--validation", "0") == 2
    assert "nothing judges the model: give a test set, or hold out a share" in capsys.readouterr().err
