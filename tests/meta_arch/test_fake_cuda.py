"""Every model on fake CUDA tensors: a tensor left on the CPU, or a wait for the device, is an error as on a card.

A fake tensor has a device, a shape and a type, but no numbers, so that no driver is needed. What depends on a tensor's
numbers cannot be computed: each place where the host would wait for the device shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode

from escnet.config import load_config
from escnet.losses.masks import MaskLossWeights
from escnet.meta_arch import correlation_model
from escnet.meta_arch.interfaces import Prompts, SegmentingModel
from escnet.training.tasks.word_masks import KINDS, WordPrompting, draw_prompts, draw_words, question_losses
from escnet.vocabulary import Vocabulary

CONFIG = Path(__file__).parents[2] / "configs/camvid/escnet.yaml"
WORDS = Vocabulary(["sky", "road", "tree", "car", "house"], background=["wall"])
SIZE = (48, 64)
WINDOWS = ("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "(48, 96)", "TEST.SLIDING.WINDOW", "(48, 64)")


def make_model(architecture: str, *opts: str) -> SegmentingModel:
    torch.manual_seed(0)
    options = ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", architecture, "MODEL.CLIP.IMAGE_SIZE", str(SIZE)]
    return build_model(load_config(CONFIG, [*options, "MODEL.ESC.WINDOW", "4", "MODEL.CLIP.TRAIN", "none", *opts]))


@contextmanager
def on_fake_cuda(model: SegmentingModel, dynamic: bool = False) -> Iterator[None]:
    """Within, all parameters and buffers of a model are fake CUDA tensors, and its words are embedded already.

    Args:
        dynamic: let shapes depend on numbers (nonzero, unique), which waits for the device.
    """
    features = model.clip_text.encode(WORDS)
    # What is computed once for a grid is made before, as in a model that has seen an image.
    with torch.no_grad():
        model.eval()([{"image": torch.zeros(3, *SIZE), "vocabulary": WORDS}])
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv() if dynamic else None):
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    fake = torch.empty_like(parameter, device="cuda")
                    module._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty_like(buffer, device="cuda")
        given = torch.empty_like(features, device="cuda")
        model.clip_text.encode, model.clip_text.encode_empty = lambda vocabulary: given, lambda templates: given[0]
        yield


@pytest.fixture(params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Autocast is switched off where there is no CUDA, unless PyTorch takes it to be there."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    return request.param


def image() -> Tensor:
    return torch.zeros(3, 60, 80, dtype=torch.uint8)


class CopiesFromTheHost(TorchDispatchMode):
    """The shapes of what is copied to the device, at each of which the host waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        source = args[-1] if function is torch.ops.aten.copy_.default else args[0] if args else None
        given = isinstance(source, Tensor) and source.device.type == "cpu" and source.dim() > 0
        if given and isinstance(result, Tensor) and result.device.type == "cuda":
            self.shapes.append(tuple(result.shape))
        return result


@pytest.mark.parametrize(
    ("architecture", "opts"),
    [
        ("ESCNet", ()),
        ("ESCNet", ("MODEL.ESC.MAX_CLASSES", "3", "MODEL.ESC.PASSES", "2", "MODEL.ESC.CLASS_CHUNK", "2")),
        ("ESCNet", ("MODEL.ESC.PROMPTS", "box", "MODEL.ESC.CLASS_MERGE", "per_class")),
        ("ESCNet", ("MODEL.ESC.SOFTMAX_AXIS", "space", "MODEL.SAM.INIT", "none", "MODEL.CLIP.DENSE", "value")),
        ("ESCNet", ("MODEL.ESC.MAX_CLASSES", "5", "MODEL.ESC.KEEP", "3", "MODEL.ESC.CLASS_POOL", "2")),
        ("ESCNet", ("MODEL.ESC.KEEP", "3", "MODEL.ESC.AGGREGATION", "parallel", "MODEL.CLIP.SMOOTHING", "3")),
        ("ESCNet", WINDOWS),
        ("CostAggregation", ("MODEL.ESC.AUX_LOSS", "0.0", "MODEL.ESC.KEEP", "3")),
        ("DenseClip", ()),
    ],
)  # fmt: skip
def test_an_image_is_segmented_without_a_wait(architecture: str, opts: tuple[str, ...], precision: str) -> None:
    model = make_model(architecture, "MODEL.PRECISION", precision, "TEST.FULL_SCORES", "True", *opts)
    with on_fake_cuda(model):
        (output,) = model([{"image": image(), "vocabulary": WORDS, "height": 60, "width": 80}])
        with CopiesFromTheHost() as copies:
            model.segment(model.encode(image()), WORDS)
    assert set(copies.shapes) <= {(1, 3, 60, 80)} and len(copies.shapes) <= 2  # with windows it is copied twice
    assert output["labels"].device.type == output["sem_seg"].device.type == "cuda"
    assert output["labels"].shape == (60, 80) and output["sem_seg"].shape == (6, 60, 80)


