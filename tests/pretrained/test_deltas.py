"""Differences of bit patterns: what is restored is the tuned tensor to the last bit, whatever the values."""

from __future__ import annotations

import zlib

import pytest
import torch

from escnet.pretrained.deltas import difference, restored, tensors_sha256
from escnet.pretrained.files import WeightsError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_floats_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    base = {"weight": torch.randn(300, 7, generator=torch.Generator().manual_seed(0)).to(dtype)}
    tuned = {"weight": base["weight"] * 1.001 + 1e-4}
    for place, value in enumerate((float("nan"), float("inf"), float("-inf"), -0.0, 0.0, -base["weight"][5, 0])):
        tuned["weight"][place, 0] = value
    packed = difference(base, tuned)
    assert list(packed) == ["difference:weight"]
    assert packed["difference:weight"].numel() < tuned["weight"].numel() * dtype.itemsize
    assert torch.equal(restored(base, packed, "file")["weight"].view(torch.uint8), tuned["weight"].view(torch.uint8))


def test_whole_numbers_wrap_around() -> None:
    ends = torch.tensor([-(2**63), 2**63 - 1, 0]).repeat(20)
    base, tuned = {"n": ends, "b": torch.tensor([-128, 127] * 30, dtype=torch.int8)}, {}
    tuned["n"], tuned["b"] = ends.flip(0), base["b"].flip(0)
    back = restored(base, difference(base, tuned), "file")
    assert torch.equal(back["n"], tuned["n"]) and torch.equal(back["b"], tuned["b"])


def test_equal_tensors_take_nothing_and_new_ones_are_whole() -> None:
    base = {"same": torch.ones(5), "shape": torch.ones(5), "type": torch.ones(5)}
    tuned = {"same": torch.ones(5), "shape": torch.ones(6), "type": torch.ones(5).half(), "new": torch.zeros(0, 3)}
    packed = difference(base, tuned)
    assert sorted(packed) == ["whole:new", "whole:shape", "whole:type"]
    assert tensors_sha256(restored(base, packed, "file")) == tensors_sha256(tuned)


def test_one_step_of_one_number_by_hand() -> None:
    # The float after 1.0 has a bit pattern that is one more: folded 2, in the lowest of four planes of bytes.
    tuned = torch.ones(64)
    tuned[1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    planes = zlib.decompress(difference({"a": torch.ones(64)}, {"a": tuned})["difference:a"].numpy().tobytes())
    assert planes == bytes([0, 2]) + bytes(254)


def test_the_digest_depends_on_names_types_shapes_and_bits() -> None:
    tensors = [{"a": torch.zeros(2)}, {"b": torch.zeros(2)}, {"a": torch.zeros(1, 2)}, {"a": -torch.zeros(2)}]
    assert len({tensors_sha256(one) for one in [*tensors, {"a": torch.zeros(2, dtype=torch.int32)}]}) == 5
    assert tensors_sha256({"a": torch.ones(2), "b": torch.ones(1)}, ["a"]) == tensors_sha256({"a": torch.ones(2)})


def _bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        ({"difference:other": torch.zeros(3, dtype=torch.uint8)}, "has no tensor"),
        ({"weight": torch.zeros(3)}, "has no tensor"),
        ({"difference:a": _bytes(b"no zlib")}, "difference:a is damaged"),
        ({"difference:a": _bytes(zlib.compress(bytes(99)))}, "of another size"),
        # A thousandfold of what it takes: nothing beyond the tensor is unpacked.
        ({"difference:a": _bytes(zlib.compress(bytes(10**7)))}, "of another size"),
        ({"difference:a": _bytes(zlib.compress(bytes(400))[:-3])}, "damaged"),
    ],
)
def test_what_does_not_belong_is_refused(packed: dict[str, torch.Tensor], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        restored({"a": torch.ones(100)}, packed, "file")
