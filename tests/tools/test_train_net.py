"""tools/train_net.py as a user starts it: killed and resumed, in two processes, and with what it cannot use."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from escnet.data.images import ImageError
from escnet.training import trainer
from tests.warm_process import WarmProcess, WarmProcesses

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "train_net.py"
MINI = ROOT / "configs" / "camvid" / "escnet.yaml"
# The mini model on 8x8 cells, learning from 2 pictures an iteration.
SMALL = [
    *("MODEL.CLIP.IMAGE_SIZE", "(64,64)", "INPUT.CROP.SIZE", "(64,64)", "INPUT.MIN_SIZE_TRAIN", "(64,)"),
    *("DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"),
]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 generated training pictures of 72x80 in CamVid's layout, without ignored pixels, and one thread."""
    generator = np.random.default_rng(0)
    for kind, shape, top in (("images", (72, 80, 3), 256), ("annotations", (72, 80), 11)):
        folder = tmp_path / "data/camvid" / kind / "train"
        folder.mkdir(parents=True)
        for index in range(4):
            Image.fromarray(generator.integers(0, top, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    for name, value in (("DETECTRON2_DATASETS", tmp_path / "data"), ("OMP_NUM_THREADS", 1), ("PYTHONPATH", ROOT)):
        monkeypatch.setenv(name, str(value))


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/train_net.py")


def start(
    folder: Path,
    *options: str,
    launcher: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    warm: WarmProcesses | None = None,
) -> subprocess.Popen | WarmProcess:
    """As a user starts it, or as a copy of a process that has imported everything."""
    arguments = ("--config-file", str(MINI), *flags, *SMALL, *options, "OUTPUT_DIR", str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if warm is not None:
        return warm.start(Path(f"{folder}.log"), TOOL, *arguments)
    with open(f"{folder}.log", "a") as log:
        command = [sys.executable, *launcher, str(TOOL), *arguments]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen | WarmProcess, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a run that has to end well."""
    assert process.wait(timeout=300) == 0, Path(f"{folder}.log").read_text()[-3000:]
    return weights(folder / "model_final.pth")


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["model"]


@pytest.mark.slow
def test_trains_and_evaluates_on_a_folder_of_the_user(environment: None, tmp_path: Path, warm: WarmProcesses) -> None:
    mine = tmp_path / "my data"
    shutil.copytree(tmp_path / "data/camvid/images/train", mine / "images")
    shutil.copytree(tmp_path / "data/camvid/annotations/train", mine / "labels")
    (mine / "classes.txt").write_text("\n".join(f"thing {number}" for number in range(11)))
    datasets = ("DATASETS.TRAIN", f"('folder:{mine}',)", "DATASETS.TEST", f"('folder:{mine}[:2]',)")
    run = tmp_path / "run"
    finish(start(run, *datasets, "SOLVER.MAX_ITER", "2", warm=warm), run)
    (scores,) = run.glob("inference/folder*my_data[[]:2]/semantic_metrics.json")
    assert json.loads(scores.read_text())["images"] == 2


@pytest.mark.slow
def test_killed_and_resumed_run_has_the_weights_of_an_undisturbed_one(
    environment: None, tmp_path: Path, warm: WarmProcesses
) -> None:
    options = ("SOLVER.MAX_ITER", "10", "SOLVER.CHECKPOINT_PERIOD", "2")
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed = start(calm, *options, warm=warm)
    victim = start(killed, *options)
    deadline = time.monotonic() + 300
    while not (killed / "model_0000003.pth").exists():
        assert victim.poll() is None and time.monotonic() < deadline, Path(f"{killed}.log").read_text()[-3000:]
        time.sleep(0.02)
    victim.kill()
    assert victim.wait() == -9
    assert not (killed / "model_final.pth").exists()

    resumed = start(killed, *options, flags=("--resume",), warm=warm)
    expected, found = finish(undisturbed, calm), finish(resumed, killed)
    starts = re.findall(r"Starting training from iteration (\d+)", Path(f"{killed}.log").read_text())
    assert len(starts) == 2 and int(starts[0]) == 0 < int(starts[1])
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(environment: None, tmp_path: Path, warm: WarmProcesses) -> None:
    options = ("SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.BASE_LR", "1e-4")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    one, two = tmp_path / "one", tmp_path / "two"
    processes = start(one, *options, warm=warm), start(two, *options, launcher=torchrun)
    expected, found = finish(processes[0], one), finish(processes[1], two)
    before = weights(one / "model_0000000.pth")
    difference = torch.cat([(found[key] - expected[key]).flatten().float() for key in expected])
    change = torch.cat([(expected[key] - before[key]).flatten().float() for key in expected])
    # Adam divides a gradient by its own size: where it is zero but for rounding, as for the bias of all logits alike,
    # the sign of the rounding moves the weight by the whole rate.
    assert (difference.abs() > 1e-5).float().mean() < 1e-4
    assert difference.norm() < 0.01 * change.norm()


def call(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, config: Path = MINI
) -> None:
    """Run the tool in this process, without its loggers, which would stay."""
    monkeypatch.setattr("detectron2.engine.default_setup", lambda cfg, args: None)
    monkeypatch.setattr("detectron2.utils.logger.setup_logger", lambda *args, **kwargs: logging.getLogger("escnet"))
    arguments = ("--config-file", str(config), *arguments, "OUTPUT_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
    tool.main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("MODEL.NOTHING", "1"), "KEY VALUE options: .*NOTHING"),
        (("SOLVER.MAX_ITER",), "KEY VALUE options: .*odd length"),
        (("SOLVER.MAX_ITER", "many"), "KEY VALUE options: .*MAX_ITER"),
        (("MODEL.CLIP.WEIGHTS", "/nowhere/clip.pt"), "/nowhere/clip.pt"),
        (("MODEL.WEIGHTS", "/nowhere/model.pth"), "/nowhere/model.pth: there is no such checkpoint"),
        (("MODEL.META_ARCHITECTURE", "Nothing"), "'Nothing' is not registered"),
        (("DATASETS.TRAIN", "('camvid_val',)"), "camvid_val: no image found"),
        (("DATASETS.TRAIN", "('camwid',)"), "unknown dataset 'camwid'"),
        (("--eval-only", "DATASETS.TEST", "()"), "DATASETS.TEST is empty"),
        (("--num-machines", "2"), "--dist-url"),
        (("--num-gpus", "3"), "SOLVER.IMS_PER_BATCH, 2, is not a multiple of the number of processes, 3"),
        (("SOLVER.REFERENCE_WORLD_SIZE", "4"), "SOLVER.REFERENCE_WORLD_SIZE, 4"),
        (("MODEL.ESC.NUM_BLOCKS", "0"), "NUM_BLOCKS is 0; it has to be at least 1"),
        (("TEST.SLIDING.OVERLAP", "1.0"), "OVERLAP is 1.0"),
        (("MODEL.DEVICE", "gpu"), "MODEL.DEVICE is gpu, which is no device.* called cuda; PyTorch sees cpu"),
        (("INPUT.TEMPLATES", "photo"), "INPUT.TEMPLATES: template 0"),
    ],
)
def test_what_cannot_be_used_is_one_message_and_exit_code_2(
    tool: ModuleType,
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    flags = arguments if arguments[0].startswith("--") else ()
    with pytest.raises(SystemExit) as stop:
        call(tool, monkeypatch, tmp_path, *flags, *SMALL, *(() if flags else arguments))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("train_net.py: ")
    assert re.search(message, line), line


@pytest.mark.parametrize("text", [None, "MODEL: {NOTHING: 1}", "MODEL: [", "_BASE_: missing.yaml"])
def test_config_file_that_cannot_be_used(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: str | None,
) -> None:
    config = tmp_path / "some.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(SystemExit) as stop:
        call(tool, monkeypatch, tmp_path, config=config)
    assert stop.value.code == 2
    assert "some.yaml" in capsys.readouterr().err


def test_evaluation_alone(tool: ModuleType, environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = [*SMALL, "DATASETS.TEST", "('camvid_train[:2]',)"]
    call(tool, monkeypatch, tmp_path, *options, "SOLVER.MAX_ITER", "1")
    report = tmp_path / "run/inference/camvid_train[:2]/semantic_metrics.json"
    expected = report.read_text()
    report.unlink()
    call(tool, monkeypatch, tmp_path, "--eval-only", *options, "MODEL.WEIGHTS", str(tmp_path / "run/model_final.pth"))
    assert report.read_text() == expected
    assert json.loads(expected)["images"] == 2


def test_trains_on_few_labelled_images(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_config: str
) -> None:
    options = ("LABELLED.IMAGES", "3", "LABELLED.VALIDATION", "0.34", "LABELLED.PERIOD", "2", "DATASETS.TEST", "()")
    call(tool, monkeypatch, tmp_path, *options, config=Path(tiny_config))
    run = tmp_path / "run"
    labelled = json.loads((run / "labelled.json").read_text())
    parts = [[image for ids in labelled[part].values() for image in ids] for part in ("training", "validation")]
    assert list(map(len, parts)) == [2, 1] and not {*parts[0]} & {*parts[1]}
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    scores = {line["iteration"]: line["validation"] for line in lines if "validation" in line}
    assert list(scores) == [1, 2]
    best = torch.load(run / "model_best.pth", weights_only=True)
    assert (best["validation"], best["iteration"]) == max(
        ((score, iteration) for iteration, score in scores.items()), key=lambda pair: (pair[0], -pair[1])
    )
    final = weights(run / "model_final.pth")
    assert [key for key in final if not torch.equal(final[key], best["model"][key])] == []


def test_too_many_labelled_images_are_refused(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_config: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(tool, monkeypatch, tmp_path, "LABELLED.IMAGES", "5", config=Path(tiny_config))
    assert stop.value.code == 2
    assert re.search(r"train_net\.py: LABELLED\.IMAGES is 5, but \w+ has 4 images", capsys.readouterr().err)


def test_cuda_is_taken_where_it_is_unless_the_device_is_set(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def device(available: bool, *options: str) -> str:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        return tool.read_config(Namespace(config_file=str(MINI), opts=list(options))).MODEL.DEVICE

    assert device(True) == "cuda"
    assert device(False) == "cpu"
    assert device(True, "MODEL.DEVICE", "cpu") == "cpu"
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is cuda"):
        device(False, "MODEL.DEVICE", "cuda")


def test_the_command_line_is_read_as_detectron2_reads_it(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    options = tool.parse_arguments(["--config-file", "a.yaml", "--num-gpus", "2", "--resume", "SEED", "3"])
    assert (options.num_gpus, options.resume, options.eval_only, options.opts) == (2, True, False, ["SEED", "3"])
    assert (options.num_machines, options.machine_rank, options.dist_url) == (1, 0, "auto")
    with pytest.raises(SystemExit) as stop:
        tool.parse_arguments([])
    assert stop.value.code == 2 and "--config-file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "run/model_0000001.pth"), r"No space left on device: 'run/model_"),
        (ImageError("a.png: is cut off"), "a.png: is cut off"),
        (
            ImageError(
                "Caught ImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "  File ...\nescnet.data.images.ImageError: a.png: is cut off"
            ),
            "train_net.py: a.png: is cut off$",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. "), "NUM_WORKERS 0"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--eval-only",)])
def test_what_ends_a_run_is_one_message_and_exit_code_2(
    tool: ModuleType,
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: Exception,
    message: str,
    flags: tuple[str, ...],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("escnet.evaluation.loop.evaluate_datasets", fail)
    monkeypatch.setattr(trainer.Trainer, "run_step", fail)
    datasets = ("DATASETS.TEST", "('camvid_train[:2]',)")
    with pytest.raises(SystemExit) as stop:
        call(tool, monkeypatch, tmp_path, *flags, *SMALL, *datasets)
    assert stop.value.code == 2
    output = capsys.readouterr().err
    assert re.search(message, output.strip().splitlines()[-1]) and "Traceback" not in output


def test_a_fault_of_the_program_keeps_its_traceback(
    tool: ModuleType, environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(trainer.Trainer, "run_step", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        call(tool, monkeypatch, tmp_path, *SMALL)


@pytest.mark.parametrize(("flags", "message"), [((), "with --resume goes on"), (("--eval-only",), "stopped$")])
def test_a_stopped_run_says_how_it_goes_on(
    tool: ModuleType,
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    flags: tuple[str, ...],
    message: str,
) -> None:
    def stop_run(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("escnet.training.launch.launch", stop_run)
    with pytest.raises(SystemExit) as stop:
        call(tool, monkeypatch, tmp_path, *flags, *SMALL)
    assert stop.value.code == 130
    assert re.search(message, capsys.readouterr().err.strip())