def test_the_number_of_kept_classes_alone_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("ESCNet", "MODEL.ESC.KEEP", "4", "MODEL.ESC.KEEP_SHARE", "0.1")
    inputs = [{"image": image(), "vocabulary": WORDS}] * 3
    with on_fake_cuda(model):
        with pytest.raises(DataDependentOutputException):
            model(inputs)
        monkeypatch.setattr(model, "_numbers", lambda shares: [2, 4, 2])
        outputs = model(inputs)
    assert [output["labels"].device.type for output in outputs] == ["cuda"] * 3


def test_clip_then_sam_waits_for_its_prompts_alone(precision: str) -> None:
    """How many objects there are is known to the device alone: that is its nature."""
    model = make_model("ClipThenSam", "MODEL.PRECISION", precision)
    with on_fake_cuda(model, dynamic=True), torch.no_grad():
        features = model.encode(image())
        assert features.sam[0].device.type == features.clip.dense.device.type == "cuda"
        masks = model._draw_masks(
            features.sam[0], torch.empty(3, 2, device="cuda"), torch.empty(3, 6, 8, dtype=torch.bool, device="cuda")
        )
    assert masks.device.type == "cuda" and masks.dtype == torch.float


SAM_CLIP = ("MODEL.SAM.WEIGHTS", "", "MODEL.SAM_CLIP.IMAGE_SIZE", str(SIZE), "MODEL.SAM_CLIP.HEAD_BLOCKS", "1")


def test_sam_clips_heads_answer_without_a_wait(precision: str) -> None:
    model = make_model("SamClip", "MODEL.PRECISION", precision, *SAM_CLIP)
    with on_fake_cuda(model), torch.no_grad():
        features = model.encode(image())
        segmented = model.segment(features, WORDS)
        masks = model.masks(features, Prompts.from_boxes(torch.empty(3, 4, device="cuda")))
        named = model.classify(features, WORDS)
    assert segmented.logits.device.type == masks.logits.device.type == named.device.type == "cuda"


def test_both_heads_wait_for_the_number_of_words_alone(precision: str) -> None:
    """How many words are seen is known to the device alone."""
    model = make_model("SamClip", "MODEL.PRECISION", precision, *SAM_CLIP)
    with on_fake_cuda(model, dynamic=True), torch.no_grad():
        embedding = model.encode(image()).of("sam").features
        masks = model.draw(embedding, torch.empty(3, 6, 8, device="cuda"), torch.empty(48, device="cuda"))
    assert masks.device.type == "cuda" and masks.dtype == torch.float


