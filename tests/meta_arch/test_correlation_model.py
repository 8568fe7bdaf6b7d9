"""Which classes a model looks at: by CLIP's maps, then by a first pass, then by their share of a region."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor

from escnet.config import ConfigError, load_config
from escnet.layers.class_choice import REGION, regional_shares
from escnet.meta_arch.correlation_model import CorrelationModel
from escnet.meta_arch.segmentation import Segmentation
from escnet.vocabulary import Vocabulary

CONFIG = Path(__file__).parents[2] / "configs" / "camvid" / "escnet.yaml"
WORDS = Vocabulary([f"thing {i}" for i in range(10)])
SYSTEMS = ("ESCNet", "CostAggregation")


def make_model(system: str, *options: object) -> CorrelationModel:
    torch.manual_seed(0)
    common = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.IMAGE_SIZE", "(48, 64)", "MODEL.ESC.WINDOW", "4"]
    common += ["MODEL.META_ARCHITECTURE", system, "MODEL.ESC.AUX_LOSS", "0.0"]
    model = build_model(load_config(CONFIG, [*common, *map(str, options)])).eval()
    for block in getattr(model, "blocks", ()):  # as after some training: the refined maps differ from the given ones
        torch.nn.init.normal_(block.fusion.change.weight, std=0.5)
    return model


@torch.no_grad()
def segment(model: CorrelationModel, words: Vocabulary = WORDS) -> Segmentation:
    image = torch.randint(0, 256, (3, 48, 64), generator=torch.Generator().manual_seed(1))
    return model.segment(model.encode(image), words)


def of_rows(rows: Tensor) -> Vocabulary:
    return Vocabulary([WORDS.names[row] for row in rows.tolist()])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.ESC.MAX_CLASSES", 10),
        ("MODEL.ESC.KEEP", 10),
        ("MODEL.ESC.MAX_CLASSES", 10, "MODEL.ESC.KEEP", 12),
        ("MODEL.ESC.MAX_CLASSES", 99, "MODEL.ESC.KEEP", 99, "MODEL.ESC.KEEP_SHARE", 0.9),
    ],
)
def test_keeping_all_is_not_choosing_at_all(system: str, options: tuple[object, ...]) -> None:
    everything, kept = segment(make_model(system)), segment(make_model(system, *options))
    assert torch.equal(kept.logits, everything.logits)
    assert kept.rows is None and kept.first_rows is None


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_first_choice_is_by_a_region_of_the_map_of_clip(system: str) -> None:
    model = make_model(system, "MODEL.ESC.MAX_CLASSES", 4)
    correlation = segment(make_model(system)).correlations[0]
    shares = regional_shares(correlation * model.logit_scale)
    result = segment(model)
    assert result.rows[0].tolist() == sorted(shares[0].topk(4).indices.tolist())
    torch.testing.assert_close(result.logits, segment(make_model(system), of_rows(result.rows[0])).logits)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("first_blocks", [0, 1])
def test_the_second_choice_is_by_the_first_pass(system: str, first_blocks: int) -> None:
    options = ("MODEL.ESC.MAX_CLASSES", 7, "MODEL.ESC.FIRST_BLOCKS", first_blocks)
    result = segment(make_model(system, *options, "MODEL.ESC.KEEP", 3))
    first = segment(make_model(system, *options))
    assert torch.equal(result.first_rows, first.rows)
    if system == "ESCNet" and first_blocks:
        logits, points = first.correlations[1] * make_model(system).logit_scale, 1
    else:
        logits, points = first.logits, 4
    best = regional_shares(logits, points)[0].topk(3).indices
    assert result.rows[0].tolist() == sorted(first.rows[0, best].tolist())
    torch.testing.assert_close(
        result.logits, segment(make_model(system), of_rows(result.rows[0])).logits, atol=1e-5, rtol=1e-4
    )


def test_as_many_are_kept_as_have_the_share() -> None:
    options, model = ("MODEL.ESC.FIRST_BLOCKS", 1), make_model("ESCNet")
    shares = regional_shares(segment(model).correlations[1] * model.logit_scale)[0]
    ranked = shares.sort(descending=True).values
    for count in (1, 3, 5):
        share = float(ranked[count - 1] + ranked[count]) / 2
        model = make_model("ESCNet", *options, "MODEL.ESC.KEEP", 6, "MODEL.ESC.KEEP_SHARE", share)
        assert segment(model).rows.shape == (1, count)
        least = make_model(
            "ESCNet", *options, "MODEL.ESC.KEEP", 6, "MODEL.ESC.KEEP_SHARE", share, "MODEL.ESC.KEEP_LEAST", 4
        )
        assert segment(least).rows.shape == (1, max(4, count))
    # Nothing has this much: the best is kept all the same.
    model = make_model("ESCNet", *options, "MODEL.ESC.KEEP", 6, "MODEL.ESC.KEEP_SHARE", 0.999)
    assert segment(model).rows[0].tolist() == [int(shares.argmax())]


def test_the_share_of_a_region_by_hand() -> None:
    logits = torch.full((1, 2, 4, 5), -50.0)
    logits[0, 0] = 0.0
    logits[0, 1, 1:3, 1] = 50.0  # two of nine cells
    torch.testing.assert_close(regional_shares(logits), torch.tensor([[1.0, 2 / 9]]))
    fine = logits.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(regional_shares(fine, points=4), torch.tensor([[1.0, 2 / 9]]))


def test_a_picture_smaller_than_a_region_is_one() -> None:
    assert REGION == 3
    logits = torch.randn(2, 3, 2, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(regional_shares(logits), logits.softmax(dim=1).mean(dim=(2, 3)))


def test_smoothed_maps_are_what_the_model_is_given() -> None:
    plain, smooth = segment(make_model("ESCNet")), segment(make_model("ESCNet", "MODEL.CLIP.SMOOTHING", 3))
    given, expected = plain.correlations[0], smooth.correlations[0]
    torch.testing.assert_close(expected[..., 2, 3], given[..., 1:4, 2:5].mean(dim=(2, 3)))
    torch.testing.assert_close(expected[..., 0, 0], given[..., :2, :2].mean(dim=(2, 3)))
    torch.testing.assert_close(expected[..., -1, 1], given[..., -2:, :3].mean(dim=(2, 3)))


def test_squares_without_a_middle_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"MODEL.CLIP.SMOOTHING is 2; it has to be odd"):
        make_model("ESCNet", "MODEL.CLIP.SMOOTHING", 2)


def test_a_first_pass_of_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MODEL.ESC.FIRST_BLOCKS is 9, but there are 2 blocks"):
        make_model("ESCNet", "MODEL.ESC.FIRST_BLOCKS", 9)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("options", [(), ("MODEL.ESC.TRAIN_CLASSES", 4, "MODEL.ESC.CHECKPOINT", True)])
def test_gradients_reach_what_is_trained(system: str, options: tuple[object, ...]) -> None:
    model = make_model(system, "MODEL.CLIP.TRAIN", "attention", "MODEL.ESC.KEEP", 2, *options).train()
    if system == "ESCNet":
        model.blocks[0].sam_block.layers[0].norm1.requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (2, 3, 48, 64), generator=generator)
    targets = torch.randint(-1, 3, (2, 48, 64), generator=generator)
    sum(model.losses(images, targets, WORDS).values()).backward()
    for name, parameter in model.named_parameters():
        is_moved = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert is_moved == parameter.requires_grad, name


def test_compiled_parts_answer_alike_and_no_further_vocabulary_is_compiled_for() -> None:
    torch._dynamo.reset()
    options = ("MODEL.ESC.CLASS_CHUNK", 0, "MODEL.ESC.NUM_BLOCKS", 1)
    plain, compiled = (make_model("CostAggregation", *options, "MODEL.COMPILE", own) for own in ("", "eager"))
    graphs = []
    for count in (4, 7, 10, 5):
        words = Vocabulary(WORDS.names[:count])
        torch.testing.assert_close(segment(compiled, words).logits, segment(plain, words).logits, atol=1e-5, rtol=1e-4)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    # The second size may show what does not depend on it.
    assert graphs[0] > 0 and graphs[1:] == [graphs[1]] * 3
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_an_unknown_compiler_is_refused() -> None:
    with pytest.raises(ValueError, match=r'MODEL.COMPILE is "gcc", but PyTorch has .*inductor'):
        make_model("ESCNet", "MODEL.COMPILE", "gcc")
