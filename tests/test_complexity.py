"""Parameters and FLOPs: the parts add up, and the FLOPs agree with a hand count and with torch's own counter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from escnet.complexity import ModelFlops, count, count_model, describe, whole_model
from escnet.config import add_escnet_config, load_config
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.pretrained.random_weights import random_weights
from escnet.vocabulary import Vocabulary

CONFIGS = Path(__file__).parents[1] / "configs"
VOCABULARY = Vocabulary([f"word {i}" for i in range(7)])
Counted = tuple[CfgNode, SegmentingModel, ModelFlops]


@pytest.fixture(scope="module")
def counted() -> Counted:
    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "camvid" / "escnet.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.CLIP.IMAGE_SIZE = "cpu", (64, 96)
    cfg.MODEL.ESC.NUM_BLOCKS = 1
    model = build_model(cfg).eval()
    return cfg, model, count_model(model, VOCABULARY, torch.randn(1, 3, 64, 96))


def test_parts_add_up(counted: Counted) -> None:
    _, model, flops = counted
    infos = describe(model, flops.by_module)
    whole = whole_model(model, flops.by_module)
    assert whole.parameters == sum(p.numel() for p in model.parameters()) == sum(i.parameters for i in infos)
    assert whole.flops == pytest.approx(flops.by_module[""]) == pytest.approx(sum(i.flops for i in infos))
    assert all(i.parameters >= 0 and i.flops >= 0 and i.trainable <= i.parameters for i in infos)
    rest = infos[-1]
    assert rest.parameters < 0.05 * whole.parameters
    assert rest.flops < 0.05 * whole.flops
    assert {"CLIP image encoder", "CLIP text encoder", "SAM blocks", "decoder"} < {i.name for i in infos}


def test_hand_count_of_the_projections(counted: Counted) -> None:
    cfg, model, flops = counted
    infos = describe(model, flops.by_module)
    info = next(i for i in infos if i.name == "projection, unification")
    cells, clip_dim, sam_dim = 8 * 12, 64, 64
    # A 1×1 convolution from CLIP's dimension to SAM's and one from SAM's to itself, once for all classes.
    assert info.flops == cfg.MODEL.ESC.NUM_BLOCKS * cells * (clip_dim * sam_dim + sam_dim * sam_dim)


def products_by_torch(model: SegmentingModel, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> FlopCounterMode:
    """What torch counts, of the words and of an image; a multiply-add is two."""
    model.clip_text.cache.clear()
    # Known once for all vocabularies, and not counted.
    model.clip_text.encode_empty(VOCABULARY.templates)
    # torch's counter does not see into fused attention.
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.segment(model.encode(image), VOCABULARY)
    return counter


def products(flops: ModelFlops) -> float:
    """What is counted and is a product of matrices, or a convolution."""
    others = ("layer_norm", "group_norm", "batch_norm", "upsample_bilinear2d")
    return flops.by_module[""] - sum(flops.by_operator[name] for name in others)


def test_no_product_is_missed(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model, flops = counted
    counter = products_by_torch(model, torch.randn(1, 3, 64, 96), monkeypatch)
    # k-means is left out on purpose.
    kmeans = sum(counter.get_flop_counts()["PseudoPromptGenerator"].values())
    assert products(flops) == pytest.approx((counter.get_total_flops() - kmeans) / 2, rel=0.002)


@pytest.mark.parametrize("most", [0, 3])
def test_no_product_of_words_in_sams_encoder_is_missed(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["MODEL.DEVICE", "cpu", "MODEL.GUIDED.MAX_WORDS", str(most)]
    cfg = load_config(CONFIGS / "mojiscenes/clip_guided_sam.yaml", options)
    model, image = build_model(random_weights(cfg)).eval(), torch.randn(1, 3, 64, 96)
    flops = count_model(model, VOCABULARY, image)
    counter = products_by_torch(model, image, monkeypatch)
    assert products(flops) == pytest.approx(counter.get_total_flops() / 2, rel=0.002)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((4, 3), (3, 5), 60),
        ((4, 3), (3,), 12),
        ((3,), (3, 5), 15),
        ((3,), (3,), 3),
        ((2, 4, 3), (3, 5), 120),
        ((4, 3), (2, 3, 5), 120),
        ((2, 1, 4, 3), (6, 3, 5), 720),
    ],
)
def test_products_of_matrices_and_vectors_are_counted(
    left: tuple[int, ...], right: tuple[int, ...], expected: int
) -> None:
    class Product(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ b

    assert count(Product(), torch.randn(left), torch.randn(right)).total() == expected


def test_attention_is_counted() -> None:
    class Attention(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return torch.baddbmm(F.scaled_dot_product_attention(q, k, v), q, k.transpose(1, 2)[..., :5])

    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 6, 8), torch.randn(2, 6, 5)
    assert count(Attention(), q, k, v).total() == 2 * 3 * 6 * (8 + 5) + 2 * 3 * 8 * 5
