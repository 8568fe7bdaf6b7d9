"""tools/estimate_training.py prints what a training takes, and names what cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from escnet.training.estimation import segmentation
from escnet.training.estimation.counting import Footprint
from escnet.training.estimation.segmentation import ImageWork, TrainingCost

CONFIG = str(Path(__file__).parents[2] / "configs/camvid/escnet.yaml")
SMALL = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", "(64, 64)", "INPUT.CROP.SIZE", "(64, 64)")


class Counted:
    """Stands in for `SegmentationCounter`, with round numbers."""

    def __init__(self, cfg) -> None:
        pass

    def training(self, words):
        giga = 10**9
        return TrainingCost(giga, 2 * giga, 5 * giga, 13 * giga, 3 * giga, parameters=2 * giga, trained=giga)

    def step(self, words, images):
        return Footprint(memory=images * 10**9, operators=1000 * len(words.rows))

    def image(self, words, windows=False):
        return ImageWork(10**10 * (5 if windows else 1), len(words.rows))


def test_tables_follow_from_the_options(load_script, cells, capsys, monkeypatch):
    monkeypatch.setattr(segmentation, "SegmentationCounter", Counted)
    options = ["--benchmarks", "pas20", "a847", "--gpus", "1", "2", "3", "--tflops", "0.01"]
    options += ["--launch-us", "1000", "2000", "--bandwidth", "4", "--gpu-memory", "20"]
    tool = load_script("tools/estimate_training.py")
    overrides = ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "3600")
    assert tool.main(["--config-file", CONFIG, *options, *overrides]) == 1
    output = capsys.readouterr().out
    assert "MODEL.PRECISION fp32. Assumed: 0.01 TFLOP/s sustained by a GPU of 20 GB" in output
    # CamVid has 11 words.
    work = ["escnet", "2000.0 (1000.0)", "11", "1.0", "2.0", "5.0", "13.0", "3.0"]
    assert cells(output, "Work of a training step") == [work]
    # 3 + 4 · 18 GFLOP at 10 GFLOP/s; 11000 operators of a millisecond; 4 GB of gradients between two. An
    # operator of an evaluation takes two.
    assert cells(output, "Training of 3600 iterations of 4 images") == [
        ["1", "4", "75", "11000", "7.500", "11.000", "0.000", "11.000", "11.0", "11.0", "20.0"],
        ["2", "2", "39", "11000", "3.900", "11.000", "1.000", "12.000", "12.0", "24.0", "18.0"],
    ]
    assert "\n1 GPUs: 4 images need 20.0 GB, and 18.0 GB are free" in output and "\n2 GPUs" not in output
    assert "3 GPUs: SOLVER.IMS_PER_BATCH, 4, is not a multiple of the number of processes, 3" in output
    assert cells(output, "Evaluation on one GPU") == [
        ["pas20", "20", "1449", "10", "20", "1.000", "0.40", "50", "20", "5.000", "2.01"],
        ["a847", "847", "2000", "10", "847", "1.694", "0.94", "50", "847", "5.000", "2.78"],
    ]


@pytest.mark.slow
def test_a_configuration_is_counted(load_script, cells, capsys):
    options = ["--benchmarks", "pas20", "--gpus", "2", "--classes", "3", "MODEL.META_ARCHITECTURE", "CostAggregation"]
    windows = ("TEST.SLIDING.SIZE", "(96, 96)", "TEST.SLIDING.WINDOW", "(64, 64)")
    assert load_script("tools/estimate_training.py").main(["--config-file", CONFIG, *options, *SMALL, *windows]) == 0
    output = capsys.readouterr().out
    ((_, _, words, *flops),) = cells(output, "Work of a training step")
    assert words == "3" and all(float(value) >= 0 for value in flops)
    ((name, *_, whole, operators, _, _, in_windows, all_operators, _, _),) = cells(output, "Evaluation")
    # Four windows beside the whole image.
    assert name == "pas20" and int(all_operators) == 5 * int(operators) and int(in_windows) >= 4 * int(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "nowhere.yaml"], "there is no such file"),
        (["--config-file", CONFIG, "TASK", "distillation"], "TASK is distillation"),
        (["--config-file", CONFIG, "DATASETS.TRAIN", "()"], "say how many --classes there are"),
        (["--benchmarks", "camvid_val", "--config-file", CONFIG], "camvid_val is no benchmark"),
    ],
)
def test_what_cannot_be_estimated_is_refused(load_script, capsys, arguments, message):
    assert load_script("tools/estimate_training.py").main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--gpus", "x"], ["--gpus", "0"], ["--tflops", "0"], ["--launch-us", "1", "nan"], ["--launch-us", "1"], []],
)
def test_mistyped_options(load_script, arguments):
    with pytest.raises(SystemExit) as exit:
        load_script("tools/estimate_training.py").main(arguments)
    assert exit.value.code == 2
