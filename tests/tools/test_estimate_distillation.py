"""tools/estimate_distillation.py prints what stages take, and names what cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from escnet.training.estimation import distillation
from escnet.training.estimation.distillation import ImageCost, StageCost

CONFIG = str(Path(__file__).parents[2] / "configs/mojiscenes/sam_clip_stage2.yaml")
SMALLEST = ("MODEL.SAM.NAME", "mini", "MODEL.CLIP.NAME", "escnet-mini", "MODEL.SAM_CLIP.HEAD_BLOCKS", "1")
# The losses of the paper, which alone can be counted.
PAPER = ("DISTILL.BALANCE", "none", "DISTILL.CLIP.DENSE_WEIGHT", "0")
SMALL = ("MODEL.DEVICE", "cpu", *SMALLEST, *PAPER, "DISTILL.CLIP.SIZES", "(32,)", "DISTILL.CLIP.BATCH_SIZE", "16")
BOTH = (*SMALL, "DISTILL.SAM.BATCH_SIZE", "2", "DISTILL.SAM.MASKS", "2", "DISTILL.SAM.SIZES", "(64,)")


COST = StageCost(
    images=(
        ImageCost("CLIP", 32, teacher_flops=1e9, forward=2e9, backward=4e9, graph=1e9, fixed=1e9),
        ImageCost("SAM", 64, teacher_flops=5e9, forward=5e9, backward=10e9, graph=2e9, fixed=1e9),
    ),
    parameters=750_000_000,
    trained=250_000_000,
    trained_tensors=9,
)


def test_tables_follow_from_the_options(load_script, cells, capsys, monkeypatch):
    monkeypatch.setattr(distillation, "count_stage", lambda cfg: COST)
    options = ["--gpus", "1,2,4", "--tflops", "0.001", "--bandwidth", "10", "--images", "1", "--image-kb", "100"]
    options += ["--decode-ms", "5", "--mask-images", "1", "--mask-decode-ms", "50", "--gpu-memory", "20"]
    tool = load_script("tools/estimate_distillation.py")
    assert tool.main(["--config-files", CONFIG, *options, *BOTH, "SOLVER.MAX_ITER", "36000"]) == 1
    output = capsys.readouterr().out
    name = Path(CONFIG).stem
    assert "MODEL.PRECISION is fp32" in output and "does not run on 4 GPUs: DISTILL.SAM.BATCH_SIZE" in output
    assert cells(output, "One image") == [
        [name, "CLIP", "32", "1.0", "2.0", "4.0", "7.0", "1000"],
        [name, "SAM", "64", "5.0", "5.0", "10.0", "20.0", "2000"],
    ]
    # 16 · 7 + 2 · 20 GFLOP at a thousandth of a TFLOP/s; 36000 steps are 10 hours for each second of one.
    whole = [name, "36000", "16", "0.6", "2", "0.1", "0", "0", "1520"]
    assert cells(output, "Steps") == [whole, ["all", *[""] * 7, "1520"]]
    # Two GPUs do half as much each, and send 1 GB of gradients once, at 10 GB/s.
    assert cells(output, "\nTime") == [
        [name, "1", "16 at 32, 2 at 64", "1, 1", "152.000", "0.000", "0%", "1520.0", "1520"],
        [name, "2", "8 at 32, 1 at 64", "1, 1", "76.000", "0.100", "0%", "761.0", "1522"],
    ]
    fed = cells(output, "Feeding")
    assert fed[0][2:] == ["0.1", "0.0", "0", "0.00", "0.0", "0", "2", "0 in 9", "0"]
    assert fed[1][-2:] == ["1000 in 9", "13"]
    # Of 18 GB, 6 are taken: one GPU has room for 11 images of 1 GB and the weights of 1 GB, not for 16.
    message = "16 of CLIP's images at 32 px need 23.0 GB of the 18.0 GB that a GPU has for them; set it to 11 or lower"
    assert f"does not run on 1 GPUs: DISTILL.MICRO_BATCH: {message}" in output
    assert "does not run on 2 GPUs" not in output
    assert cells(output, "Memory")[1][2:] == ["6.0", "9.0 (8 at 32), 3.0 (1 at 64)", "15.0", "11, 5"]
    assert cells(output, "Storage") == [
        ["CLIP's images", "1.000", "100.0", "100"],
        ["SAM's images", "1.000", "1010.0", "1010"],
        ["embeddings", "1.000", "1.5", "2"],
    ]
    assert "CLIP's teacher takes 160; to embed each image once takes 278." in output


@pytest.mark.slow
def test_a_configuration_is_counted(load_script, cells, capsys):
    tool = load_script("tools/estimate_distillation.py")
    options = [*SMALL, "DISTILL.SAM.SHARDS", "()", "MODEL.PRECISION", "bf16"]
    assert tool.main(["--config-files", CONFIG, "--gpus", "2", *options]) == 0
    output = capsys.readouterr().out
    ((_, teacher, size, *flops, _kept),) = cells(output, "One image")
    assert (teacher, size) == ("CLIP", "32") and all(float(value) >= 0 for value in flops)
    assert "is fp32" not in output and "SAM" not in "".join(map(str, cells(output, "Memory")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-files", "nowhere.yaml"], "there is no such file"),
        (["--config-files", CONFIG, "TASK", "segmentation"], "TASK is segmentation"),
    ],
)
def test_what_cannot_be_estimated_is_refused(load_script, capsys, arguments, message):
    assert load_script("tools/estimate_distillation.py").main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--gpus", "8,x"], ["--gpus", "0"], ["--tflops", "0"], ["--images", "nan"]])
def test_mistyped_options(load_script, capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        load_script("tools/estimate_distillation.py").main(arguments)
    assert exit.value.code == 2
