"""In which arithmetic a model is run, and which of them a device does well."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO = "auto"


def precision_of(cfg: Any) -> str:
    """MODEL.PRECISION of a config, where it is `auto` the one that MODEL.DEVICE does well.

    Warns, once, of one that the device has no instructions for.

    Returns:
        fp32, bf16 or fp16.

    Raises:
        ValueError: MODEL.PRECISION is none of these.
    """
    wanted, device = cfg.MODEL.PRECISION, torch.device(cfg.MODEL.DEVICE)
    if wanted == AUTO:
        return best_precision(device)
    if wanted not in PRECISIONS:
        raise ValueError(f"MODEL.PRECISION must be one of {(*PRECISIONS, AUTO)}, got {wanted!r}")
    if device.type == "cpu" and wanted != "fp32" and not has_instructions(wanted):
        _warn(wanted)
    return wanted


def best_precision(device: torch.device) -> str:
    """The fastest arithmetic of a device that a trained model bears: bf16 where there are instructions for it, then
    fp16 on a GPU, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and has_instructions("bf16") else "fp32"


def has_instructions(precision: str) -> bool:
    """Whether this machine's processor computes in bf16 or fp16, and not by way of fp32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(f"{unit}_{precision}", False) for unit in ("amx", "avx512"))


@lru_cache
def _warn(precision: str) -> None:
    logger.warning(
        "MODEL.PRECISION is %s, for which this processor has no instructions: expect it to be several times slower "
        "than fp32. Set MODEL.PRECISION to fp32, or to auto, which takes what the device does well",
        precision,
    )
