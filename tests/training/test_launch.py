"""Starting processes: the arguments, and the exit code of a process that gave up."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from escnet.training.launch import check_processes, count_processes, launch
from tests.warm_process import WarmProcesses


def arguments(**changes: Any) -> Namespace:
    return Namespace(**{"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"} | changes)


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_one_process_is_this_one(monkeypatch: pytest.MonkeyPatch, num_gpus: int) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    calls: list[tuple[int, str]] = []
    launch(lambda *values: calls.append(values), arguments(num_gpus=num_gpus), "cpu", (3, "x"))
    assert calls == [(3, "x")]


@pytest.mark.slow
def test_exit_code_of_a_started_process_becomes_that_of_the_tool(tmp_path: Path, warm: WarmProcesses) -> None:
    program, log = tmp_path / "program.py", tmp_path / "log.txt"
    program.write_text(
        "import sys\nfrom argparse import Namespace\nfrom escnet.training.launch import launch\n"
        f'launch(sys.exit, {arguments(num_gpus=2)}, "cpu", (5,))\n'
    )
    process = warm.start(log, program, spawns_copies=True)
    assert process.wait() == 5 and "Traceback" not in log.read_text()


def test_what_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_processes(arguments(num_gpus=2), "cuda")
    check_processes(arguments(num_gpus=3), "cpu")
    with pytest.raises(ValueError, match="--num-gpus is 3, but this machine has 2"):
        check_processes(arguments(num_gpus=3), "cuda:0")
    check_processes(arguments(num_machines=2, dist_url="tcp://a:1"), "cpu")
    with pytest.raises(ValueError, match="--dist-url"):
        check_processes(arguments(num_machines=2), "cpu")
    with pytest.raises(ValueError, match="not on mps; leave --num-gpus at 1"):
        check_processes(arguments(num_gpus=2), "mps")
    check_processes(arguments(), "mps")


def test_processes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert count_processes(arguments(num_gpus=0)) == (1, 1)
    assert count_processes(arguments(num_gpus=4, num_machines=2)) == (8, 4)
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert count_processes(arguments()) == (6, 3)
