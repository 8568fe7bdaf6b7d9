"""tools/weight_importance.py as a user starts it: what it writes merges two models; what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from escnet.config import load_config
from escnet.evaluation.probing.features import SquareReader
from escnet.pretrained.reading import read_weights
from escnet.pretrained.writing import write_weights

CONFIG = "configs/mojiscenes/escnet.yaml"
OPTS = ("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.HEAD_BLOCKS", "1", "MODEL.DEVICE", "cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"pictures/{number}.png")
    return tmp_path / "pictures"


def test_importances_that_merge(load_script: Callable, folder: Path, tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, OPTS)).eval()
    write_weights(tmp_path / "a.safetensors", model.state_dict())
    changed = {n: v + 0.01 if n.startswith(("backbone", "mask_decoder")) else v for n, v in model.state_dict().items()}
    write_weights(tmp_path / "b.safetensors", changed)
    tool, output = load_script("tools/weight_importance.py"), tmp_path / "importance.safetensors"
    common = ["--config-file", CONFIG, "--input", str(folder), "--image-size", "48", "--output", str(output)]
    assert tool.main([*common, "--weights", str(tmp_path / "a.safetensors"), "--limit", "2", *OPTS]) == 0
    assert "2 pictures; " in capsys.readouterr().out
    found = read_weights(output)

    # The derivative of the norm of the head's last layer, by hand, of two pictures.
    model.requires_grad_(True)
    expected = 0
    for number in range(2):
        pixels = SquareReader(48)(str(folder / f"{number}.png"))[None]
        states = model.representation(pixels, "both")
        (gradient,) = torch.autograd.grad(0.5 * states.square().sum(), [model.clip_head.blocks[0].mlp.lin2.bias])
        # The head's output is the sum of that bias and other terms, at each cell.
        assert torch.allclose(gradient, states[:, 96:].sum(dim=(0, 2, 3)), rtol=1e-3, atol=1e-2)
        expected = expected + gradient.square() / 2
    torch.testing.assert_close(found["clip_head.blocks.0.mlp.lin2.bias"], expected, rtol=1e-3, atol=1e-3)
    assert found["backbone.encoder.pos_embed"].any() and not found["clip_text.positional_embedding"].any()

    merge = load_script("tools/merge_weights.py")
    files = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    merged = tmp_path / "merged.safetensors"
    assert merge.main([*files, "--importance", str(output), str(output), "--output", str(merged)]) == 0
    middle = model.state_dict()["mask_decoder.iou_token.weight"] + 0.005
    torch.testing.assert_close(read_weights(merged)["mask_decoder.iou_token.weight"], middle)


@pytest.mark.parametrize(
    ("options", "keys", "message"),
    [
        (("--features", "neck"), (), "shows no representation 'neck'"),
        (("--features", "text"), (), "features in text space have length 1 with any weights"),
        (("--features", "all"), (), "take backbone, head or both"),
        (("--image-size", "50"), (), "multiples of the patch size, 8"),
        (("--weights", "nowhere.pth"), (), "nowhere.pth: there is no such file"),
        (("--input", "nowhere"), (), "nowhere"),
        ((), ("MODEL.META_ARCHITECTURE", "DenseClip"), "DenseClip cannot show its hidden states"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    load_script: Callable, folder: Path, tmp_path: Path, capsys, options, keys, message: str
) -> None:
    output = tmp_path / "importance.pth"
    common = ["--config-file", CONFIG, "--input", str(folder), "--image-size", "48", "--output", str(output)]
    assert load_script("tools/weight_importance.py").main([*common, *options, *OPTS, *keys]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weight_importance.py: ")]
    assert len(error) == 1 and message in error[0] and not output.exists()
