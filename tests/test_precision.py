"""MODEL.PRECISION: what `auto` takes on which device, and the warning of what a processor has no instructions for."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.config import CfgNode

from escnet import precision
from escnet.config import load_config
from escnet.precision import best_precision, precision_of


def config(wanted: str, device: str = "cpu") -> CfgNode:
    return load_config("configs/mojiscenes/escnet.yaml", ["MODEL.PRECISION", wanted, "MODEL.DEVICE", device])


def on_processor(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    precision._warn.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "avx512_fp16": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_takes_what_the_processor_has_instructions_for(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_processor(monkeypatch, **capabilities)
    assert precision_of(config("auto")) == expected


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_fp16_on_gpus_without_bf16(has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    assert best_precision(torch.device("cuda", 1)) == expected


def test_a_device_of_another_kind_computes_in_fp32() -> None:
    assert best_precision(torch.device("mps")) == "fp32"


def test_what_is_asked_for_is_taken_and_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_processor(monkeypatch, avx512_bf16=True)
    with caplog.at_level(logging.WARNING, precision.logger.name):
        assert [precision_of(config(wanted)) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
        assert not caplog.records
        assert [precision_of(config("fp16")) for _ in range(2)] == ["fp16", "fp16"]
    (record,) = caplog.records
    assert "MODEL.PRECISION is fp16, for which this processor has no instructions" in record.getMessage()


def test_another_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MODEL.PRECISION must be one of .*'auto'.*, got 'int8'"):
        precision_of(config("int8"))
