"""The hidden states that models show: of each cell and of whole images, at any size, against the encoders' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor
from torch.nn import functional as F

from escnet.config import load_config
from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.meta_arch.clip import ClassifyingClip
from escnet.meta_arch.representation import RepresentingModel
from escnet.meta_arch.sam import PromptableSam
from escnet.meta_arch.sam_clip import SamClip
from escnet.pretrained.clip import build_clip
from escnet.pretrained.sam import build_sam

CONFIG = Path(__file__).parents[2] / "configs/mojiscenes/escnet.yaml"


def make_images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0)).float()


def make_sam_clip(*opts: str) -> SamClip:
    torch.manual_seed(0)
    own = ("MODEL.META_ARCHITECTURE", "SamClip", "MODEL.SAM_CLIP.IMAGE_SIZE", "(128, 128)", "MODEL.DEVICE", "cpu")
    return build_model(load_config(CONFIG, [*own, *opts])).eval()


def make_clip(name: str = "escnet-moji") -> ClassifyingClip:
    torch.manual_seed(0)
    clip, _ = build_clip(name)
    return ClassifyingClip(ClipImageEncoder(clip.visual), None, 1.0, (48, 48)).eval()


@torch.no_grad()
def test_sams_representation_is_what_its_neck_gets() -> None:
    torch.manual_seed(0)
    model = PromptableSam(build_sam("mini")).eval()
    got: list[Tensor] = []
    model.sam.image_encoder.neck.register_forward_pre_hook(lambda _, inputs: got.append(inputs[0]))
    images = make_images(128, 128)
    model.encode(images)
    torch.testing.assert_close(model.representation(images), got[0])
    small = model.representation(make_images(64, 96))
    assert small.shape == (2, 64, 8, 12) and model.patch_size == 8
    torch.testing.assert_close(model.pooled_representation(make_images(64, 96)), small.flatten(2).mean(dim=2))


@pytest.mark.parametrize("name", ["escnet-mini", "escnet-moji"])  # pooled by class token, and by mean
@torch.no_grad()
def test_clips_pooled_representation_is_what_it_projects(name: str) -> None:
    model = make_clip(name)
    images = make_images(48, 48)
    hidden: list[Tensor] = []
    model.clip_image.visual.transformer.register_forward_hook(lambda *a: hidden.append(a[2]))
    features = model.clip_image.visual(model.normalise(images))
    torch.testing.assert_close(model.pooled_representation(images) @ model.clip_image.visual.proj, features)
    cells = hidden[0][:, 1:].transpose(1, 2).unflatten(2, (6, 6))
    torch.testing.assert_close(model.representation(images), cells)
    assert model.representation(make_images(48, 64)).shape == (2, model.clip_image.width, 6, 8)
    text = model.representation(images, "text")
    torch.testing.assert_close(text, model.encode_all(images).dense)
    torch.testing.assert_close(model.representation(images, "all"), torch.cat([cells, text], dim=1))
    torch.testing.assert_close(model.pooled_representation(images, "text"), model.summary(model.encode(images)))


@torch.no_grad()
def test_sam_clip_shows_its_backbone_its_head_and_both() -> None:
    model, images = make_sam_clip(), make_images(64, 64)
    encoded = model.encode_pixels(images)
    backbone, head, both, text, everything = (model.representation(images, name) for name in model.representations)
    torch.testing.assert_close(backbone, encoded.backbone.tokens)
    torch.testing.assert_close(
        model.clip_head.project(head.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), encoded.of("clip").features
    )
    torch.testing.assert_close(both, torch.cat([backbone, head], dim=1))
    torch.testing.assert_close(text, F.normalize(encoded.of("clip").features, dim=1))
    torch.testing.assert_close(everything, torch.cat([backbone, head, text], dim=1))
    pooled = model.pooled_representation(images, "head")
    torch.testing.assert_close(model.clip_head.project(pooled), encoded.of("clip").summary)
    mean = model.pooled_representation(images)
    torch.testing.assert_close(mean, backbone.mean(dim=(2, 3)))
    torch.testing.assert_close(model.pooled_representation(images, "both"), torch.cat([mean, pooled], dim=1))
    torch.testing.assert_close(model.pooled_representation(images, "text"), model.summary(encoded))


@pytest.mark.parametrize("make", [make_sam_clip, make_clip, lambda: PromptableSam(build_sam("mini"))])
def test_unknown_names_and_sizes_are_refused(make) -> None:
    model = make()
    assert isinstance(model, RepresentingModel) and model.representations[0] == "backbone"
    with pytest.raises(ValueError, match="shows no representation 'neck', only backbone"):
        model.representation(make_images(64, 64), "neck")
    with pytest.raises(ValueError, match="multiples of the patch size, 8"):
        model.pooled_representation(make_images(60, 64))
