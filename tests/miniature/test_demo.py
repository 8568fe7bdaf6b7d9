"""The demonstration, in the smallest form: it runs, goes on where it was, and its page stands alone."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from escnet.config import ConfigError
from escnet.drawing.prompt_sheets import Example, draw_examples
from escnet.layers.pseudo_prompts import PseudoPromptGenerator
from escnet.miniature import __main__ as command
from escnet.miniature.demo import DemoTask, run_demo
from escnet.miniature.demo_page import training_losses
from escnet.miniature.world.writing import World
from escnet.pretrained.files import WeightsError
from escnet.safe_files import DiskFullError
from escnet.training.trainer import Trainer

CONFIG = Path(__file__).parents[2] / "configs/mojiscenes/escnet.yaml"


def test_the_demo_from_nothing_to_the_page(
    tiny_config: str, tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, said = tmp_path / "demo", []
    task = DemoTask(tiny_config, output, tiny_world, large_limit=1, examples=2)
    before = os.environ["DETECTRON2_DATASETS"]
    page = run_demo(task, said.append)
    assert os.environ["DETECTRON2_DATASETS"] == before
    html = page.read_text(encoding="utf-8")
    assert page == output / "index.html"
    systems = ("ESC-Net", "DenseClip", "ClipThenSam", "SAM-CLIP, both heads", "CLIP-Guided SAM")
    for name in (*systems, "CC BY-SA 4.0", "3 iterations"):
        assert name in html
    assert len(re.findall(r'src="data:image/png;base64,', html)) == 2
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "default-src 'none'" in html
    table = json.loads((output / "evaluation/table.json").read_text())
    esc = next(row for row in table["rows"] if row["model"] == "ESC-Net")["scores"]["mojiscenes_val_novel"]["miou"]
    assert f">{100 * esc:.1f}<" in html
    # No picture is wider than the window, unless a click asks for its full size.
    assert re.search(r"\nimg \{[^}]*max-width: 100%", html)
    assert all(":checked" in rule for rule in re.findall(r"\n([^\n]*)\{[^}]*max-width: none", html))
    assert [line[:3] for line in said if line[1:2] == "/"] == ["1/4", "2/4", "3/4", "4/4"]

    monkeypatch.setattr("escnet.training.trainer.Trainer.run_step", lambda self: pytest.fail("trained again"))
    assert run_demo(task, said.append) == page


def test_the_command_does_what_it_says_by_default() -> None:
    options = command.parse([])
    assert Path(options.config_file) == CONFIG.relative_to(CONFIG.parents[2])
    assert (options.train, options.large, options.examples) == (World.train, DemoTask.large_limit, DemoTask.examples)


def test_the_command_hands_its_options_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = []

    def run(task: DemoTask, say: Callable[[str], None]) -> Path:
        tasks.append(task)
        return tmp_path / "index.html"

    monkeypatch.setattr("escnet.miniature.demo.run_demo", run)
    arguments = ["--config-file", "mine.yaml", "--output", str(tmp_path), "--train", "4", "--val", "2", "--large", "1"]
    assert command.main([*arguments, "--examples", "3", "SOLVER.MAX_ITER", "5"]) == 0
    assert tasks == [DemoTask("mine.yaml", tmp_path, World(4, 2), 1, 3, ("SOLVER.MAX_ITER", "5"))]
    assert f"open {tmp_path / 'index.html'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/a.jpg"),
            1,
            r"space left on device: 'out/a.jpg'; .*goes",
        ),
        (DiskFullError("a.jpg: not written. Free some space"), 1, "a.jpg: not written. Free some space"),
        (ConfigError("mine.yaml: two\nlines"), 1, "mine.yaml: two lines"),
        (WeightsError("clip.pt: is not there"), 1, "clip.pt: is not there"),
        (FloatingPointError("the loss became nan"), 1, "the loss became nan"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from here"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_ends_the_command_is_told_in_one_line(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(task: DemoTask, say: Callable[[str], None]) -> Path:
        raise error

    monkeypatch.setattr("escnet.miniature.demo.run_demo", run)
    assert command.main([]) == code
    assert re.fullmatch(f"escnet demo: .*{said}.*", capsys.readouterr().err.strip())


def test_a_full_disk_while_training_is_told_in_one_line(
    tiny_config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Trainer) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Trainer, "run_step", full)
    arguments = ["--config-file", tiny_config, "--output", str(tmp_path / "demo"), "--train", "2", "--val", "1"]
    assert command.main(arguments) == 1
    told = capsys.readouterr()
    assert "escnet demo: [Errno 28] No space left on device; what is finished is kept" in told.err
    assert "Exception during training" not in told.err + told.out


def test_the_script_of_the_repository_is_the_same_command(load_script: Callable[[str], ModuleType]) -> None:
    assert load_script("tools/miniature/demo.py").main is command.main


def test_a_demo_without_a_trained_clip_is_refused(tiny_config: str, tiny_world: World, tmp_path: Path) -> None:
    task = DemoTask(tiny_config, tmp_path / "demo", tiny_world, opts=("MODEL.CLIP.WEIGHTS", ""))
    with pytest.raises(ConfigError, match=r"tiny\.yaml: MODEL\.CLIP\.WEIGHTS is empty.*pretrain_clip"):
        run_demo(task, print)
    assert not (tmp_path / "demo").exists()


def test_losses_are_read_from_the_metrics(tmp_path: Path) -> None:
    lines = [{"iteration": 19, "total_loss": 2.5}, {"iteration": 20, "mIoU": 1.0}, {"iteration": 39, "total_loss": 1.5}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    assert training_losses(tmp_path / "metrics.json") == [(19, 2.5), (39, 1.5)]


def test_examples_are_drawn_in_the_order_of_the_model() -> None:
    truth, labels = np.zeros((32, 32), int), np.zeros((32, 32), int)
    truth[:16], labels[:8] = 1, 1
    correlation = torch.zeros(1, 2, 4, 4)
    correlation[0, 1, 0] = 1.0
    prompts = PseudoPromptGenerator(2)(correlation, 10.0)
    image = np.full((32, 32, 3), 128, np.uint8)
    maps, own = [correlation[:, 1:], correlation[:, 1:] + 1], prompts.classes(slice(1, 2))
    example = Example(image, truth, labels, 1, "pear", maps, [own])
    sheet = draw_examples([example, example], 2, tile=150)
    # image, truth, CLIP's map, prompts, map after the block, prediction
    assert sheet.width == 2 * 20 + 6 * 160 - 10
    assert isinstance(sheet, Image.Image)
    pixels = np.asarray(sheet)
    top, left = 20 + 34 + 30, 20
    tiles = [pixels[top : top + 150, left + 160 * i : left + 160 * i + 150] for i in range(6)]
    assert (tiles[0] == 128).all()
    changes = [np.abs(np.diff(tile.astype(int).sum(axis=-1), axis=0)).sum(axis=1).argmax() for tile in tiles]
    # Where the truth, the maps and the prediction change from top to bottom: at half, a quarter and a quarter.
    assert changes[1] == pytest.approx(75, abs=6)
    assert changes[2] == changes[4] == pytest.approx(37, abs=3)
    assert changes[5] == pytest.approx(37, abs=6)