GUIDED = ("MODEL.SAM.WEIGHTS", "", "MODEL.GUIDED.CHECKPOINT", "False")


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("MODEL.GUIDED.MAX_WORDS", "3", "MODEL.GUIDED.WORD_CHUNK", "2", "MODEL.GUIDED.POINT_DRAWS", "2"),
        ("MODEL.GUIDED.SUBTRACT_EMPTY", "True"),
    ],
)
def test_clip_guided_sam_takes_its_random_numbers_from_the_host_alone(opts: tuple[str, ...], precision: str) -> None:
    """segment_anything's prompt encoder looks which points are none, which the device alone knows."""
    model = make_model("ClipGuidedSam", "MODEL.PRECISION", precision, *GUIDED, *opts)
    with on_fake_cuda(model, dynamic=True), torch.no_grad():
        features = model.encode(image())
        with CopiesFromTheHost() as copies:
            segmented = model.segment(features, WORDS)
        masks = model.word_masks(features, WORDS, (60, 80))
        prompts = Prompts.from_boxes(torch.empty(6, 4, device="cuda"))
        prompted = model.masks(features, prompts, WORDS)
    assert {shape[-1] for shape in copies.shapes} <= {5}  # K random numbers
    assert segmented.logits.device.type == masks.device.type == prompted.logits.device.type == "cuda"


@pytest.mark.parametrize("prompts", KINDS)
def test_a_word_is_learned_on_the_device_whatever_is_given_beside_it(prompts: str, precision: str) -> None:
    """Words, prompts and targets are drawn on the CPU, where the label maps are."""
    model = make_model("ClipGuidedSam", "MODEL.PRECISION", precision, *GUIDED)
    labels, prompting = torch.zeros(2, 48, 48, dtype=torch.long), WordPrompting(prompts)
    labels[:, :20] = 3
    asked, _ = draw_words(labels, WORDS, prompting, model.mask_size)
    drawn = list(draw_prompts(asked, prompting, model.input_size))
    with on_fake_cuda(model, dynamic=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr("escnet.training.tasks.word_masks.draw_prompts", lambda *_: drawn)
        images = torch.empty(2, 3, 48, 48, device="cuda")
        losses = question_losses(model.train(), images, WORDS, asked, prompting, MaskLossWeights())
    assert losses.keys() == {"bce", "dice", "iou"}
    assert {loss.device.type for loss in losses.values()} == {"cuda"}


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("MODEL.ESC.TRAIN_CLASSES", "3", "MODEL.ESC.AUX_LOSS", "0.4", "MODEL.ESC.LOSS", "ce_dice"),
        ("MODEL.ESC.LOSS", "bce", "MODEL.ESC.CHECKPOINT", "True", "MODEL.ESC.CLASS_CHUNK", "2"),
        ("MODEL.ESC.TRAIN_FIRST", "5", "MODEL.ESC.TRAIN_CLASSES", "3", "MODEL.ESC.AUX_LOSS", "0.4"),
    ],
)
def test_the_training_loss_does_not_wait(
    opts: tuple[str, ...], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = correlation_model.present_classes

    def present_classes(given: Tensor, classes: int) -> tuple[Tensor, int]:
        assert given.device.type == "cpu"  # where nothing has to be waited for
        with unset_fake_temporarily():
            return count(torch.stack([targets, targets]), classes)

    monkeypatch.setattr(correlation_model, "present_classes", present_classes)
    model = make_model("ESCNet", "MODEL.PRECISION", precision, *opts)
    targets = torch.arange(48 * 64).reshape(48, 64) % 6 - 1
    batch: list[dict[str, Any]] = [{"image": image()[:, :48, :64], "sem_seg": targets, "vocabulary": WORDS}] * 2
    with on_fake_cuda(model):
        model.train()
        losses = model(batch)
    # The backward pass needs the driver: the engine of autograd asks it for its streams.
    assert all(loss.device.type == "cuda" and loss.requires_grad for loss in losses.values())


def test_the_text_encoder_works_where_its_weights_are() -> None:
    model = make_model("DenseClip")
    tokens = model.clip_text.tokenize(WORDS)
    ends = tokens.argmax(dim=-1)
    with on_fake_cuda(model):
        embedded = model.clip_text._embed_chunk(tokens, ends)
    assert embedded.device.type == "cuda" and len(embedded) == len(tokens)


def test_a_tensor_left_behind_is_an_error() -> None:
    model = make_model("DenseClip")
    with on_fake_cuda(model):
        model.normalise.mean = torch.zeros(3, 1, 1, device="cpu").clone()
        with pytest.raises(RuntimeError, match=r"(?i)device"):
            model.encode(image())
