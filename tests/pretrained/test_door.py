"""One door to weights: shipped names anywhere, files of another system told as such, SAM read once, none at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

import escnet.meta_arch  # noqa: F401  (registers the systems)
from escnet.config import load_config
from escnet.evaluation.runs.conditions import model_identity
from escnet.pretrained import sam as sam_module
from escnet.pretrained.clip import build_clip
from escnet.pretrained.files import WeightsError, file_sha256
from escnet.pretrained.random_weights import random_weights
from escnet.pretrained.reading import read_weights
from escnet.pretrained.sam import SAM_SIZES, build_sam, build_sam_decoder, sam_size
from escnet.pretrained.shipped import shipped_weights
from escnet.training.checkpoint import SafeCheckpointer

CONFIGS = Path(__file__).parents[2] / "configs"
MINI, MOJI = CONFIGS / "camvid" / "escnet.yaml", CONFIGS / "mojiscenes" / "escnet.yaml"
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", "(64, 96)", "MODEL.ESC.NUM_BLOCKS", "3"]


def test_shipped_weights_are_read_by_their_name() -> None:
    for name, build in (("clip", lambda w: build_clip("escnet-moji", w)[0]), ("sam", lambda w: build_sam("moji", w))):
        expected = read_weights(shipped_weights(name))
        loaded = build(f"shipped:{name}").state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[key], value.to(loaded[key].dtype)) for key, value in expected.items())
    for build in (lambda w: build_clip("escnet-moji", w), lambda w: build_sam("moji", w), read_weights):
        with pytest.raises(WeightsError, match='no weights "absent" ship with escnet'):
            build("shipped:absent")


def test_shipped_checkpoints_are_loaded_and_hashed_by_their_name(tmp_path: Path) -> None:
    cfg = load_config(MOJI, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "shipped:esc_net"])
    model = build_model(cfg)
    SafeCheckpointer(model, str(tmp_path)).load("shipped:esc_net", checkpointables=[])
    path = shipped_weights("esc_net")
    assert torch.equal(model.blocks[0].project[0].bias, read_weights(path)["blocks.0.project.0.bias"].float())
    identity = model_identity(cfg, model, "shipped:esc_net")
    assert identity["checkpoint sha256"] == file_sha256(path) and identity["checkpoint"] == path.name


def esc_net() -> dict[str, Tensor]:
    return {"clip_image.visual.proj": torch.zeros(2), "blocks.0.fusion.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("state", "build", "message"),
    [
        (
            lambda: build_sam("mini").state_dict(),
            lambda p: build_clip("escnet-mini", p),
            r"is SAM .*MODEL\.SAM\.WEIGHTS",
        ),
        (lambda: build_clip("escnet-mini")[0].state_dict(), lambda p: build_sam("mini", p), r"is CLIP .*CLIP\.WEIGHTS"),
        (
            lambda: build_clip("escnet-mini")[0].state_dict(),
            lambda p: build_sam_decoder("mini", p),
            r"is CLIP .*, not the weights of PromptEncoder.*MODEL\.CLIP\.WEIGHTS",
        ),
        (esc_net, lambda p: build_clip("escnet-mini", p), r"is a checkpoint of this project.*MODEL\.WEIGHTS"),
        (esc_net, lambda p: build_sam_decoder("mini", p), r"is a checkpoint of this project.*MODEL\.WEIGHTS"),
        (
            lambda: {"vision_model.head.probe": torch.zeros(1)},
            lambda p: build_clip("escnet-mini", p),
            "is a model of Hugging Face's other than their CLIPModel and SamModel",
        ),
        (
            lambda: build_sam("mini").state_dict(),
            lambda p: SafeCheckpointer(nn.Linear(3, 2)).load(str(p)),
            r"is SAM .*MODEL\.SAM\.WEIGHTS",
        ),
    ],
)
def test_a_file_of_another_system_is_told_as_what_it_is(
    tmp_path: Path, state: Callable, build: Callable, message: str
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state(), path)
    with pytest.raises(WeightsError, match=rf"weights\.pth: {message}") as error:
        build(path)
    assert "missing" not in str(error.value)


def test_sam_is_read_once_for_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sam.pth"
    torch.save(build_sam("mini").state_dict(), path)
    read: list[str] = []

    def count(weights: str | Path, remedy: str = "") -> dict[str, Tensor]:
        read.append(str(weights))
        return read_weights(weights, remedy)

    monkeypatch.setattr(sam_module, "read_weights", count)
    model = build_model(load_config(MINI, [*SMALL, "MODEL.SAM.INIT", "pretrained", "MODEL.SAM.WEIGHTS", str(path)]))
    assert read == [str(path)]
    name = "mask_decoder.transformer.layers.0.self_attn.q_proj.weight"
    expected = read_weights(path)[name]
    weights = [
        next(p for n, p in block.named_parameters() if p.shape == expected.shape and torch.equal(p, expected))
        for block in model.blocks
    ]
    assert len({weight.data_ptr() for weight in weights}) == 3  # each block has a copy of its own


@pytest.mark.parametrize("architecture", ["ESCNet", "DenseClip", "ClipThenSam"])
def test_random_weights_read_nothing_and_train_the_same(architecture: str) -> None:
    absent = ["MODEL.WEIGHTS", "/no", "MODEL.CLIP.WEIGHTS", "/no", "MODEL.SAM.WEIGHTS", "/no"]
    options = [*SMALL, "MODEL.META_ARCHITECTURE", architecture, "MODEL.SAM.INIT", "pretrained", *absent]
    cfg = load_config(MINI, options)
    random = random_weights(cfg)
    assert [random.MODEL.WEIGHTS, random.MODEL.CLIP.WEIGHTS, random.MODEL.SAM.WEIGHTS] == ["", "", ""]
    assert cfg.MODEL.WEIGHTS == cfg.MODEL.SAM.WEIGHTS == "/no" and random.MODEL.SAM.INIT == "pretrained"
    trained, built = build_model(cfg), build_model(random)
    flags = [{n: p.requires_grad for n, p in model.named_parameters()} for model in (trained, built)]
    assert flags[0] == flags[1]


def test_small_sizes_are_data() -> None:
    assert "mini" not in SAM_SIZES
    assert sam_size("mini").encoder_depth == 2 and sam_size("moji").global_blocks == (0, 1, 2, 3)
    assert sam_size("vit_h") is SAM_SIZES["vit_h"]
    for build in (sam_size, build_sam, build_sam_decoder):
        with pytest.raises(WeightsError, match=r'no SAM "vit_x"; there are vit_b, vit_l, vit_h, mini, moji'):
            build("vit_x")
