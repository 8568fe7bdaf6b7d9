"""ESC-Net on the merged backbone: what its blocks are given, where its weights come from, what of it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor
from torch.nn import functional as F

from escnet.config import load_config
from escnet.layers.image_projection import ImageProjection
from escnet.meta_arch.esc_net import ESCNet
from escnet.meta_arch.sam_clip import SamClip
from escnet.pretrained.files import WeightsError
from escnet.training.optimizer import parameter_groups
from escnet.vocabulary import Vocabulary

CONFIGS = Path(__file__).parents[2] / "configs/mojiscenes"
WORDS = Vocabulary(["pear", "whale", "grass", "sand"])


@pytest.fixture(scope="module")
def merged() -> SamClip:
    """A SAM-CLIP whose decoder is not SAM's any more."""
    torch.manual_seed(1)
    model = build_model(load_config(CONFIGS / "sam_clip.yaml", ["MODEL.DEVICE", "cpu"]))
    with torch.no_grad():
        for parameter in model.mask_decoder.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(merged: SamClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("merged") / "sam_clip.pth"
    torch.save({"model": merged.state_dict()}, path)
    return path


def make(checkpoint: Path | str, *options: str) -> ESCNet:
    torch.manual_seed(0)
    own = ["MODEL.DEVICE", "cpu", "MODEL.SAM_CLIP.WEIGHTS", str(checkpoint), "MODEL.SAM.INIT", "pretrained"]
    return build_model(load_config(CONFIGS / "escnet_sam_clip.yaml", [*own, *options]))


@torch.no_grad()
def test_its_blocks_are_given_sams_embedding_and_its_maps_are_the_clip_heads(checkpoint: Path, merged: SamClip) -> None:
    model = make(checkpoint, "MODEL.CLIP.SMOOTHING", "1").eval()
    given: list[Tensor] = []
    for block in model.blocks:
        block.project.register_forward_hook(lambda _, __, output: given.append(output))
    picture = torch.randint(0, 256, (1, 3, 128, 128)).float()
    result = model.segment(model.encode(picture), WORDS)
    expected = merged.encode(picture)
    assert len(given) == len(model.blocks)
    for image in given:
        torch.testing.assert_close(image, expected.of("sam").features)
    dense = F.normalize(expected.of("clip").features, dim=1)
    correlation = torch.einsum("bdhw,nd->bnhw", dense, merged.text_features(WORDS))
    torch.testing.assert_close(result.correlations[0], correlation)
    assert result.logits.shape == (1, 4, 64, 64)


@torch.no_grad()
def test_its_blocks_can_be_given_the_clip_heads_features(checkpoint: Path, merged: SamClip) -> None:
    picture = torch.randint(0, 256, (1, 3, 128, 128)).float()
    dense = F.normalize(merged.encode(picture).of("clip").features, dim=1)
    alone = make(checkpoint, "MODEL.SAM_CLIP.SAM_INPUT", "clip").eval()
    torch.testing.assert_close(alone.encode(picture).sam_input, dense)
    assert isinstance(alone.blocks[0].project, ImageProjection)


def test_its_sam_blocks_are_the_merged_models_decoder(checkpoint: Path, merged: SamClip) -> None:
    own = make(checkpoint).blocks[1].sam_block.state_dict()
    theirs = merged.mask_decoder.transformer.state_dict()
    shared = [name for name in own if name.removeprefix("transformer.") in theirs]
    assert shared
    for name in shared:
        assert torch.equal(own[name], theirs[name.removeprefix("transformer.")]), name


def test_its_words_are_read_by_the_merged_models_own_text_tower(merged: SamClip, tmp_path: Path) -> None:
    changed = {name: value.clone() for name, value in merged.state_dict().items()}
    changed["clip_text.text_projection"] *= -1
    changed["logit_scale"] += 1
    torch.save({"model": changed}, tmp_path / "changed.pth")
    for weights in ("shipped:clip", "''"):
        model = make(tmp_path / "changed.pth", "MODEL.CLIP.WEIGHTS", weights).eval()
        torch.testing.assert_close(model.clip_text.encode(WORDS), -merged.text_features(WORDS))
        assert model.logit_scale.item() == pytest.approx(merged.logit_scale.item() + 1)


@pytest.mark.parametrize(("which", "parts"), [("none", set()), ("attention", {"attn"}), ("all", None)])
def test_what_of_the_backbone_trains(checkpoint: Path, which: str, parts: set[str] | None) -> None:
    model = make(checkpoint, "MODEL.CLIP.TRAIN", which)
    trained = {name for name, p in model.merged_image.named_parameters() if p.requires_grad}
    if parts is None:
        assert len(trained) == len(list(model.merged_image.parameters()))
    else:
        assert all(".attn." in name for name in trained) and bool(trained) == bool(parts)


def test_the_backbone_learns_at_clips_rate(checkpoint: Path) -> None:
    cfg = load_config(CONFIGS / "escnet.yaml", ["SOLVER.CLIP_MULTIPLIER", "0.01"])
    rates = {group.name.split(",")[0]: group.lr for group in parameter_groups(make(checkpoint), cfg)}
    assert rates["merged image"] == pytest.approx(0.01 * rates["other"])


def test_a_step_has_a_gradient_in_every_trained_part(checkpoint: Path) -> None:
    model = make(checkpoint).train()
    inputs = {
        "image": torch.randint(0, 256, (3, 128, 128)).float(),
        "sem_seg": torch.randint(0, 4, (128, 128)),
        "vocabulary": WORDS,
    }
    sum(model([inputs]).values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_a_trained_one_is_loaded_without_the_merged_file(checkpoint: Path, tmp_path: Path) -> None:
    model = make(checkpoint).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "esc.pth")
    again = make("", "MODEL.WEIGHTS", str(tmp_path / "esc.pth"))
    again.load_state_dict(torch.load(tmp_path / "esc.pth", weights_only=True)["model"])
    picture = torch.randint(0, 256, (3, 128, 128)).float()
    with torch.no_grad():
        first, second = (m.eval().segment(m.encode(picture), WORDS).logits for m in (model, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.ESC.BACKBONE", "dino"), "BACKBONE"),
        (("MODEL.SAM_CLIP.WEIGHTS", "''"), "MODEL.SAM_CLIP.WEIGHTS"),
        (("MODEL.CLIP.TRAIN", "qv"), "attention"),
        (("MODEL.SAM_CLIP.SAM_INPUT", "neither"), "sam_input"),
    ],
)
def test_settings_that_do_not_fit_are_refused(checkpoint: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(checkpoint, *options)


def test_a_file_in_the_wrong_place_is_told_as_what_it_is(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="a checkpoint of SAM-CLIP"):
        build_model(
            load_config(CONFIGS / "escnet.yaml", ["MODEL.DEVICE", "cpu", "MODEL.CLIP.WEIGHTS", str(checkpoint)])
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.SAM.NAME", "mini"), r"MergedBackbone: .*96\) for .*64\).*MODEL\.SAM\.NAME \(mini\)"),
        (
            ("MODEL.CLIP.NAME", "escnet-mini"),
            r"ClipHead: .*128, 384\) for \(64, 384\).* .*MODEL\.CLIP\.NAME \(escnet-mini\)",
        ),
        (
            ("MODEL.SAM_CLIP.HIDDEN_DIM", "128"),
            r"ClipHead: misshapen keys: .*384.*for \(128.*MODEL\.SAM_CLIP\.HIDDEN_DIM \(128\)",
        ),
        (
            ("MODEL.SAM_CLIP.HEAD_BLOCKS", "2"),
            r"ClipHead: unexpected keys: clip_head\.blocks\.2.*MODEL\.SAM_CLIP\.HEAD_BLOCKS \(2\)",
        ),
    ],
)
def test_a_merged_model_of_other_sizes_is_told_with_the_keys_that_set_them(
    checkpoint: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(WeightsError, match=rf"does not fit {message}") as raised:
        make(checkpoint, *options)
    assert "pass it as" not in str(raised.value)


def test_another_file_in_place_of_a_merged_model_is_told_as_what_it_is() -> None:
    with pytest.raises(WeightsError, match=r"SAM in segment_anything's format, .*MODEL\.SAM\.WEIGHTS"):
        make("shipped:sam")


def test_what_has_no_projection_cannot_be_aligned(checkpoint: Path) -> None:
    cfg = load_config(CONFIGS / "escnet_sam_clip.yaml", ["MODEL.SAM.INIT", "pretrained", "MODEL.SAM.ALIGN_IMAGES", "3"])
    with pytest.raises(ValueError, match=r"set it to 0, or MODEL\.SAM_CLIP\.SAM_INPUT to clip"):
        make(checkpoint).prepare_training(cfg, lambda count: [])
