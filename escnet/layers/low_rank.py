"""LoRA of SAM's image encoder by PEFT, for comparison with adapters (Hu et al., "LoRA", sec. 4)."""

from __future__ import annotations

from collections.abc import Iterator

from segment_anything.modeling import ImageEncoderViT
from torch import nn

_PREFIX = "lora_"


def add_low_rank(encoder: ImageEncoderViT, rank: int) -> None:
    """Add LoRA to the query, key and value projection of every block, in place; it begins with nothing to say.

    Arguments:
      encoder: with its weights: their names change, as PEFT keeps them under `base_layer`.
      rank: of the matrices; they are scaled by 1.

    Raises:
      ImportError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            f"MODEL.GUIDED.LORA is {rank}, which needs PEFT ({error}): pip install 'escnet[lora]', or set it to 0"
        ) from error
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"]), encoder)


def low_rank_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that LoRA has added."""
    return (parameter for name, parameter in module.named_parameters() if _PREFIX in name)
