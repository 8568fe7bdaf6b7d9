"""The benchmark's stages add up, and the tool runs as it is typed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.warm_process import WarmProcesses

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs" / "camvid" / "escnet.yaml"
SMALL = ("MODEL.CLIP.IMAGE_SIZE", "(64,64)", "INPUT.CROP.SIZE", "(64,64)")  # 8 by 8 cells


def arguments_of(*options: str) -> list[str]:
    return ["--config-file", str(MINI), *options, *SMALL]


@pytest.fixture
def run(warm: WarmProcesses, tmp_path: Path) -> Callable[..., str]:
    """What the tool prints, in a process that has imported everything, and whose own processes have too."""

    def printed(*options: str) -> str:
        log = tmp_path / "log.txt"
        process = warm.start(log, ROOT / "tools/benchmark.py", *arguments_of(*options), spawns_copies=True)
        assert process.wait(timeout=300) == 0, log.read_text()[-3000:]
        return log.read_text()

    return printed


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.slow
def test_inference_table():
    narrow = ("MODEL.ESC.MAX_CLASSES", "4", "MODEL.ESC.KEEP", "2", "MODEL.ESC.KEEP_SHARE", "0.9")
    arguments = arguments_of("--classes", "2", "9", "--repeats", "1", "--threads", "1", "--profile", *narrow)
    command = [sys.executable, "tools/benchmark.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    header, _, few, many, *operators = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert cells(header)[:6] == ["classes", "first pass > kept", "text, once s", "CLIP s", "whole s", "whole / CLIP"]
    assert cells(few)[:2] == ["2", "2"] and cells(many)[:2] == ["9", "4 > 2"]
    for row in (few, many):
        shares = [float(cell) for cell in cells(row)[6:12]]
        assert sum(shares) == pytest.approx(100, abs=0.5)
        assert all(share > 0 for share in shares)
    assert cells(operators[0]) == ["operator", "calls", "% of the time"] and len(operators) == 2 * 17
    # Those of a model so small share their time with many others.
    assert 40 < sum(float(cells(line)[2]) for line in operators[2:17]) <= 100


@pytest.mark.slow
def test_inference_table_of_cost_aggregation(run):
    printed = run(
        "--classes", "3", "--repeats", "1", "MODEL.META_ARCHITECTURE", "CostAggregation", "MODEL.ESC.AUX_LOSS", "0.0"
    )  # fmt: skip
    shares = [float(cell) for cell in cells(printed.splitlines()[-1])[6:12]]
    assert sum(shares) == pytest.approx(100, abs=0.5) and shares[1] == shares[2] == 0


@pytest.mark.slow
def test_training_table(run):
    printed = run("--training", "--classes", "3", "--images", "2", "--repeats", "2", "--threads", "1")
    assert "images at once: 2, on cpu" in printed
    rows = [cells(line) for line in printed.splitlines() if line.startswith("|")][2:]
    assert [row[:2] for row in rows] == [["3", "no"], ["3", "yes"]]
    assert all(float(row[3]) > 100 for row in rows)


@pytest.mark.slow
def test_a_step_beyond_the_memory_limit_has_no_row(run):
    printed = run("--training", "--classes", "9", "--images", "128", "--threads", "1", "--memory-limit", "1.2")
    rows = [cells(line) for line in printed.splitlines() if line.startswith("|")][2:]
    assert rows == [["9", "no", "-", "more than 1229"], ["9", "yes", "-", "more than 1229"]]


def test_a_step_that_is_killed_leaves_the_others_their_rows(load_script, capsys):
    benchmark = load_script("tools/benchmark.py")

    def killed_without_checkpointing(function, arguments, classes, recompute):
        if recompute:
            return {"step": 2.0, "memory": 300.0}
        raise benchmark.BrokenProcessPool

    benchmark.in_own_process = killed_without_checkpointing
    benchmark.print_training(SimpleNamespace(classes=[3], memory_limit=20.0))
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert rows == [["3", "no", "-", "killed, probably for want of memory"], ["3", "yes", "2.00", "300"]]


@pytest.mark.slow
def test_batches_table(run):
    printed = run("--batch", "1", "3", "--classes", "4", "--repeats", "1", "--threads", "1", "MODEL.PRECISION", "bf16")
    assert "images at once: 1 3, on cpu" in printed and "bf16" in printed.splitlines()[0]
    header, _, *rows = [cells(line) for line in printed.splitlines() if line.startswith("|")]
    assert header == ["classes", "images in a pass", "ms an image", "images/s", "peak MiB"]
    assert [row[:2] for row in rows] == [["4", "1"], ["4", "3"]]
    for row in rows:
        assert float(row[2]) * float(row[3]) == pytest.approx(1000, rel=0.02) and float(row[4]) > 100


def test_batches_that_do_not_fit_leave_the_others_their_rows(load_script, capsys):
    benchmark = load_script("tools/benchmark.py")

    def fits(function, arguments, classes, images):
        if images == 64:
            raise benchmark.BrokenProcessPool
        return {"pass": 0.5, "memory": 300.0} if images == 8 else None

    benchmark.in_own_process = fits
    benchmark.print_batches(SimpleNamespace(classes=[3], batch=[8, 32, 64]))
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert rows == [
        ["3", "8", "62.5", "16", "300"],
        ["3", "32", "-", "-", "more than there is"],
        ["3", "64", "-", "-", "killed, probably for want of memory"],
    ]


def test_batches_are_measured_by_themselves(load_script, capsys):
    benchmark = load_script("tools/benchmark.py")
    for other in (["--training"], ["--profile"], ["--images", "2"]):
        with pytest.raises(SystemExit):
            benchmark.parse(["--batch", "1", *other])
        assert "--batch is measured by itself" in capsys.readouterr().err


def test_a_missing_configuration_is_named(load_script, capsys):
    assert load_script("tools/benchmark.py").main(["--config-file", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err
