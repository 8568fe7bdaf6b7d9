"""On a CUDA device: the numbers are those of the CPU, lower precisions hold, and what only a card can do runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor, distributed

from escnet.config import load_config
from escnet.data.benchmarks import find_benchmark
from escnet.losses.masks import MaskLossWeights
from escnet.miniature.world.glyphs import load_glyphs
from escnet.miniature.world.scene import Scene, compose
from escnet.predictor import Segmenter
from escnet.training.optimizer import build_optimizer
from escnet.training.tasks.word_masks import KINDS, WordPrompting, draw_words, question_losses
from escnet.vocabulary import Vocabulary

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

CONFIGS = Path(__file__).parents[2] / "configs/mojiscenes"
# The configuration of each system, and the weights that ship for it.
SYSTEMS = {
    "ESCNet": ("escnet.yaml", "shipped:esc_net"),
    "DenseClip": ("escnet.yaml", ""),
    "ClipThenSam": ("escnet.yaml", ""),
    "ClipGuidedSam": ("clip_guided_sam.yaml", "shipped:clip_guided_sam"),
}
WORDS = Vocabulary(find_benchmark("mojiscenes_val_novel").class_names)
FIRST_ROW = find_benchmark("mojiscenes_val_novel").rows[0]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in fp32 and not in TF32, whose 10 bits would hide an error of ours."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@lru_cache
def scenes() -> tuple[Scene, ...]:
    """Pictures of things that the shipped ESC-Net has seen no mask of."""
    glyphs = load_glyphs("novel")
    return tuple(compose(glyphs, np.random.default_rng(seed)) for seed in range(4))


def make_config(architecture: str, device: str, precision: str = "fp32", *opts: str) -> CfgNode:
    file, weights = SYSTEMS[architecture]
    options = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.DEVICE", device, "MODEL.PRECISION", precision]
    return load_config(CONFIGS / file, [*options, "MODEL.WEIGHTS", weights, *opts])


def make_segmenter(architecture: str, device: str, precision: str = "fp32", *opts: str) -> Segmenter:
    return Segmenter.from_config(make_config(architecture, device, precision, *opts))


def label_maps(segmenter: Segmenter) -> np.ndarray:
    results = [segmenter(scene.image, WORDS) for scene in scenes()]
    assert all(np.isfinite(result.scores).all() for result in results)
    return np.stack([result.labels for result in results])


@pytest.mark.parametrize("architecture", SYSTEMS)
def test_labels_are_those_of_the_cpu(architecture: str) -> None:
    segmenter = make_segmenter(architecture, DEVICE)
    assert segmenter.model.device.type == DEVICE
    labels = label_maps(segmenter)
    assert len(np.unique(labels)) > 4
    assert (labels == label_maps(make_segmenter(architecture, "cpu"))).mean() >= 0.99


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("architecture", SYSTEMS)
def test_lower_precisions_give_nearly_the_same_labels(architecture: str, precision: str) -> None:
    lower, full = (label_maps(make_segmenter(architecture, DEVICE, name)) for name in (precision, "fp32"))
    assert (lower == full).mean() >= 0.95


def esc_net_losses(model: torch.nn.Module) -> dict[str, Tensor]:
    return model([
        {
            "image": torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(),
            "sem_seg": torch.from_numpy(scene.labels.astype(np.int64)) - FIRST_ROW,
            "vocabulary": WORDS,
        }
        for scene in scenes()[:2]
    ])  # fmt: skip


def word_losses(prompts: str, model: torch.nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    prompting = WordPrompting(prompts, words=2)
    labels = torch.stack([torch.from_numpy(scene.labels.astype(np.int64)) - FIRST_ROW for scene in scenes()[:2]])
    asked, _ = draw_words(labels, WORDS, prompting, model.mask_size)
    images = torch.stack([torch.from_numpy(scene.image) for scene in scenes()[:2]]).permute(0, 3, 1, 2)
    return question_losses(model, images.to(model.device), WORDS, asked, prompting, MaskLossWeights())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("architecture", "of"),
    [("ESCNet", esc_net_losses), *(("ClipGuidedSam", partial(word_losses, kind)) for kind in KINDS)],
)
def test_a_training_step_begins_with_the_loss_of_the_cpu(
    architecture: str, of: Callable[[torch.nn.Module], dict[str, Tensor]], precision: str
) -> None:
    losses = {}
    for device in ("cpu", DEVICE):
        cfg = make_config(architecture, device, precision, "MODEL.ESC.TRAIN_CLASSES", "0")
        model = make_segmenter(architecture, device, precision).model.train()
        optimizer = build_optimizer(cfg, model)
        before = [parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad]
        losses[device] = of(model)
        sum(losses[device].values()).backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert all(parameter.grad.isfinite().all() for parameter in trained if parameter.grad is not None)
        optimizer.step()
        assert any(not torch.equal(old, new) for old, new in zip(before, trained, strict=True))
        assert all(parameter.isfinite().all() for parameter in trained)
    assert losses["cpu"].keys() == losses[DEVICE].keys()
    for name, loss in losses["cpu"].items():
        assert losses[DEVICE][name].item() == pytest.approx(loss.item(), rel=0.01 if precision == "fp32" else 0.05)


def test_one_process_reduces_over_nccl(tmp_path: Path) -> None:
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        values = torch.arange(4.0, device=DEVICE)
        distributed.all_reduce(values)
        assert values.tolist() == [0.0, 1.0, 2.0, 3.0]
    finally:
        distributed.destroy_process_group()


@torch.no_grad()
@pytest.mark.parametrize(("precision", "share", "most"), [("fp32", 0.05, 1), ("bf16", 0.05, 1), ("fp32", 0.0, 0)])
def test_the_number_of_kept_classes_alone_is_waited_for(precision: str, share: float, most: int) -> None:
    model = make_segmenter("ESCNet", DEVICE, precision, "MODEL.ESC.KEEP_SHARE", str(share)).model
    pixels = torch.from_numpy(scenes()[0].image).permute(2, 0, 1).to(DEVICE)
    # What is computed once, words and windows, is there after an image.
    model.segment(model.encode(pixels), WORDS)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model.segment(model.encode(pixels), WORDS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in found if "synchronizing" in str(w.message)]
    assert len(waits) == most, waits


@torch.no_grad()
def test_the_model_can_be_compiled() -> None:
    model = make_segmenter("ESCNet", DEVICE).model
    features = model.encode(torch.from_numpy(scenes()[0].image).permute(2, 0, 1).contiguous())
    expected = model.segment(features, WORDS).logits
    compiled = torch.compile(model.segment)(features, WORDS).logits
    assert compiled.isfinite().all() and compiled.device == expected.device
    assert (compiled.argmax(dim=1) == expected.argmax(dim=1)).float().mean() >= 0.99
