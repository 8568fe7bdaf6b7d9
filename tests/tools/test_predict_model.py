"""`predict --model`: a folder, the hub or a shipped model in place of a configuration and weights; the report tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from escnet import Segmenter
from escnet.commands.predict import main


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    Image.new("RGB", (40, 30), (40, 160, 60)).save(tmp_path / "green.png")
    output = str(tmp_path / "out")
    return [
        "--input",
        str(tmp_path / "green.png"),
        "--vocabulary",
        "grass, snow",
        "--device",
        "cpu",
        "--output",
        output,
    ]


def test_the_report_tells_the_model(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    Segmenter.from_pretrained("shipped:esc_net", device="cpu").save_pretrained(folder)
    assert main(["--model", str(folder), *arguments, "MODEL.ESC.KEEP", "0"]) == 0
    report = json.loads((tmp_path / "out" / "green.json").read_text())
    files = json.loads((folder / "escnet.json").read_text())["files"]
    assert report["model"] == str(folder) and report["model_sha256"] == files["model.safetensors"]
    assert report["config"] is None and report["options"] == ["MODEL.ESC.KEEP", "0"]
    # What another model made is not taken for what this one would make.
    assert main(["--model", "shipped:esc_net", *arguments, "MODEL.ESC.KEEP", "0"]) != 0
    said = capsys.readouterr()
    assert "--overwrite" in said.out + said.err
    assert json.loads((tmp_path / "out" / "green.json").read_text()) == report


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ([], "one of the arguments --model --config-file is required"),
        (["--model", "a", "--config-file", "b"], "not allowed with argument"),
        (["--model", "a", "--weights", "b"], "--model brings its weights"),
    ],
)
def test_exactly_one_of_the_two(
    model: list[str], says: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*model, *arguments])
    assert stopped.value.code == 2 and says in capsys.readouterr().err


def test_a_model_that_is_not_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "hub:nothing", *arguments]) == 2
    assert "is no model of the hub; write hub:owner/name" in capsys.readouterr().err
    assert main(["--model", "shipped:esc_net", *arguments, "MODEL.WEIGHTS", "x.pth"]) == 2
    assert "a published model brings its weights; leave MODEL.WEIGHTS out" in capsys.readouterr().err
