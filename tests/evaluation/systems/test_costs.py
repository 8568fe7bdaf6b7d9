"""Costs of tiny systems: against counts of their own, and in a file that is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from escnet.complexity import count_model
from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.systems import costs as costs_module
from escnet.evaluation.systems import kept_costs
from escnet.evaluation.systems.configurations import random_configuration, trained_configuration
from escnet.evaluation.systems.costs import CostError, CostSample, SystemCosts, measure_costs
from escnet.evaluation.systems.kept_costs import cost_sample, measured_or_kept
from escnet.evaluation.systems.plan import CostPlan, System
from escnet.pretrained.reading import files_read, read_weights

MOJI = str(Path(__file__).parents[3] / "configs/mojiscenes/escnet.yaml")
SMALL = {"MODEL.DEVICE": "cpu", "MODEL.CLIP.NAME": "escnet-mini", "MODEL.SAM.NAME": "mini",
         "MODEL.CLIP.IMAGE_SIZE": (64, 64)}  # fmt: skip
ESC_NET = System("ESC-Net", MOJI, options=SMALL | {"MODEL.ESC.NUM_BLOCKS": 1, "MODEL.ESC.DIM": 16})
ON_MERGED = replace(ESC_NET, options=ESC_NET.options | {"MODEL.ESC.BACKBONE": "sam_clip"})
FREE = System("DenseClip", MOJI, options=SMALL | {"MODEL.META_ARCHITECTURE": "DenseClip"})
PLAN = CostPlan(words=5, picture_size=(40, 56), repeats=2)


@pytest.fixture(autouse=True)
def _threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def measured(system: System, sample: CostSample | None = None) -> tuple[CfgNode, SystemCosts]:
    cfg = random_configuration(system)
    return cfg, measure_costs(cfg, sample or cost_sample(PLAN, cfg, from_data=False))


def test_numbers_are_those_of_the_model() -> None:
    cfg, found = measured(FREE)
    model = build_model(cfg).eval()
    assert found.parameters == sum(p.numel() for p in model.parameters()) and found.trainable == 0
    assert found.state_bytes == sum(v.numel() * v.element_size() for v in model.state_dict().values())
    assert found.files == {} and found.disk_bytes == found.state_bytes
    sample = cost_sample(PLAN, cfg, from_data=False)
    assert sample.vocabulary.num_classes == 5 and sample.pictures[0].shape == (40, 56, 3)
    flops = count_model(model, sample.vocabulary, torch.rand(1, 3, 40, 56)).by_module
    assert found.text_flops == flops["clip_text"] > 0
    assert found.flops == flops[""] - flops["clip_text"] > 0
    assert sum(part["flops"] for part in found.parts) == pytest.approx(flops[""])


def test_every_repeat_of_every_picture_is_timed() -> None:
    cfg = random_configuration(FREE)
    sample = cost_sample(PLAN, cfg, from_data=False)
    larger = np.zeros((80, 56, 3), np.uint8)
    _, found = measured(FREE, replace(sample, pictures=[*sample.pictures, larger, larger]))
    assert len(found.encode_seconds) == len(found.words_seconds) == 3 * 2 and len(found.text_seconds) == 2
    sums = sorted(a + b for a, b in zip(found.encode_seconds, found.words_seconds, strict=True))
    assert sums[2] <= found.seconds <= sums[3] and sums[0] > 0
    assert found.memory >= found.memory_before > 50


def test_flops_of_what_depends_on_the_picture_are_the_mean() -> None:
    """Each class that is the best of some cell gives prompts, so that these two pictures have not as many."""
    changes = {"MODEL.META_ARCHITECTURE": "ClipThenSam", "MODEL.CLIP.IMAGE_SIZE": (32, 32)}
    system = replace(FREE, options=FREE.options | changes)
    sample = cost_sample(replace(PLAN, repeats=1), random_configuration(system), from_data=False)
    noise, flat = sample.pictures[0], np.zeros((40, 56, 3), np.uint8)
    first, second, both = (measured(system, replace(sample, pictures=p))[1].flops
                           for p in ([noise], [flat], [noise, flat]))  # fmt: skip
    assert first != second and both == (first + second) / 2


@pytest.mark.parametrize("system", [ESC_NET, ON_MERGED])
def test_a_system_that_stands_on_others_needs_no_file_of_theirs(system: System) -> None:
    _, found = measured(system)
    assert 0 < found.trainable < found.parameters and found.files == {}


def test_files_that_are_read_are_known(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(3)}, path)
    read_weights(path)
    with files_read() as files:
        assert files == []
        read_weights(path)
        read_weights(str(path))
    read_weights(path)
    assert files == [path]


def test_a_configured_system_has_the_files_that_it_reads(tmp_path: Path, tiny_config: str) -> None:
    system = System("DenseClip", tiny_config, options={"MODEL.META_ARCHITECTURE": "DenseClip"})
    cfg = trained_configuration(system)
    found = measure_costs(cfg, cost_sample(PLAN, cfg, from_data=False))
    clip = tmp_path / "clip.safetensors"
    assert found.files == {str(clip): clip.stat().st_size} and found.disk_bytes == clip.stat().st_size


def test_pictures_and_words_of_a_dataset(tiny_data: Path, tiny_config: str) -> None:
    cfg = random_configuration(System("x", tiny_config))
    sample = cost_sample(CostPlan(data="mojiscenes_val_novel", pictures=5), cfg, from_data=True)
    assert len(sample.pictures) == 2  # as many as there are
    assert sample.vocabulary.num_classes == 52 and sample.pictures[0].shape == (64, 64, 3)
    assert not np.array_equal(*sample.pictures)


def test_costs_are_kept_for_the_same_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    costs = SystemCosts(9, 1, 2.0, 1.0, [], [0.1], [0.2], [0.3], 100.0, 90.0, 36, {})
    monkeypatch.setattr(kept_costs, "costs_of", lambda *arguments: calls.append(arguments) or costs)
    cfg = random_configuration(FREE)
    sample = cost_sample(PLAN, cfg, from_data=False)
    for _ in range(2):
        assert measured_or_kept(tmp_path, FREE, cfg, sample) == costs
    assert len(calls) == 1
    for other, key in ((replace(sample, threads=2), "threads was 1, is 2"), (replace(sample, repeats=3), "repeats")):
        with pytest.raises(ResultsError, match=rf"DenseClip.json: has results .*{key}"):
            measured_or_kept(tmp_path, FREE, cfg, other)
    changed = random_configuration(replace(FREE, options=FREE.options | {"MODEL.ESC.CLASS_CHUNK": 3}))
    with pytest.raises(ResultsError, match="CLASS_CHUNK was 0, is 3"):
        measured_or_kept(tmp_path, FREE, changed, sample)
    path = tmp_path / "DenseClip.json"
    path.write_text(path.read_text().replace('"flops"', '"flop"'))
    with pytest.raises(ResultsError, match="has no costs of a system"):
        measured_or_kept(tmp_path, FREE, cfg, sample)


def test_a_process_that_was_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> None:
        raise costs_module.BrokenProcessPool("terminated abruptly")

    monkeypatch.setattr(costs_module, "in_own_process", killed)
    with pytest.raises(CostError, match=r"Big: the process in which .* was killed"):
        costs_module.costs_of("Big", CfgNode(), None)
