"""CLIP by name, with random, public or own weights; errors say which file, what is wrong and what to do."""

from __future__ import annotations

import difflib
import functools
import gzip
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import open_clip
from open_clip.coca_model import CoCa
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import (
    CLIP,
    CustomTextCLIP,
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    set_model_preprocess_cfg,
)
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from torch import Tensor, nn

from escnet.pretrained.files import WeightsError, first_line
from escnet.pretrained.loading import load_exactly
from escnet.pretrained.public import PUBLIC_WEIGHTS, fetch_clip, where_to_get
from escnet.pretrained.reading import read_weights
from escnet.pretrained.shipped import resolve_shipped
from escnet.pretrained.torchscript import is_torchscript

CLIP_VOCABULARY = 49408
BYTE_AND_SPECIAL_TOKENS = 514
# What OpenAI's archives hold beside weights, and the mask, which the model computes itself.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def build_clip(name: str, weights: str | Path = "") -> tuple[nn.Module, Callable[..., Tensor]]:
    """Build a CLIP model of open_clip, in fp32 on the CPU, and its tokenizer.

    Arguments:
      name: a model of open_clip ("ViT-B-16-quickgelu") or of this package ("escnet-mini").
      weights: "" for random ones; a tag of open_clip ("openai"); or the path, or "shipped:NAME", of a state dict, a
        .safetensors file or one of OpenAI's archives. Positional embeddings of another image size are resized.

    Raises:
      WeightsError: for an unknown name or tag, for weights that can neither be found nor downloaded, that do not fit
        the model, or that were trained with another activation than it has.
    """
    name = name.replace("/", "-")
    weights = resolve_shipped(weights)
    config = _clip_config(name)
    path = _locate_clip_weights(name, config, weights) if weights else None
    tokenizer = _build_tokenizer(name, config["text_cfg"])
    pretrained = open_clip.get_pretrained_cfg(name, weights)
    model = _instantiate_clip(config)
    statistics = {
        "size": model.visual.image_size,
        "mean": pretrained.get("mean", OPENAI_DATASET_MEAN),
        "std": pretrained.get("std", OPENAI_DATASET_STD),
    }
    set_model_preprocess_cfg(model, statistics)
    if path is not None:
        public = PUBLIC_WEIGHTS.get(name)
        _load_clip(model, path, where_to_get(public) if public else "")
    return model.eval(), tokenizer


def _clip_config(name: str) -> dict:
    _add_small_models()
    known = open_clip.list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.4)) or "see open_clip.list_models()"
        raise WeightsError(f'there is no CLIP model "{name}"; near names: {near}')
    return open_clip.get_model_config(name)


@functools.cache
def _add_small_models() -> None:
    """Make the models that this package describes known to open_clip."""
    open_clip.add_model_config(Path(__file__).parent / "model_configs" / "clip")


def _instantiate_clip(config: dict) -> nn.Module:
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    if "multimodal_cfg" in config:
        return CoCa(**arguments)
    custom = config.get("custom_text", False) or "hf_model_name" in config["text_cfg"]
    return (CustomTextCLIP if custom else CLIP)(**arguments)


def _build_tokenizer(name: str, text_config: dict) -> Callable[..., Tensor]:
    vocabulary = text_config.get("vocab_size", CLIP_VOCABULARY)
    if text_config.get("hf_tokenizer_name") or vocabulary == CLIP_VOCABULARY:
        try:
            return open_clip.get_tokenizer(name)
        except (ImportError, OSError) as error:
            raise WeightsError(f"the tokenizer of {name} cannot be loaded ({first_line(error)})") from None
    return _build_small_tokenizer(vocabulary, text_config["context_length"])


def _build_small_tokenizer(vocabulary: int, context_length: int) -> SimpleTokenizer:
    """CLIP's tokenizer with its first merges only, so that a tiny text tower needs no large embedding."""
    merges = vocabulary - BYTE_AND_SPECIAL_TOKENS
    if not 0 <= merges <= CLIP_VOCABULARY - BYTE_AND_SPECIAL_TOKENS:
        allowed = f"{BYTE_AND_SPECIAL_TOKENS} to {CLIP_VOCABULARY}"
        raise WeightsError(f"vocab_size is {vocabulary}, but CLIP's tokenizer can only be cut to {allowed} tokens")
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = [next(file).rstrip("\n") for _ in range(1 + merges)]  # a header, then one merge per line
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "merges.txt.gz"
        path.write_bytes(gzip.compress("\n".join(lines).encode("utf-8")))
        return SimpleTokenizer(bpe_path=str(path), context_length=context_length)


def _locate_clip_weights(name: str, config: dict, weights: str) -> Path:
    """The local file of a tag or path, downloaded if need be; refuses weights of the other activation."""
    pretrained = open_clip.get_pretrained_cfg(name, weights)
    if pretrained:
        _require_activation(name, config, pretrained.get("quick_gelu", False), f'the tag "{weights}"')
        return fetch_clip(name, weights)
    path = Path(weights).expanduser()
    if not (path.is_file() or path.suffix or os.sep in weights):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise WeightsError(f'"{weights}" is neither a file nor a tag of {name}, whose tags are: {tags}')
    if path.is_file() and is_torchscript(path):
        # Only OpenAI publishes CLIP in this form, and trained all of it with QuickGELU.
        _require_activation(name, config, True, str(path))
    return path


def _require_activation(name: str, config: dict, quick_gelu: bool, source: str) -> None:
    if quick_gelu == config.get("quick_gelu", False):
        return
    other = f"{name}-quickgelu" if quick_gelu else name.removesuffix("-quickgelu")
    activation = "QuickGELU" if quick_gelu else "GELU"
    remedy = f'use the name "{other}"' if other in open_clip.list_models() else "use a model that has it"
    raise WeightsError(f"{source} holds weights that were trained with {activation}, which {name} has not: {remedy}")


def _load_clip(model: nn.Module, path: Path, remedy: str) -> None:
    state = read_weights(path, remedy)
    state = {key: value for key, value in state.items() if key.split(".")[-1] not in NOT_WEIGHTS}
    if not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    if "logit_scale" in state and state["logit_scale"].numel() == model.logit_scale.numel():
        state["logit_scale"] = state["logit_scale"].reshape(model.logit_scale.shape)
    positions = state.get("visual.positional_embedding")
    # A grid that is not square, or a width that differs, is left to be reported as misshapen.
    if positions is not None and positions.ndim == 2 and math.isqrt(len(positions) - 1) ** 2 == len(positions) - 1:
        state["visual.positional_embedding"] = positions.float()
        resize_pos_embed(state, model)
    load_exactly(model, state, path)
