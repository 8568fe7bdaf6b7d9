"""Weights as exact differences to others: base + difference is the tuned tensor, to the last bit."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from escnet.pretrained.files import WeightsError

Tensors = Mapping[str, Tensor]
_WHOLE, _DIFFERENCE = "whole:", "difference:"
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Differences are short numbers among zeros: a higher level gains hundredths, and takes several times as long.
_LEVEL = 6


def difference(base: Tensors, tuned: Tensors) -> dict[str, Tensor]:
    """What turns `base` into `tuned`: bit patterns subtracted as whole numbers, packed; nothing of equal tensors.

    Args:
        base: tensors by name; those that `tuned` has under the same name, in the same shape and type, are used.
        tuned: tensors by name.

    Returns:
        "whole:NAME", the tensor of `tuned`, where there is no such partner or a difference takes no less;
        "difference:NAME" (P,) uint8.
    """
    packed: dict[str, Tensor] = {}
    for name, value in tuned.items():
        partner = base.get(name)
        value = value.detach().cpu().contiguous()
        if partner is None or partner.shape != value.shape or partner.dtype != value.dtype:
            packed[_WHOLE + name] = value
            continue
        steps = _bits(value) - _bits(partner.detach().cpu().contiguous())
        if not steps.any():
            continue
        data = _pack(steps)
        if data.numel() < value.numel() * value.element_size():
            packed[_DIFFERENCE + name] = data
        else:
            packed[_WHOLE + name] = value
    return packed


def restored(base: Tensors, packed: Tensors, source: str) -> dict[str, Tensor]:
    """`tuned` of the base and of what `difference` made; names of the base that are not in it are equal.

    Args:
        base: tensors by name, of which all that the tuned model has and `packed` has not whole are needed.
        packed: as `difference` returns it; it may come from someone else.
        source: of which file, for the message.

    Raises:
        WeightsError: it does not belong to this base, or is damaged.
    """
    tuned = {name: value.detach().cpu() for name, value in base.items()}
    for entry, value in packed.items():
        if entry.startswith(_WHOLE):
            tuned[entry.removeprefix(_WHOLE)] = value
            continue
        name = entry.removeprefix(_DIFFERENCE)
        if name == entry or name not in base:
            raise WeightsError(f"{source}: holds {entry}, for which the model that it was made upon has no tensor")
        partner = base[name].detach().cpu().contiguous()
        bits = _bits(partner) + _unpack(value, partner, f"{source}: {entry}")
        tuned[name] = bits.view(partner.dtype).reshape(partner.shape)
    return tuned


def tensors_sha256(tensors: Tensors, names: Iterable[str] | None = None) -> str:
    """The SHA-256 of tensors by name, of whatever file they come from: of names, types, shapes and bits, sorted."""
    digest = hashlib.sha256()
    for name in sorted(tensors if names is None else names):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _bits(value: Tensor) -> Tensor:
    """The bit patterns (P,) of a tensor as whole numbers; their sums and differences wrap around, and lose nothing."""
    return value.reshape(-1).view(_WORDS[value.element_size()])


def _pack(steps: Tensor) -> Tensor:
    """Whole numbers (P,), small ones of either sign mostly, as packed bytes."""
    # 0, -1, 1, -2 ... become 0, 1, 2, 3, so that the upper bytes of small ones are 0; then all first bytes, all second.
    folded = (steps << 1) ^ (steps >> (8 * steps.element_size() - 1))
    planes = folded.numpy().view(np.uint8).reshape(-1, steps.element_size()).T
    return torch.frombuffer(bytearray(zlib.compress(np.ascontiguousarray(planes), _LEVEL)), dtype=torch.uint8)


def _unpack(data: Tensor, partner: Tensor, source: str) -> Tensor:
    size = partner.numel() * partner.element_size()
    reader = zlib.decompressobj()
    try:
        # Never more than the tensor has, whatever the data stands for.
        content = reader.decompress(data.contiguous().numpy().tobytes(), size + 1)
    except (zlib.error, TypeError) as error:
        raise WeightsError(f"{source} is damaged ({error})") from None
    if len(content) != size or not reader.eof:
        raise WeightsError(f"{source} is damaged, or of a tensor of another size than {tuple(partner.shape)}")
    width = partner.element_size()
    words = np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(width, -1).T).reshape(-1).copy()
    folded = torch.from_numpy(words).view(_WORDS[width])
    # The logical shift that PyTorch's signed numbers lack, and the sign from the lowest bit.
    unsigned = (folded >> 1) & torch.iinfo(folded.dtype).max
    return unsigned ^ -(folded & 1)
