"""tools/eval_zero_shot.py as a user starts it, from the archives as published to the table, on all eight benchmarks."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.io
from PIL import Image

from escnet.data.class_tables import load_class_table
from escnet.data.images import ImageError
from escnet.data.label_spaces import CLASS_NAMES
from escnet.pretrained.shipped import shipped_weights
from tests.warm_process import WarmProcess, WarmProcesses, torchrun_variables

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "eval_zero_shot.py"
MINI = ROOT / "configs" / "camvid" / "escnet.yaml"
BENCHMARKS = ("stuff171", "a150", "a847", "pc59", "pc459", "pas20", "pas20b", "panoptic133")
IMAGES = ("2007_000033", "2007_000042")
TABLES = ("table.md", "table.csv", "table.json")
# One block of the mini model on 4x4 cells.
SMALL = ("MODEL.CLIP.IMAGE_SIZE", "(32,32)", "MODEL.ESC.NUM_BLOCKS", "1", "DATALOADER.NUM_WORKERS", "0")


def published(root: Path) -> None:
    """Two pictures of 40x56 with blocks of random classes, in the layout of each archive."""
    generator = np.random.default_rng(0)

    def ids(choices: list[int]) -> np.ndarray:
        return np.kron(generator.choice(choices, (4, 7)), np.ones((10, 8), int))

    def save(pixels: np.ndarray, path: str) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / path)

    def raw_ids(file: str) -> list[int]:
        return [row.raw_id for row in load_class_table(file)]

    context, voc = "VOCdevkit/VOC2010", "VOCdevkit/VOC2012"
    panoptic = {"images": [], "annotations": [], "categories": []}
    for folder in (context, voc):
        kind = "Main" if folder == context else "Segmentation"
        (root / folder / "ImageSets" / kind).mkdir(parents=True)
        (root / folder / "ImageSets" / kind / "val.txt").write_text("\n".join(IMAGES) + "\n")
    (root / context / "trainval").mkdir()
    for name in IMAGES:
        for folder in ("coco-stuff/images/val2017", "coco/val2017", "ADEChallengeData2016/images/validation",
                       "ADE20K_2021_17_01/images/ADE/validation/urban/ADE_val", f"{context}/JPEGImages",
                       f"{voc}/JPEGImages"):  # fmt: skip
            picture = f"{folder}_{name}.jpg" if folder.endswith("ADE_val") else f"{folder}/{name}.jpg"
            save(generator.integers(0, 256, (40, 56, 3)), picture)
        save(ids([*raw_ids("coco_stuff_171.tsv"), 255]), f"coco-stuff/annotations/val2017/{name}.png")
        save(ids([0, *raw_ids("ade20k_150.tsv")]), f"ADEChallengeData2016/annotations/validation/{name}.png")
        full = ids([0, *raw_ids("ade20k_847.tsv")])
        colors = np.stack([full // 256 * 10, full % 256, full * 0], axis=-1)
        save(colors, f"ADE20K_2021_17_01/images/ADE/validation/urban/ADE_val_{name}_seg.png")
        # Half of the pixels have classes of the 59, so that these are not all ignored.
        labels = ids([*range(1, 460), *raw_ids("pascal_context_59.tsv") * 8])
        scipy.io.savemat(root / context / f"trainval/{name}.mat", {"LabelMap": labels.astype(np.uint16)})
        save(ids([*range(21), 255]), f"{voc}/SegmentationClass/{name}.png")
        segments = ids(list(range(30)))
        save(np.stack([segments, segments * 0, segments * 0], axis=-1), f"coco/panoptic_val2017/{name}.png")
        categories = generator.choice(raw_ids("coco_panoptic_133.tsv"), 30).tolist()
        listed = [{"id": number, "category_id": categories[number]} for number in range(1, 30)]
        panoptic["images"].append({"id": name, "file_name": f"{name}.jpg"})
        panoptic["annotations"].append({"image_id": name, "file_name": f"{name}.png", "segments_info": listed})
    panoptic["categories"] = [{"id": number} for number in raw_ids("coco_panoptic_133.tsv")]
    (root / "coco/annotations").mkdir()
    (root / "coco/annotations/panoptic_val2017.json").write_text(json.dumps(panoptic))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, load_script: Callable[[str], ModuleType]) -> Path:
    """A data root that the prepare scripts have filled."""
    root = tmp_path_factory.mktemp("data")
    published(root)
    for name, folder, split in (
        ("coco_stuff", "coco-stuff", "val2017"),
        ("coco_panoptic", "coco", "val2017"),
        ("ade20k_150", "ADEChallengeData2016", "validation"),
        ("ade20k_847", "ADE20K_2021_17_01", "validation"),
        ("voc", "VOCdevkit/VOC2012", "val"),
        ("pascal_context", "VOCdevkit/VOC2010", "val"),
    ):
        arguments = ["--root", str(root / folder), "--splits", split, "--workers", "1"]
        assert load_script(f"datasets/prepare_{name}.py").main(arguments) == 0
    return root


def start(
    data: Path, output: Path, *options: str, warm: WarmProcesses | None = None, **variables: str
) -> subprocess.Popen | WarmProcess:
    """As a user starts it, or as a copy of a process that has imported everything."""
    arguments = ("--config-file", str(MINI), *options, "--output", str(output), *SMALL)
    environment = {**os.environ, "DETECTRON2_DATASETS": str(data), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.update(variables)
    log = Path(f"{output}.log")
    if warm is not None:
        return warm.start(log, TOOL, *arguments, environment=environment)
    with log.open("a") as file:
        command = [sys.executable, str(TOOL), *arguments]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def finish(process: subprocess.Popen | WarmProcess, output: Path) -> dict[str, bytes]:
    """The tables of an evaluation that has to end well."""
    assert process.wait(timeout=300) == 0, Path(f"{output}.log").read_text()[-3000:]
    return {name: (output / name).read_bytes() for name in TABLES}


@pytest.mark.slow
def test_all_benchmarks_with_baselines_killed_in_the_middle_and_continued(
    data: Path, tmp_path: Path, warm: WarmProcesses
) -> None:
    options = ("--benchmarks", *BENCHMARKS, "--baselines")
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed, victim = start(data, calm, *options, warm=warm), start(data, killed, *options)
    deadline = time.monotonic() + 300
    # Somewhere in the second model.
    while len(list(killed.glob("DenseClip/*/images.0.jsonl"))) < 3:
        assert victim.poll() is None and time.monotonic() < deadline, Path(f"{killed}.log").read_text()[-3000:]
        time.sleep(0.02)
    victim.kill()
    assert victim.wait() == -9 and not (killed / "table.md").exists()
    # As if the kill had come in the middle of writing a line.
    (cut,) = killed.glob("DenseClip/ade20k_150_val/images.0.jsonl")
    cut.write_bytes(cut.read_bytes()[:-7])
    expected = finish(undisturbed, calm)
    assert finish(start(data, killed, *options, warm=warm), killed) == expected

    table = json.loads(expected["table.json"])
    measured = {row["model"]: row["scores"] for row in table["rows"] if row["source"] == "measured"}
    assert list(measured) == ["ESCNet", "DenseClip", "ClipThenSam"]
    assert len(table["columns"]) == 8 and all(len(scores) == 8 for scores in measured.values())
    assert {row["model"] for row in table["rows"]} >= {"CAT-Seg ViT-B/16", "ESC-Net ViT-L/14"}
    report = (killed / "report.html").read_text()
    assert report.count("data:image") > 24 and 'src="http' not in report


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(data: Path, tmp_path: Path, warm: WarmProcesses) -> None:
    options = ("--benchmarks", "a150", "pas20b")
    one = finish(start(data, tmp_path / "one", *options, warm=warm), tmp_path / "one")
    two = finish(start(data, tmp_path / "two", *options, "--num-gpus", "2", warm=warm), tmp_path / "two")
    assert two == one
    assert len(list((tmp_path / "two/ESCNet/voc_20b_val").glob("images.*.jsonl"))) == 2


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/eval_zero_shot.py")


def task(tool: ModuleType, *arguments: str):
    options = tool.parse_arguments(["--config-file", str(MINI), *arguments])
    return tool.read_task(options, tool.read_config(options))


def test_names_limits_and_slices(tool: ModuleType) -> None:
    assert task(tool, "--benchmarks", "a150", "folder:/x", "--limit", "3").datasets == (
        "ade20k_150_val[:3]",
        "folder:/x[:3]",
    )
    assert task(tool, "--benchmarks", "a847[2:4]", "--name", "mine").name == "mine"
    for arguments, message in (
        (("--benchmarks", "a150[:2]", "--limit", "3"), "contradict"),
        (("--benchmarks", "a150", "--limit", "0"), "at least one image"),
        (("--benchmarks", "a150", "ade20k_150_val"), "names ade20k_150_val twice"),
    ):
        with pytest.raises(ValueError, match=message):
            task(tool, *arguments)


def test_class_names_are_chosen_on_the_command_line(tool: ModuleType) -> None:
    options = tool.parse_arguments(["--config-file", str(MINI), "--benchmarks", "a150", "--class-names", "clean"])
    assert tool.read_config(options).TEST.CLASS_NAMES == "clean"


def test_weights_that_ship_are_found(tool: ModuleType) -> None:
    options = tool.parse_arguments(["--config-file", str(MINI), "--benchmarks", "a150", "--weights", "shipped:esc_net"])
    weights = tool.read_config(options).MODEL.WEIGHTS
    assert Path(weights) == shipped_weights("esc_net")


@pytest.mark.slow
def test_what_is_missing_ends_with_code_2_before_anything_is_evaluated(
    data: Path, tmp_path: Path, warm: WarmProcesses
) -> None:
    process = start(data, tmp_path / "out", "--benchmarks", "a150", "camvid_val", warm=warm)
    assert process.wait(timeout=120) == 2 and not (tmp_path / "out").exists()
    assert "prepare_camvid.py" in (tmp_path / "out.log").read_text()


def test_shipped_weights_that_are_not_there_are_told_at_once(tool, monkeypatch, capsys):
    arguments = ["--config-file", str(MINI), "--benchmarks", "a150", "--weights", "shipped:absent"]
    monkeypatch.setattr("sys.argv", ["eval_zero_shot.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        tool.main()
    assert stop.value.code == 2 and 'no weights "absent" ship with escnet' in capsys.readouterr().err
    arguments[-1] = "1e5"  # a file's name, not a number
    assert tool.read_config(tool.parse_arguments(arguments)).MODEL.WEIGHTS == "1e5"


def test_choices_of_class_names_are_those_of_the_data(tool: ModuleType) -> None:
    assert tool.CLASS_NAMES == CLASS_NAMES


@pytest.fixture
def failing(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Runs the tool's evaluation, which ends with the given error."""

    def run(error: Exception) -> None:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr("escnet.evaluation.zero_shot.evaluate_zero_shot", fail)
        monkeypatch.setattr("detectron2.utils.logger.setup_logger", lambda *_, **__: logging.getLogger("quiet"))
        tool.run(None, None)

    return run


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "out/images.0.jsonl"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. "),
        ValueError("a.png: unknown ids"),
    ],
)
def test_what_ends_an_evaluation_is_one_message(
    failing: Callable[[Exception], None], capsys: pytest.CaptureFixture, error: Exception
) -> None:
    with pytest.raises(SystemExit) as stop:
        failing(error)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("eval_zero_shot.py: ")


