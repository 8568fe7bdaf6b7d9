"""Tests of building CLIP and SAM by name, with weights in each of the published formats."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.model import resize_pos_embed
from open_clip.transformer import QuickGELU
from segment_anything import sam_model_registry
from torch import Tensor, nn

from escnet.pretrained import clip as weights_module
from escnet.pretrained.clip import build_clip
from escnet.pretrained.files import WeightsError
from escnet.pretrained.sam import SAM_SIZES, build_sam, build_sam_decoder

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 600, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make tiny models known to open_clip, in the pairs of names that its own models have."""
    folder = tmp_path_factory.mktemp("model_configs")
    larger = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 48}}
    for name, config in {
        "tiny": TINY,
        "tiny-quickgelu": {**TINY, "quick_gelu": True},
        "tiny-48-quickgelu": {**larger, "quick_gelu": True},
        "tiny-custom": {**TINY, "custom_text": True, "quick_gelu": True},
        "tiny-alone": {**TINY, "embed_dim": 24},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def save_openai_archive(model: nn.Module, path: Path) -> None:
    """Save a model as OpenAI does: traced in half precision, its numbers among the buffers."""
    model = model.half()
    numbers = {"input_resolution": 32, "context_length": model.context_length, "vocab_size": model.vocab_size}
    for name, value in numbers.items():
        model.__dict__.pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    inputs = {"encode_image": torch.zeros(1, 3, 32, 32).half(), "encode_text": torch.zeros(1, 77, dtype=torch.long)}
    torch.jit.trace_module(model, inputs, check_trace=False).save(str(path))


def save(model: nn.Module, path: Path, form: str) -> None:
    state = model.state_dict()
    if form == "archive":
        save_openai_archive(model, path)
    elif form == "safetensors":
        safetensors.torch.save_file(state, path)
    elif form == "training":
        torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save(state, path)


def outputs(model: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.randn(2, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[598, 5, 9, 599] + [0] * 73])
    with torch.no_grad():
        return model.encode_image(images), model.encode_text(tokens)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("form", "suffix"), [("archive", ".pt"), ("safetensors", ".safetensors"), ("training", ".pt"), ("plain", ".bin")]
)
def test_loading_from_a_path_keeps_quickgelu(tmp_path: Path, form: str, suffix: str) -> None:
    torch.manual_seed(0)
    source, _ = build_clip("tiny-quickgelu")
    # Values that half precision holds, and large enough for the two activations to differ.
    source = source.half().float()
    for block in source.visual.transformer.resblocks:
        block.mlp.c_fc.weight.data.mul_(4)
    expected = outputs(source)
    path = tmp_path / f"clip{suffix}"
    save(source, path, form)

    loaded, _ = build_clip("tiny-quickgelu", path)
    activations = [type(block.mlp.gelu) for block in loaded.visual.transformer.resblocks + loaded.transformer.resblocks]
    assert activations == [QuickGELU] * 3
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    for value, reference in zip(outputs(loaded), expected, strict=True):
        torch.testing.assert_close(value, reference)
    if form == "plain":  # which shows that the comparison can tell the activations apart
        assert not torch.allclose(outputs(build_clip("tiny", path)[0])[0], expected[0], atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_openai_archives_need_quickgelu(tmp_path: Path) -> None:
    path = tmp_path / "ViT.pt"
    save_openai_archive(build_clip("tiny-quickgelu")[0], path)
    with pytest.raises(WeightsError, match=r'ViT\.pt holds weights .* QuickGELU.* use the name "tiny-quickgelu"'):
        build_clip("tiny", path)
    with pytest.raises(WeightsError, match="use a model that has it"):
        build_clip("tiny-alone", path)
    with pytest.raises(WeightsError, match='use the name "ViT-B-16-quickgelu"'):
        build_clip("ViT-B-16", "openai")


@pytest.mark.filterwarnings("ignore")
def test_other_image_size_and_custom_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, _ = build_clip("tiny-quickgelu")
    source = source.half().float()
    path = tmp_path / "clip.pt"
    save(source, path, "archive")
    with caplog.at_level(logging.INFO):
        larger, _ = build_clip("tiny-48-quickgelu", path)
    assert "grid-size from (4, 4) to (6, 6)" in caplog.text
    state = {key: value.float() for key, value in source.state_dict().items()}
    resize_pos_embed(state, larger)
    torch.testing.assert_close(larger.visual.positional_embedding, state["visual.positional_embedding"])

    custom, _ = build_clip("tiny-custom", path)
    for value, reference in zip(outputs(custom), outputs(source.float()), strict=True):
        torch.testing.assert_close(value, reference)


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.pth"
    state = build_clip("tiny")[0].state_dict()
    del state["ln_final.bias"]
    state["visual.proj"] = torch.zeros(32, 7)
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(WeightsError) as error:
        build_clip("tiny", path)
    assert str(error.value) == (
        f"{path}: does not fit CLIP: missing keys: ln_final.bias; unexpected keys: extra.weight; "
        "misshapen keys: visual.proj (32, 7) for (32, 16)"
    )
    torch.save(nn.Sequential(nn.Linear(2, 2)).state_dict(), path)
    with pytest.raises(WeightsError, match=r"missing keys: positional_embedding, .* and \d+ more; unexpected"):
        build_clip("tiny", path)


def test_unknown_names_and_tags(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r'no CLIP model "ViT-B16".*ViT-B-16'):
        build_clip("ViT-B16")
    with pytest.raises(WeightsError, match="laion2b_s34b_b88k"):
        build_clip("ViT-B-16", "laion2b")
    with pytest.raises(WeightsError, match="whose tags are: none"):
        build_clip("escnet-mini", "openai")
    with pytest.raises(WeightsError, match=r"clip\.pt: there is no such file"):
        build_clip("escnet-mini", tmp_path / "clip.pt")


def test_broken_file_of_a_public_model(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-16.pt"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(WeightsError, match=r"ViT-B-16\.pt: cannot .* 42 bytes .*Fetch https://openaipublic") as error:
        weights_module._load_clip(
            nn.Module(), path, weights_module.where_to_get(weights_module.PUBLIC_WEIGHTS["ViT-B-16-quickgelu"])
        )
    assert error.value.__suppress_context__


def test_the_mini_model_and_its_tokenizer() -> None:
    model, tokenizer = build_clip("escnet-mini")
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
    assert not model.training
    assert model.visual.image_mean == open_clip.OPENAI_DATASET_MEAN
    complete = open_clip.get_tokenizer("ViT-B-16")
    assert tokenizer.vocab_size == 1026
    assert list(tokenizer.encoder)[:1024] == list(complete.encoder)[:1024]
    for text in ("a photo of a cat", "Zürich, 東京 \u2014 xylophone?!"):
        ids = tokenizer.encode(text)
        assert max(ids) < 1024
        assert tokenizer.decode(ids) == complete.decode(complete.encode(text))
    tokens = tokenizer(["cat"])
    assert tokens.shape == (1, 77) and tokens[0, 0] == 1024 and tokens[0].max() == 1025
    assert model.encode_text(tokens).shape == (1, 64)


def test_sam_sizes_are_those_of_the_registry() -> None:
    for name in ("vit_b", "vit_l", "vit_h"):
        with torch.device("meta"):
            reference = sam_model_registry[name]()
            built = build_sam(name)
        shapes = {key: value.shape for key, value in built.state_dict().items()}
        assert shapes == {key: value.shape for key, value in reference.state_dict().items()}
        assert built.image_encoder.img_size == 1024
        assert str(built.mask_decoder) == str(reference.mask_decoder)
        assert str(built.image_encoder) == str(reference.image_encoder)
        for ours, theirs in zip(built.image_encoder.blocks, reference.image_encoder.blocks, strict=True):
            assert (ours.window_size, ours.attn.num_heads) == (theirs.window_size, theirs.attn.num_heads)
        assert built.mask_decoder.transformer.num_heads == reference.mask_decoder.transformer.num_heads


def test_sam_mini_runs_and_loads(tmp_path: Path) -> None:
    sam, path = build_sam("mini"), tmp_path / "sam.pth"
    torch.save(sam.state_dict(), path)
    loaded = build_sam("mini", path)
    image = torch.rand(3, 100, 128) * 255
    point = {"point_coords": torch.tensor([[[50.0, 60.0]]]), "point_labels": torch.ones(1, 1)}
    inputs = [{"image": image, "original_size": (100, 128), **point}]
    with torch.no_grad():
        results = [model(inputs, multimask_output=True)[0] for model in (sam, loaded)]
    assert results[0]["masks"].shape == (1, 3, 100, 128)
    torch.testing.assert_close(results[0]["low_res_logits"], results[1]["low_res_logits"])


def official_state(name: str) -> dict[str, Tensor]:
    """The keys of an official file; the image encoder, most of it, cut down to one."""
    size = SAM_SIZES[name]
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in sam_model_registry[name]().state_dict().items()}
    torch.manual_seed(0)
    state = {key: torch.randn(shape) for key, shape in shapes.items() if not key.startswith("image_encoder")}
    state["image_encoder.pos_embed"] = torch.randn(1, 64, 64, size.encoder_dim)
    return state


@pytest.mark.parametrize("name", ["vit_b", "vit_l"])
def test_sam_decoder_from_an_official_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sam.pth"
    state = official_state(name)
    torch.save(state, path)
    prompt_encoder, transformer = build_sam_decoder("vit_b", path)
    for module, prefix in ((prompt_encoder, "prompt_encoder."), (transformer, "mask_decoder.transformer.")):
        assert module.state_dict()
        for key, value in module.state_dict().items():
            torch.testing.assert_close(value, state[prefix + key])
    with pytest.raises(WeightsError, match=r"sam\.pth: does not fit Sam: missing keys: image_encoder"):
        build_sam("mini", path)


def test_sam_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.save(official_state("vit_l"), path)
    with torch.device("meta"), pytest.raises(WeightsError, match=r"misshapen keys: image_encoder\.pos_embed \(1, 64"):
        build_sam("vit_b", path)


def test_sam_decoder_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    state = build_sam("mini").state_dict()
    del state["prompt_encoder.no_mask_embed.weight"]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"missing keys: prompt_encoder\.no_mask_embed\.weight"):
        build_sam_decoder("mini", path)
    state = build_sam("mini").state_dict()
    state["mask_decoder.transformer.layers.0.norm1.weight"] = torch.zeros(5)
    torch.save(state, path)
    with pytest.raises(
        WeightsError, match=r"misshapen keys: mask_decoder\.transformer\.layers\.0\.norm1\.weight \(5,\) for \(64,\)"
    ):
        build_sam_decoder("mini", path)


def test_sam_files_that_cannot_be_read_say_where_to_get_them(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    for content in (None, b"", b"garbage"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"sam\.pth: .*Fetch https://dl\.fbaipublicfiles.*sam_vit_b_01ec64"):
            build_sam_decoder("vit_b", path)


def test_sam_official_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCNET_WEIGHTS", str(tmp_path))
    state = official_state("vit_b")
    torch.save(state, tmp_path / "sam_vit_b_01ec64.pth")
    prompt_encoder, _ = build_sam_decoder("vit_b", "official")
    torch.testing.assert_close(
        prompt_encoder.no_mask_embed.weight.detach(), state["prompt_encoder.no_mask_embed.weight"]
    )
    with pytest.raises(WeightsError, match="no official weights"):
        build_sam("mini", "official")
    with pytest.raises(WeightsError, match="vit_b, vit_l, vit_h, mini"):
        build_sam("vit_g")
