"""tools/train_net.py on a distillation, as a user starts it: killed in the middle of an epoch, and in two processes."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from escnet.data.images import write_labels
from escnet.data.shards.making import Making, make_shards
from escnet.data.shards.pictures import find_pictures
from escnet.data.shards.storing import Storing
from tests.warm_process import WarmProcess, WarmProcesses, torchrun_variables

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 pictures with masks in 5 shards, so that a few iterations are several epochs."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    (root / "images").mkdir()
    for number in range(10):
        Image.fromarray(generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(root / f"images/{number}.png")
        regions = np.zeros((48, 48), dtype=np.uint8)
        regions[4:30, 10 + number : 34] = 1
        regions[32:46, 4:40] = 2
        write_labels(root / f"regions/{number}.png", regions)
    pictures = find_pictures([root / "images"], 0)
    make_shards(Making(pictures, root / "mojireplay", 2, Storing(str(root / "regions")), 0))
    return root / "mojireplay"


def start(
    run: Path, shards: Path, *options: str, warm: WarmProcesses, flags: tuple[str, ...] = (), **variables: str
) -> WarmProcess:
    """Stage 2 in a process of its own; its output goes to a file beside the folder of the run."""
    config = ("--config-file", "configs/mojiscenes/sam_clip_stage2.yaml")
    keys = (
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "''", "OUTPUT_DIR", str(run), "SOLVER.WARMUP_ITERS", "0",
        "DISTILL.CLIP.SHARDS", f"('{shards}',)", "DISTILL.SAM.SHARDS", f"('{shards}',)",
        "DISTILL.CLIP.SIZES", "(48, 64)", "DISTILL.CLIP.BATCH_SIZE", "4", "DISTILL.SAM.BATCH_SIZE", "2",
        "DISTILL.SAM.MASKS", "2", "DISTILL.SAM.SIZES", "(64,)", "DATALOADER.NUM_WORKERS", "1",
        "DISTILL.STATISTICS_IMAGES", "8",
    )  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    arguments = (*config, *flags, *keys, *options)
    return warm.start(Path(f"{run}.log"), REPOSITORY / "tools/train_net.py", *arguments, environment=environment)


def finish(process: WarmProcess, run: Path) -> dict[str, torch.Tensor]:
    assert process.wait(300) == 0, Path(f"{run}.log").read_text()[-3000:]
    return torch.load(run / "model_final.pth", weights_only=True)["model"]


def test_a_killed_distillation_has_the_weights_of_an_undisturbed_one(
    shards: Path, tmp_path: Path, warm: WarmProcesses
) -> None:
    options = ("SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_PERIOD", "2")
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed, victim = (start(run, shards, *options, warm=warm) for run in (calm, killed))
    deadline = time.monotonic() + 300
    while not (killed / "model_0000003.pth").exists():
        assert victim.poll() is None and time.monotonic() < deadline, Path(f"{killed}.log").read_text()[-3000:]
        time.sleep(0.02)
    victim.kill()
    assert victim.wait() == -9
    assert not (killed / "model_final.pth").exists()
    resumed = start(killed, shards, *options, warm=warm, flags=("--resume",))
    expected, found = finish(undisturbed, calm), finish(resumed, killed)
    starts = re.findall(r"Starting training from iteration (\d+)", Path(f"{killed}.log").read_text())
    assert len(starts) == 2 and int(starts[0]) == 0 < int(starts[1])
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_two_processes_share_the_batches(shards: Path, tmp_path: Path, warm: WarmProcesses) -> None:
    run = tmp_path / "two"
    options = ("SOLVER.MAX_ITER", "2")
    both = [start(run, shards, *options, warm=warm, **variables) for variables in torchrun_variables(2)]
    weights, _ = [finish(process, run) for process in both]
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())
    checkpoint = torch.load(run / "model_final.pth", weights_only=True)
    assert checkpoint["trainer"]["task"]["readers"] == {"processes": 2, "workers": 1}
    # Of both processes and both iterations: four pictures of the smaller size, or two of the larger.
    seen = checkpoint["trainer"]["task"]["teachers"]["clip"]["count"]["seen"]
    assert 4 <= seen <= 8
    last = json.loads((run / "metrics.json").read_text().splitlines()[-1])
    assert (last["seen_clip"], last["seen_sam"], last["broken_clip"]) == (seen, 4, 0)
