"""Devices by name: those that are there are taken, others are refused with a list of what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from escnet.config import ConfigError, check_device, load_config
from escnet.devices import available_devices, is_out_of_memory, usable_device
from escnet.predictor import Segmenter

MINI = Path(__file__).parents[1] / "configs" / "camvid" / "escnet.yaml"
SMALL = ("MODEL.CLIP.IMAGE_SIZE", "(64, 64)", "MODEL.ESC.NUM_BLOCKS", "1")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without any accelerator, until a test changes that."""
    for backend in (torch.cuda, torch.xpu, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    return monkeypatch


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("gpu", "no device of PyTorch; a GPU of NVIDIA or AMD is called cuda; PyTorch sees cpu"),
        ("gpu:0", "is called cuda"),
        ("graphics", "no device of PyTorch; PyTorch sees cpu"),
        ("mps", "mps.* not there; PyTorch sees cpu"),
        ("xpu", "xpu.* not there; PyTorch sees cpu"),
        ("cuda", "cuda.* not there; PyTorch sees cpu"),
        ("meta", "meta.* not there; PyTorch sees cpu"),
        ("", "no device of PyTorch"),
        (torch.device("cuda:1"), "cuda:1.* not there; PyTorch sees cpu"),
    ],
)
def test_what_is_not_there_is_refused_in_every_way_in(
    machine: pytest.MonkeyPatch, wanted: str | torch.device, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        usable_device(wanted, "cpu")
    with pytest.raises(ConfigError, match=message):
        Segmenter.from_config(MINI, device=wanted)
    cfg = load_config(MINI)
    cfg.MODEL.DEVICE = str(wanted)
    with pytest.raises(ConfigError, match=message):
        check_device(cfg)


def test_each_card_has_its_number(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: 2)
    assert available_devices() == ["cpu", "cuda:0", "cuda:1"]
    assert usable_device("cuda:1", "cpu") == "cuda:1"
    assert usable_device(torch.device("cuda", 0), "cpu") == "cuda:0"
    assert usable_device(None, "cuda") == "cuda"
    with pytest.raises(ConfigError, match=r"cuda:2.*PyTorch sees cpu, cuda:0, cuda:1"):
        usable_device("cuda:2", "cpu")


def test_apple_and_intel(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    machine.setattr(torch.xpu, "is_available", lambda: True)
    machine.setattr(torch.xpu, "device_count", lambda: 1)
    assert available_devices() == ["cpu", "xpu:0", "mps"]
    assert [usable_device(name, "cpu") for name in ("mps", "mps:0", "xpu", "xpu:0")] == ["mps", "mps:0", "xpu", "xpu:0"]


def test_only_what_is_configured_falls_back_to_the_cpu(machine: pytest.MonkeyPatch) -> None:
    assert usable_device(None, "cuda") == usable_device(None, "mps") == "cpu"
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE is gpu.*is called cuda"):
        usable_device(None, "gpu")


def test_a_model_is_built_on_a_torch_device() -> None:
    assert Segmenter.from_config(MINI, opts=SMALL, device=torch.device("cpu")).model.device.type == "cpu"


def test_want_of_memory_is_told_from_faults() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))