def test_a_fault_of_the_program_keeps_its_traceback(failing: Callable[[Exception], None]) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        failing(RuntimeError("shapes differ"))


# Batches, on a folder of five pictures of different sizes


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """A dataset of the user's own."""
    root, generator = tmp_path / "street", np.random.default_rng(3)
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number, size in enumerate([(40, 56), (56, 40), (24, 80), (64, 64), (40, 56)]):
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / f"images/{number}.png")
        Image.fromarray(generator.integers(0, 4, size, dtype=np.uint8)).save(root / f"labels/{number}.png")
    (root / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    return root


def evaluate(tool: ModuleType, street: Path, output: Path, *arguments: str) -> dict[str, bytes]:
    """The tables of an evaluation in this process."""
    from escnet.evaluation.zero_shot import evaluate_zero_shot

    own = ("--benchmarks", f"folder:{street}", "--output", str(output), *arguments)
    options = tool.parse_arguments(["--config-file", str(MINI), *own, "MODEL.DEVICE", "cpu", *SMALL])
    cfg = tool.read_config(options)
    evaluate_zero_shot(cfg, tool.read_task(options, cfg))
    return {name: (output / name).read_bytes() for name in TABLES}


def lines(output: Path) -> list[dict]:
    """The results of the images in the order in which they were written, without their times."""
    (file,) = output.glob("ESCNet/*/images.0.jsonl")
    return [json.loads(line) | {"seconds": 0} for line in file.read_text().splitlines()]


def test_batches_give_the_table_of_single_images(tool: ModuleType, street: Path, tmp_path: Path) -> None:
    alone = evaluate(tool, street, tmp_path / "alone", "--baselines")
    assert evaluate(tool, street, tmp_path / "together", "--baselines", "--batch-size", "3") == alone
    assert lines(tmp_path / "together") == lines(tmp_path / "alone") and len(lines(tmp_path / "alone")) == 5


def test_a_batch_with_a_broken_file_goes_on_in_batches_of_another_size(
    tool: ModuleType, street: Path, tmp_path: Path
) -> None:
    expected, picture = evaluate(tool, street, tmp_path / "calm"), street / "images/1.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:60] + bytes(len(whole) - 60))
    output = tmp_path / "disturbed"
    with pytest.raises(ImageError, match=r"images/1\.png"):
        evaluate(tool, street, output, "--batch-size", "3")
    assert [line["image"] for line in lines(output)] == ["0", "2"]
    picture.write_bytes(whole)
    assert evaluate(tool, street, output, "--batch-size", "2") == expected
    assert [line["image"] for line in lines(output)] == ["0", "2", "1", "3", "4"]


def test_an_impossible_batch_is_a_usage_error(tool: ModuleType, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        tool.parse_arguments(["--config-file", str(MINI), "--benchmarks", "a150", "--batch-size", "0"])
    assert "--batch-size" in capsys.readouterr().err


# The oracle protocol


def oracle(tool: ModuleType, street: Path, output: Path, *arguments: str) -> Path:
    """The folder of the results on the street, of an evaluation in this process."""
    evaluate(tool, street, output, "--protocol", "oracle", *arguments)
    (folder,) = {path.parent for path in output.glob("ESCNet/*@oracle*/metrics.json")}
    return folder


def test_oracle_numbers_are_the_same_however_they_are_made(tool: ModuleType, street: Path, tmp_path: Path) -> None:
    ordinary = evaluate(tool, street, tmp_path / "out")
    folder = oracle(tool, street, tmp_path / "out", "--baselines")
    expected = (tmp_path / "out/table.md").read_text()
    assert "street, oracle" in expected and "published" not in expected and "Not comparable" in expected
    again = oracle(tool, street, tmp_path / "again", "--baselines", "--batch-size", "3")
    assert (tmp_path / "again/table.md").read_text() == expected
    lines = [(path / "images.0.jsonl").read_text().splitlines(keepends=True) for path in (folder, again)]
    entries = [[json.loads(line)["entries"] for line in written] for written in lines]
    assert entries[0] == entries[1] and len(entries[0]) == 5
    # As a kill leaves it.
    (again / "metrics.json").unlink()
    (again / "images.0.jsonl").write_text("".join(lines[1][:2]) + lines[1][2][:30])
    oracle(tool, street, tmp_path / "again", "--baselines")
    assert (tmp_path / "again/table.md").read_text() == expected
    # The ordinary run beside it is gone on with, and nothing of it has changed.
    assert evaluate(tool, street, tmp_path / "out") == ordinary


@pytest.mark.slow
def test_oracle_in_two_processes_gives_the_table_of_one(data: Path, tmp_path: Path, warm: WarmProcesses) -> None:
    options = ("--benchmarks", "pas20b", "--protocol", "oracle")
    one, two = tmp_path / "one", tmp_path / "two"
    # As torchrun starts them: with --num-gpus, each would import everything anew.
    variables = torchrun_variables(2)
    together = [start(data, two, *options, warm=warm, **own) for own in variables]
    expected = finish(start(data, one, *options, warm=warm), one)
    assert [finish(process, two) for process in together] == [expected] * 2
    assert len(list((two / "ESCNet/voc_20b_val@oracle").glob("images.*.jsonl"))) == 2


@pytest.mark.parametrize("prompts", ["none", "points", "box"])
def test_oracle_on_the_tiny_world_as_it_is_typed(
    tool: ModuleType, tiny_config: str, tmp_path: Path, prompts: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    output, merged = tmp_path / "out", ("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.IMAGE_SIZE", "(64,64)")
    shown = ("--protocol", "oracle", "--prompts", prompts)
    arguments = ["--config-file", tiny_config, "--benchmarks", "moji_novel", *shown, "--output", str(output), *merged]
    monkeypatch.setattr("sys.argv", ["eval_zero_shot.py", *arguments])
    tool.main()
    words = "oracle" if prompts == "none" else f"oracle, {prompts}"
    printed = capsys.readouterr().out
    assert f"Moji-novel, {words}" in printed and "over 40 of 52 classes (ids 12..51)" in printed
    folder = output / f"SamClip/mojiscenes_val_novel@{words.replace(', ', '-')}"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["scored_classes"] == [12, 52] and metrics["pairs"] >= metrics["images"] == 2
    # What is not scored, the ground, is not asked for.
    assert not any(entry["truth_pixels"] or entry["predicted_pixels"] for entry in metrics["classes"][:12])
    assert json.loads((folder / "run.json").read_text())["conditions"]["protocol"]["prompts"] == prompts
    assert f"Moji-novel, {words}" in (output / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompts", "box"), "the ordinary protocol shows a model nothing of the truth; choose the protocol oracle"),
        (("--protocol", "oracle", "--prompts", "points"), "ESCNet cannot draw masks from prompts (points)"),
    ],
)
def test_prompts_that_cannot_be_given(
    tool: ModuleType, tiny_config: str, tmp_path: Path, options, message: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    arguments = [
        "--config-file",
        tiny_config,
        "--benchmarks",
        "moji_novel",
        *options,
        "--output",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr("sys.argv", ["eval_zero_shot.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        tool.main()
    assert stop.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()
