"""Every command that uses a model takes a published one, from the hub too; and never beside a configuration."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from escnet import Segmenter
from escnet.app.models import SHIPPED, LoadedModels, offered_models
from escnet.command_line import CommandParser
from escnet.evaluation.systems.plan import PlanError, read_plan
from escnet.pretrained.deltas import tensors_sha256
from escnet.publishing.found_models import find_model

COMMANDS = ("predict", "app", "export", "label_corpus", "tune")
TOOLS = (
    "eval_zero_shot", "eval_instances", "eval_classification", "probe", "weight_importance", "benchmark", "model_info",
)  # fmt: skip
WITHOUT_WEIGHTS = ("benchmark", "model_info")
STREET, MERGED = "hub:lab/street", "hub:lab/merged"
CPU = ("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0")


@pytest.fixture
def pushed(hub: Any, tuned: Segmenter) -> Any:
    """The hub with an ESC-Net as "lab/street"."""
    tuned.push_to_hub("lab/street", token="hf_writer")
    return hub


@pytest.fixture
def merged(hub: Any) -> Any:
    """The hub with a SAM-CLIP as "lab/merged", which also names images and takes boxes."""
    Segmenter.from_pretrained("shipped:sam_clip", device="cpu").push_to_hub("lab/merged", token="hf_writer")
    return hub


@pytest.fixture
def command(load_script: Callable[[str], ModuleType]) -> Callable[[str], ModuleType]:
    """The module of a command or of a script in tools/."""
    return lambda name: (
        import_module(f"escnet.commands.{name}") if name in COMMANDS else load_script(f"tools/{name}.py")
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a folder of pictures for each of two classes."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


class _Parsed(Exception):
    """Ends a command where its options have been read."""


def _options(module: ModuleType, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """Those that the model is read from, of a command of which no other is required."""
    read = CommandParser.parse_known_args

    def stop(parser: CommandParser, args: Any = None, namespace: Any = None) -> Any:
        for action in parser._actions:
            action.required = False
        raise _Parsed(read(parser, args, namespace)[0])

    monkeypatch.setattr(CommandParser, "parse_known_args", stop)
    with pytest.raises(_Parsed) as parsed:
        module.main(list(arguments)) if module.__name__ != "script_eval_zero_shot" else module.parse_arguments(
            arguments
        )
    return parsed.value.args[0]


@pytest.mark.parametrize("name", [*COMMANDS, *TOOLS])
def test_a_model_or_a_configuration(
    name: str, command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = command(name)
    options = _options(module, ["--model", STREET, *CPU], monkeypatch)
    assert options.model == STREET and options.opts == list(CPU)
    weights = () if name in WITHOUT_WEIGHTS else ("--weights", "x.pth")
    options = _options(module, ["--config-file", "a.yaml", *weights], monkeypatch)
    assert options.config_file == "a.yaml" and options.model is None
    for others, says in (
        (("--config-file", "a.yaml"), "not allowed with argument"),
        (weights, "--model brings its weights; leave --weights out"),
    ):
        if others:
            with pytest.raises(SystemExit) as stopped:
                _options(module, ["--model", STREET, *others], monkeypatch)
            assert stopped.value.code == 2 and says in capsys.readouterr().err


def test_model_info_and_benchmark_fetch_no_weights(
    pushed: Any, command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not command("model_info").main(["--model", STREET, "--num-classes", "2"])
    assert f"{STREET}: ESCNet, escnet-moji" in capsys.readouterr().out
    tool = command("benchmark")
    monkeypatch.setattr(tool, "in_own_process", lambda function, *arguments: function(*arguments))
    assert tool.main(["--model", STREET, "--classes", "2", "--repeats", "1", *CPU]) == 0
    assert f"{STREET}, images at once: 1" in capsys.readouterr().out
    assert not [line for line in pushed.log if line.startswith("GET") and "safetensors" in line]


def test_eval_zero_shot(
    pushed: Any,
    command: Any,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_data))
    tool, output = command("eval_zero_shot"), tmp_path / "out"
    arguments = ["--model", STREET, "--output", str(output), "--benchmarks", "mojiscenes_val_novel[:1]", *CPU]
    args = tool.parse_arguments(arguments)
    cfg = tool.read_config(args)
    tool.run(cfg, tool.read_task(args, cfg))
    assert "ESCNet" in capsys.readouterr().out
    run = json.loads(next(output.rglob("run.json")).read_text())
    assert find_model(STREET).sha256 in json.dumps(run)


def test_eval_instances(merged: Any, command: Any, pictures: Path, tmp_path: Path) -> None:
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
    contents = {
        "images": [{"id": 1, "file_name": "0.png", "height": 48, "width": 64}],
        "annotations": [{**box, "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "objects.json").write_text(json.dumps(contents))
    data = ["--images", str(pictures / "a"), "--annotations", str(tmp_path / "objects.json")]
    assert command("eval_instances").main(["--model", MERGED, *data, "--output", str(tmp_path / "out"), *CPU]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["conditions"]["model"]
    assert found["checkpoint sha256"] == find_model(MERGED).sha256


def test_eval_classification_and_probe(merged: Any, command: Any, pictures: Path, tmp_path: Path) -> None:
    options = ["--model", MERGED, "--output", str(tmp_path / "out"), "--templates", "single", "--images", str(pictures)]
    assert command("eval_classification").main([*options, *CPU]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["conditions"]["model"]
    assert found["checkpoint sha256"] == find_model(MERGED).sha256
    options = ["--model", MERGED, "--output", str(tmp_path / "probe"), "--image-size", "64", "--seeds", "0"]
    # The last option takes several values, and keys follow it.
    assert command("probe").main([*options, "--classification", str(pictures), str(pictures), *CPU]) == 0
    assert (tmp_path / "probe" / "SamClip" / "results.json").is_file()


def test_a_parent_that_was_private_is_not_random(
    command: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "shipped:esc_net", "--system", "clip", "--output", str(tmp_path / "out")]
    keys = ["MODEL.CLIP.WEIGHTS", "", *CPU]
    assert command("probe").main([*options, "--classification", str(pictures), str(pictures), *keys]) == 2
    assert "MODEL.CLIP.WEIGHTS is empty" in capsys.readouterr().err


def test_export(pushed: Any, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    def export(segmenter: Segmenter, *arguments: Any) -> Any:
        found.update(segmenter=segmenter, made_of=arguments[-2])
        raise ValueError("enough")

    monkeypatch.setattr("escnet.export.folder.export_folder", export)
    assert command("export").main(["--model", STREET, "--output", str(tmp_path / "out")]) == 2
    assert found["segmenter"].cfg.MODEL.ESC.DIM == 16
    assert found["made_of"] == {"model": STREET, "config": None, "options": [], "weights": None}


def test_label_corpus(pushed: Any, command: Any, pictures: Path, tmp_path: Path) -> None:
    options = ["--model", STREET, "--input", str(pictures), "--words", "grass, snow", "--output", str(tmp_path / "out")]
    assert command("label_corpus").main([*options, "--format", "webdataset", "--device", "cpu"]) == 0
    header = json.loads((tmp_path / "out" / "plan.jsonl").read_text().splitlines()[0])
    assert header["weights"]["MODEL.WEIGHTS"] == find_model(STREET).sha256


def test_label_corpus_needs_one(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("label_corpus").main(["--input", "x", "--words", "a, b", "--output", str(tmp_path)])
    assert "the following arguments are required: --model or --config-file" in capsys.readouterr().err


def test_app(pushed: Any, tuned: Segmenter, tmp_path: Path) -> None:
    tuned.save_pretrained(tmp_path / "street")
    own, *others = offered_models(None, None, (), str(tmp_path / "street"))
    assert own.name == "street" and tuple(others) == SHIPPED
    models = LoadedModels(offered_models(None, None, ("MODEL.ESC.KEEP", "20"), STREET), "cpu")
    assert models.names[0] == STREET
    segmenter = models.segmenter(STREET)
    assert segmenter.source.startswith(f"{STREET}@") and segmenter.cfg.MODEL.ESC.KEEP == 20


def test_train_net(pushed: Any, command: Any) -> None:
    tool = command("train_net")
    config = ["--config-file", "configs/mojiscenes/escnet.yaml", *CPU, "MODEL.WEIGHTS"]
    assert tool.read_config(tool.parse_arguments([*config, STREET])).MODEL.WEIGHTS.endswith("model.safetensors")


def test_the_plan_of_a_comparison(tmp_path: Path) -> None:
    def plan(**system: str) -> Any:
        path = tmp_path / "plan.yaml"
        data = [{"name": "mojiscenes_val_novel"}]
        path.write_text(yaml.safe_dump({"systems": [{"name": "street", **system}], "data": data}))
        return read_plan(path)

    assert plan(model=STREET).systems[0].model == STREET
    for system, says in (
        ({"model": STREET, "config": "x.yaml"}, "needs either a 'config' or a 'model'"),
        ({"model": STREET, "weights": "x.pth"}, "has a 'model', which brings its weights"),
    ):
        with pytest.raises(PlanError, match=says):
            plan(**system)
    with pytest.raises(PlanError, match="street: is hub:lab/street, which brings its weights; give it a 'config'"):
        plan(model=STREET).with_weights({"street": "x.pth"})
    assert plan(config="x.yaml").with_weights({"street": STREET}).systems[0].weights == STREET


def test_tune_begins_with_one_and_ends_as_one(
    pushed: Any, tuned: Segmenter, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def tune(cfg: Any, task: Any, say: Any) -> Namespace:
        judged = Namespace(class_names=["grass, lawn", "snow"], records=[{}])
        return Namespace(cfg=cfg, judged=judged, iterations=1, seconds=1.0, miou=lambda: (1.0, 2.0))

    monkeypatch.setattr("escnet.tuning.tuning.tune", tune)
    monkeypatch.setattr("escnet.tuning.report.write_page", lambda tuning, text: written.append(text))
    output = tmp_path / "tuned"
    options = ["--model", STREET, "--data", "camvid_train", "--output", str(output), *CPU]
    for _ in range(2):  # a second call writes it anew
        assert command("tune").main([*options, "SOLVER.BASE_LR", "0.001"]) == 0
        assert f"predict --model {output}/model --input PICTURES --vocabulary 'grass| lawn, snow'" in written.pop()
    segmenter = Segmenter.from_pretrained(output / "model", device="cpu")
    assert segmenter.cfg.SOLVER.BASE_LR == 0.001
    assert tensors_sha256(segmenter.model.state_dict()) == tensors_sha256(tuned.model.state_dict())
