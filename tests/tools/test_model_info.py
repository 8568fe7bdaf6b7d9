"""tools/model_info.py: what it prints beside the figures of the literature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from escnet.complexity import PartInfo, count_model, describe
from escnet.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
MINI = str(ROOT / "configs" / "camvid" / "escnet.yaml")
SMALL = ["MODEL.CLIP.IMAGE_SIZE", "(64, 96)", "MODEL.ESC.NUM_BLOCKS", "1"]
CLASSES = 7
VOCABULARY = Vocabulary([f"word {i}" for i in range(CLASSES)])


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/model_info.py")


@pytest.fixture(scope="module")
def counted(tool: ModuleType) -> tuple:
    cfg = tool.counting_config(MINI, SMALL)
    model = tool.build(cfg)
    return cfg, model, count_model(model, VOCABULARY, torch.randn(1, 3, 64, 96))


def test_training_flags_are_those_of_the_config(tool: ModuleType) -> None:
    cfg = tool.counting_config(MINI, ["MODEL.SAM.INIT", "pretrained", "MODEL.SAM.WEIGHTS", "official", *SMALL])
    model = tool.build(cfg)  # reads no file
    trained = {n for n, p in model.blocks[0].sam_block.named_parameters() if p.requires_grad}
    assert trained
    assert all("attn" in name for name in trained)


def test_command_line(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    tool.main(["--config-file", MINI, "--num-classes", "4", *SMALL])
    printed = capsys.readouterr().out
    assert "64x96, 4 classes" in printed
    assert "\ntotal " in printed
    assert "literature gives only ViT-L/14" in printed
    assert "plain implementation" not in printed
    with pytest.raises(SystemExit):
        tool.main(["--config-file", MINI, "--num-classes", "0"])


def test_difference_from_the_literature_is_explained_beyond_5_percent(tool: ModuleType) -> None:
    image = PartInfo("CLIP image encoder", 0, 0, 200e9)
    near = tool.compare(PartInfo("total", 449e6, 0, 2150e9), image, {"more": 100e9}, 150)
    assert "plain implementation" not in near
    far = tool.compare(PartInfo("total", 400e6, 0, 600e9), image, {"more": 100e9}, 150)
    assert "+100.0    700.0  -68.2%  more" in far
    # (700 - 200) · 21 / 150
    assert "+70.0    770.0  -65.1%  if it counts 171 classes" in far
    assert "-51.0 M" in far


def test_other_ways_to_count_add(tool: ModuleType, counted: tuple) -> None:
    cfg, model, flops = counted
    infos = describe(model, flops.by_module)
    extra = tool.other_ways_to_count(cfg, model, infos, CLASSES)
    assert len(extra) == 4
    assert all(flops > 0 for flops in extra.values())
    # Two Swin blocks, from C = 64 to 2·d = 64 channels, and the embedding, to d.
    assert list(extra.values())[-1] == (CLASSES - 1) * (8 * 12) * (2 * 64 * 64 + 64 * 32)
