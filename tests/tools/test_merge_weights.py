"""tools/merge_weights.py as a user starts it: two SAM-CLIPs, a SAM and a SAM-CLIP, a SAM and a CLIP; refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import safetensors
import torch
from detectron2.modeling import build_model
from torch import Tensor

import escnet.meta_arch  # noqa: F401  registers the systems
from escnet.config import load_config
from escnet.pretrained.reading import read_weights
from escnet.pretrained.writing import write_weights
from escnet.training.checkpoint import SafeCheckpointer

OPTS = ("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.HEAD_BLOCKS", "1", "MODEL.DEVICE", "cpu")


@pytest.fixture
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/merge_weights.py")


def floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if value.is_floating_point()}


def test_two_sam_clips_and_a_sam_with_one(tool: ModuleType, tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    model = build_model(load_config("configs/mojiscenes/escnet.yaml", OPTS))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = {name: value + 1 if name in floats(start) else value for name, value in start.items()}
    torch.save({"model": start, "iteration": 7}, tmp_path / "start.pth")
    write_weights(tmp_path / "tuned.safetensors", tuned)
    files = [str(tmp_path / "start.pth"), str(tmp_path / "tuned.safetensors")]

    output = tmp_path / "merged.pth"
    assert tool.main([*files, "--alpha", "0.25", "--output", str(output)]) == 0
    assert "merged.pth: all tensors interpolated, alpha 0.25" in capsys.readouterr().out
    SafeCheckpointer(model).load(str(output))
    for name, value in floats(dict(model.state_dict())).items():
        torch.testing.assert_close(value, start[name] + 0.25)

    # The configuration's SAM ships with the package; it was not tuned.
    output = tmp_path / "half.safetensors"
    assert tool.main(["shipped:sam", files[1], "--output", str(output)]) == 0
    merged = read_weights(output)
    torch.testing.assert_close(merged["backbone.encoder.pos_embed"], start["backbone.encoder.pos_embed"] + 0.5)
    torch.testing.assert_close(merged["clip_head.norm.bias"], start["clip_head.norm.bias"] + 1)
    with safetensors.safe_open(output, "pt") as file:
        assert file.metadata()["alpha"] == "0.5" and file.metadata()["b"] == "tuned.safetensors"

    # Importances of all that differs: the first model's three times as large.
    for which, scale in (("a", 3.0), ("b", 1.0)):
        write_weights(
            tmp_path / f"{which}.safetensors", {name: torch.full_like(v, scale) for name, v in floats(start).items()}
        )
    importance = ["--importance", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    for options, share in ((importance, 0.25), ([*importance, "--normalise"], 0.5)):
        assert tool.main([*files, *options, "--output", str(output)]) == 0
        torch.testing.assert_close(read_weights(output)["clip_head.norm.bias"], start["clip_head.norm.bias"] + share)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shipped:sam", "shipped:clip"), "SAM's encoder has width 96, 4 blocks"),
        (("shipped:clip", "shipped:sam"), "name the SAM first"),
        (("shipped:clip", "shipped:esc_net"), "the two models cannot be averaged; only in the first"),
        (("shipped:sam", "nowhere.pth"), "nowhere.pth: there is no such file"),
        (("shipped:sam", "shipped:sam", "--importance", "a.pth", "b.pth"), "a.pth: there is no such file"),
    ],
)
def test_what_cannot_be_merged_is_told_in_a_line(
    tool: ModuleType, tmp_path: Path, capsys, arguments: tuple[str, ...], message: str
) -> None:
    output = tmp_path / "merged.pth"
    assert tool.main([*arguments, "--clip-head-width", "48", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("merge_weights.py: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_outputs_and_options_that_cannot_be(tool: ModuleType, tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(2)}, path)
    before = path.read_bytes()
    assert tool.main([str(path), str(path), "--output", str(path)]) == 2
    assert "is one of the two models" in capsys.readouterr().err and path.read_bytes() == before
    assert tool.main([str(path), str(path), "--output", str(tmp_path / "b.bin")]) == 2
    assert "written as .safetensors or .pth, not .bin" in capsys.readouterr().err
    for name in ("b.pth", "b.safetensors"):  # in a folder in which nobody can write
        assert tool.main([str(path), str(path), "--output", f"/proc/{name}"]) == 2
        assert capsys.readouterr().err.startswith("merge_weights.py: [Errno ")
    for options, message in ((["--alpha", "2"], "--alpha is 2"), (["--normalise"], "--normalise is of the files")):
        with pytest.raises(SystemExit, match="2"):
            tool.main([str(path), str(path), "--output", str(tmp_path / "b.pth"), *options])
        assert message in capsys.readouterr().err
