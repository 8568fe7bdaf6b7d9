"""Tests of the operators that torch.onnx does not translate itself: by ONNX Runtime, against PyTorch."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from escnet.export.files import write_onnx
from escnet.export.graphs import NotExportableError, Part
from escnet.layers.point_sampling import sample_evenly


class Sort(nn.Module):
    def forward(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        found = masks.round().sort(dim=1, stable=True, descending=True)
        return found.values, found.indices


class Search(nn.Module):
    def forward(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        rows, values = masks.round().sort(dim=1).values, masks[:, :4].round()
        return torch.searchsorted(rows, values), torch.searchsorted(rows, values, right=True)


class Points(nn.Module):
    def forward(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        found = sample_evenly(masks.view(-1, 5, 8) > 0.5, torch.tensor([0.0, 0.3, 0.99]))
        return found.cells, found.labels


class Untranslated(nn.Module):
    def forward(self, masks: Tensor) -> Tensor:
        return torch.linalg.svdvals(masks)


def program(module: nn.Module) -> torch.export.ExportedProgram:
    count = torch.export.Dim("count", min=2)
    return torch.export.export(module, (torch.rand(6, 40),), dynamic_shapes=({0: count},), strict=False)


@pytest.mark.parametrize("module", [Sort(), Search(), Points()], ids=lambda module: type(module).__name__)
def test_operators_are_those_of_pytorch(module: nn.Module, tmp_path: Path) -> None:
    part = Part(module, [], {"masks": torch.zeros(1)}, ("one", "two"))
    write_onnx(part, program(module), tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"))
    for count in (1, 6, 9):
        masks = 3 * torch.rand(count, 40, generator=torch.Generator().manual_seed(count))
        masks[0] = 0  # nothing but equals, and an empty region
        for found, wanted in zip(session.run(None, {"masks": masks.numpy()}), module(masks), strict=True):
            assert torch.equal(torch.from_numpy(found), wanted)


def test_what_cannot_be_translated_is_told_in_one_line(tmp_path: Path) -> None:
    part = Part(Untranslated(), [], {"masks": torch.zeros(1)}, ("one",))
    with pytest.raises(NotExportableError, match=r"^graph\.onnx: torch\.onnx cannot translate it \(.*svd.*\)$"):
        write_onnx(part, program(Untranslated()), tmp_path / "graph.onnx")
    assert not list(tmp_path.iterdir())
