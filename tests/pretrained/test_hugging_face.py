"""Hugging Face's files of CLIP and SAM are read as open_clip's and segment_anything's."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from escnet.pretrained.clip import build_clip
from escnet.pretrained.files import WeightsError
from escnet.pretrained.sam import build_sam, build_sam_decoder


def randomise(model: nn.Module) -> nn.Module:
    """Give every weight a value of its own: norms and biases begin as ones and zeros, which would hide a mix-up."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape))
    return model


def clip_as_hugging_face(model: nn.Module) -> dict[str, Tensor]:
    """The state of a CLIP by the names of CLIPModel."""
    state, theirs = model.state_dict(), {"logit_scale": model.logit_scale.detach()}
    theirs["visual_projection.weight"] = state.pop("visual.proj").T.contiguous()
    theirs["text_projection.weight"] = state.pop("text_projection").T.contiguous()
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    theirs[f"{vision}.class_embedding"] = state.pop("visual.class_embedding")
    theirs[f"{vision}.patch_embedding.weight"] = state.pop("visual.conv1.weight")
    theirs[f"{vision}.position_embedding.weight"] = state.pop("visual.positional_embedding")
    theirs[f"{vision}.position_ids"] = torch.arange(5)[None]
    theirs[f"{text}.token_embedding.weight"] = state.pop("token_embedding.weight")
    theirs[f"{text}.position_embedding.weight"] = state.pop("positional_embedding")
    words = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    words |= {"ln_final": "text_model.final_layer_norm", "visual.transformer.resblocks": "vision_model.encoder.layers"}
    words |= {"transformer.resblocks": "text_model.encoder.layers", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    words |= {"c_fc": "fc1", "c_proj": "fc2", "attn.": "self_attn."}
    for name, value in state.items():
        for ours, other in words.items():
            name = name.replace(ours, other)
        if "in_proj_" in name:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                theirs[name.replace("in_proj_", f"{part}_proj.")] = third.clone()
        else:
            theirs[name] = value
    return theirs


def sam_as_hugging_face(model: nn.Module) -> dict[str, Tensor]:
    """The state of a SAM by the names of SamModel."""
    words = {
        "iou_prediction_head.layers.0": "iou_prediction_head.proj_in",
        "iou_prediction_head.layers.1": "iou_prediction_head.layers.0",
        "iou_prediction_head.layers.2": "iou_prediction_head.proj_out",
        "output_upscaling.0": "upscale_conv1",
        "output_upscaling.1": "upscale_layer_norm",
        "output_upscaling.3": "upscale_conv2",
        "mask_downscaling.0": "mask_embed.conv1",
        "mask_downscaling.1": "mask_embed.layer_norm1",
        "mask_downscaling.3": "mask_embed.conv2",
        "mask_downscaling.4": "mask_embed.layer_norm2",
        "mask_downscaling.6": "mask_embed.conv3",
        "point_embeddings": "point_embed",
        "pe_layer.positional_encoding_gaussian_matrix": "shared_embedding.positional_embedding",
        "image_encoder": "vision_encoder",
        "neck.0": "neck.conv1",
        "neck.1": "neck.layer_norm1",
        "neck.2": "neck.conv2",
        "neck.3": "neck.layer_norm2",
        "patch_embed.proj": "patch_embed.projection",
        ".norm": ".layer_norm",
        "blocks": "layers",
    }
    theirs = {}
    for name, value in model.state_dict().items():
        for ours, other in words.items():
            name = name.replace(ours, other)
        if "output_hypernetworks_mlps" in name:
            layer = name.split(".")[4]
            name = name.replace(f"layers.{layer}", {"0": "proj_in", "1": "layers.0", "2": "proj_out"}[layer])
        theirs[name] = value
    # Held twice; safetensors writes each tensor once.
    shared = theirs["prompt_encoder.shared_embedding.positional_embedding"]
    return theirs | {"shared_image_embedding.positional_embedding": shared.clone()}


def save(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_clip(tmp_path: Path, name: str) -> None:
    source = randomise(build_clip("escnet-mini")[0])
    state = clip_as_hugging_face(source)
    assert "vision_model.encoder.layers.0.self_attn.q_proj.weight" in state
    save(state, tmp_path / name)
    loaded = build_clip("escnet-mini", tmp_path / name)[0].state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items())


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_sam(tmp_path: Path, name: str) -> None:
    source = randomise(build_sam("mini"))
    state = sam_as_hugging_face(source)
    assert "mask_decoder.output_hypernetworks_mlps.3.proj_out.bias" in state
    assert "mask_decoder.transformer.layer_norm_final_attn.weight" in state
    save(state, tmp_path / name)
    expected = source.state_dict()
    loaded = build_sam("mini", tmp_path / name).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    _, transformer = build_sam_decoder("mini", tmp_path / name)
    for key, value in transformer.state_dict().items():
        assert torch.equal(value, expected[f"mask_decoder.transformer.{key}"])


def test_incomplete_attention_is_reported(tmp_path: Path) -> None:
    state = clip_as_hugging_face(build_clip("escnet-mini")[0])
    del state["text_model.encoder.layers.0.self_attn.k_proj.weight"]
    save(state, tmp_path / "model.bin")
    with pytest.raises(WeightsError, match=r"missing keys: transformer\.resblocks\.0\.attn\.in_proj_weight"):
        build_clip("escnet-mini", tmp_path / "model.bin")
