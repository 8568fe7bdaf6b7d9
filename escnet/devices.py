"""Devices by the names that users give, and whether PyTorch has them on this machine."""

from __future__ import annotations

import torch

from escnet.config_values import ConfigError


class DeviceMissingError(ConfigError):
    """A device that PyTorch knows, but does not see on this machine."""


def usable_device(wanted: str | torch.device | None, configured: str) -> str:
    """The device on which a model is run.

    Args:
        wanted: what the user asks for: "cpu", "cuda", "cuda:1", "mps", "xpu" or a torch.device; None for nothing.
        configured: MODEL.DEVICE, taken where nothing is asked for; then the CPU stands in for a GPU that is not there.

    Returns:
        Its name.

    Raises:
        ConfigError: it is no device, or one that is asked for is not there; the message lists those that are.
    """
    if wanted is not None:
        return existing_device(wanted, f'the device "{wanted}" was asked for')
    try:
        return existing_device(configured, f"MODEL.DEVICE is {configured}")
    except DeviceMissingError:
        return "cpu"


def existing_device(device: str | torch.device, asked: str) -> str:
    """The name of a device that is there.

    Args:
        device: a name or a torch.device.
        asked: how the message begins, "MODEL.DEVICE is cuda".

    Raises:
        ConfigError: it is no device, or not there; the message lists those that are.
    """
    found = available_devices()
    there = f"PyTorch sees {', '.join(found)}"
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        gpu = "; a GPU of NVIDIA or AMD is called cuda" if str(device).startswith("gpu") else ""
        raise ConfigError(f"{asked}, which is no device of PyTorch{gpu}; {there}") from error
    is_present = {
        "cpu": lambda: True,
        "cuda": torch.cuda.is_available,
        "xpu": torch.xpu.is_available,
        "mps": torch.backends.mps.is_available,
    }
    kind, index = parsed.type, parsed.index
    if kind not in is_present or not is_present[kind]() or (index and str(parsed) not in found):
        raise DeviceMissingError(f"{asked}, but it is not there; {there}; take one of these")
    return str(device)


def available_devices() -> list[str]:
    """The devices that PyTorch sees here: "cpu", then each "cuda:0", "xpu:0" ..., and "mps"."""
    found = ["cpu"]
    for kind, backend in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        found += [f"{kind}:{index}" for index in range(backend.device_count() if backend.is_available() else 0)]
    return found + ["mps"] * torch.backends.mps.is_available()


def device_name(device: torch.device) -> str:
    """What a GPU of NVIDIA or AMD is called, and the kind of any other device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no room left for tensors."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch has no type of its own for those of the CPU and of Apple's devices.
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("can't allocate memory", "out of memory")
    )
