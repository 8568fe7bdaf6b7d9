"""A labelling whose driver or workers are killed, and that is run again: no picture is lost, none is there twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from escnet.labelling.corpus.labeller import Job
from escnet.labelling.corpus.local_engine import WorkersError, label_in_processes
from escnet.labelling.corpus.plan import places
from escnet.labelling.corpus.records import Record
from escnet.labelling.corpus.verification import verify

from .conftest import ROOT, finished, rows

LETHAL = """
import os, signal
import PIL.Image

_open = PIL.Image.open

def open_or_die(file, *arguments, **options):
    if str(getattr(file, "name", file)).endswith("lethal.png"):
        os.kill(os.getpid(), signal.SIGKILL)
    return _open(file, *arguments, **options)

PIL.Image.open = open_or_die
"""
# The first process that opens a picture stays in it.
HANGING = """
import os, time
import PIL.Image

_open = PIL.Image.open

def open_or_hang(file, *arguments, **options):
    if str(getattr(file, "name", file)).endswith("13.png") and not os.path.exists("MARK"):
        open("MARK", "w").close()
        time.sleep(1000)
    return _open(file, *arguments, **options)

PIL.Image.open = open_or_hang
"""


def wait_for(is_so: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


def require_all(output: Path, expected: dict[str, np.ndarray]) -> None:
    """Each picture has its labels, once."""
    found = rows(output)
    assert sorted(row["key"] for row in found) == sorted(expected)
    for row in found:
        labels = np.full((row["height"], row["width"]), -1)
        for entry in row["classes"]:
            mask = coco_masks.decode({"size": [row["height"], row["width"]], "counts": entry["counts"]}).astype(bool)
            assert (labels[mask] == -1).all() and mask.sum() == entry["area"]
            labels[mask] = entry["id"]
        np.testing.assert_array_equal(labels, expected[row["key"]])
    verdict = verify(output)
    assert (verdict.faults, verdict.expected, verdict.labelled) == ([], len(expected), len(expected))


def test_a_driver_is_killed_and_the_same_command_goes_on(
    start: Callable[..., subprocess.Popen],
    label: Callable[..., int],
    pictures: Path,
    expected: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    process = start(pictures, output)
    wait_for(lambda: finished(output) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in output.glob("labels/*/*.parquet")}
    before = finished(output)
    assert 3 <= before < 20 and verify(output).faults
    # What it may have left: a file without its record, and halves under temporary names.
    unfinished = output / "labels/000000/000000019.parquet"
    unfinished.write_bytes(b"half")
    half = output / "labels/000000/.000000019.parquet.0.tmp"
    half.write_bytes(b"half")
    assert label(pictures, output) == 0
    assert not half.exists()
    require_all(output, expected)
    kept = [path for path, changed in done.items() if path.stat().st_mtime_ns == changed]
    assert len(kept) >= before
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["finished"], manifest["labelled"], manifest["failures"]) == (20, 40, 0)
    assert label(pictures, output) == 0 and all(path.stat().st_mtime_ns for path in kept)


def test_workers_are_killed_and_replaced(
    label: Callable[..., int], pictures: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    killed = []

    def kill() -> None:
        wait_for(lambda: finished(output) >= 2)
        process = multiprocessing.active_children()[0]
        os.kill(process.pid, signal.SIGKILL)
        killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    assert label(pictures, output, "--workers", "2") == 0
    killer.join()
    assert len(killed) == 1
    require_all(output, expected)


def test_a_picture_that_ends_its_process_is_found_and_passed_over(
    start: Callable[..., subprocess.Popen], pictures: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    folder, output, before = tmp_path / "in", tmp_path / "out", tmp_path / "before"
    folder.mkdir()
    before.mkdir()
    (before / "sitecustomize.py").write_text(LETHAL)
    for name in ("00.png", "01.png", "02.png"):
        (folder / name).write_bytes((pictures / name).read_bytes())
    (folder / "lethal.png").write_bytes((pictures / "00.png").read_bytes())
    process = start(folder, output, "--workers", "1", "--attempts", "2", before=before)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 1, told
    assert sorted(row["key"] for row in rows(output)) == ["00.png", "01.png", "02.png"]
    (failure,) = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert failure["key"] == "lethal.png" and "the process ended 2 times" in failure["reason"]
    assert (verify(output).faults, verify(output).failed) == ([], 1)


def test_workers_that_cannot_start_end_it(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("escnet.labelling.corpus.local_engine._serve", die)
    # Forked, so that the process has the function that dies.
    monkeypatch.setattr(
        "escnet.labelling.corpus.local_engine.worker_context", lambda _: multiprocessing.get_context("fork")
    )
    with pytest.raises(WorkersError, match=r"3 workers ended while they loaded the model \(exit code -9\)"):
        label_in_processes(job, iter(()), 1, print)


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_loses_a_worker_and_ends_another(
    tmp_path: Path,
    pictures: Path,
    expected: dict[str, np.ndarray],
    job: Job,
    label: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    from ray.cluster_utils import Cluster

    from escnet.labelling.corpus.ray_engine import label_on_ray

    # Else its workers wait for everything else on the machine.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    before, mark = tmp_path / "before", tmp_path / "hangs"
    before.mkdir()
    (before / "sitecustomize.py").write_text(HANGING.replace("MARK", str(mark)))
    object.__setattr__(job, "time_limit", 5.0)
    environment = {"env_vars": {"PYTHONPATH": f"{before}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}}
    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    output = job.output
    # The plan of the command, without its work.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("escnet.commands.label_corpus._run", lambda *_: None)
        label(pictures, output)
    answers: list[Record] = []
    killed: list[int] = []

    def tell(record: Record) -> None:
        answers.append(record)
        if not killed:
            killed.append(_kill_an_actor(cluster))

    try:
        ray.init(address=cluster.address, runtime_env=environment, log_to_driver=False, logging_level="error")
        label_on_ray(job, places(output), 2, tell)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed and mark.exists() and {record.unit for record in answers} == set(range(20)) and len(answers) == 20
    require_all(output, expected)


def _kill_an_actor(cluster: Any) -> int:
    """SIGKILL to one of the processes that label in a cluster of this test; returns its id."""
    for node in cluster.list_all_nodes():
        raylet = node.all_processes["raylet"][0].process.pid
        for child in map(int, Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()):
            if "ray::MapWorker" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(child, signal.SIGKILL)
                return child
    raise AssertionError("no actor is at work")
