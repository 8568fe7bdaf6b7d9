"""The work and the memory of one image of each teacher's batch, counted on the modules of a configured distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import mean

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.data.shards.accounting import SampleCount
from escnet.losses.distillation import mask_distillation_loss
from escnet.meta_arch.clip import ClassifyingClip, clip_image_encoder
from escnet.meta_arch.interfaces import MaskPrediction, Prompts, resize
from escnet.meta_arch.sam import PromptableSam, predict_masks
from escnet.precision import AUTO, PRECISIONS
from escnet.pretrained.clip import build_clip
from escnet.pretrained.random_weights import random_weights
from escnet.pretrained.sam import build_sam
from escnet.training.estimation.counting import CPU, GPU, forward_flops, graph_bytes, on_fake_device, training_flops
from escnet.training.teachers.clip import ClipTeacher

Predict = Callable[[Tensor, Prompts, bool], MaskPrediction]


@dataclass(frozen=True)
class ImageCost:
    """What one image costs, as an average over a step's draws.

    Attributes:
        teacher: "CLIP" or "SAM".
        size: side of the student's image, in pixels.
        teacher_flops, forward, backward: FLOPs of the teacher, and of the student's two passes.
        graph: bytes held for the backward pass, for each image of a micro-batch.
        fixed: bytes held whatever the micro-batch, like weights in another precision.
    """

    teacher: str
    size: int
    teacher_flops: float
    forward: float
    backward: float
    graph: float
    fixed: float

    @property
    def flops(self) -> float:
        """All of it."""
        return self.teacher_flops + self.forward + self.backward


@dataclass(frozen=True)
class StageCost:
    """What a stage costs wherever it runs.

    Attributes:
        images: costs of one image, for each teacher and size.
        parameters: of student and teachers, in all.
        trained: those of the student that train.
        trained_tensors: in how many tensors.
    """

    images: tuple[ImageCost, ...]
    parameters: int
    trained: int
    trained_tensors: int

    def of(self, teacher: str) -> list[ImageCost]:
        """The sizes of one teacher."""
        return [cost for cost in self.images if cost.teacher == teacher]


def count_stage(cfg: CfgNode) -> StageCost:
    """Count a distillation; no weights, no images and no GPU are needed.

    Args:
        cfg: of a distillation; of `DISTILL`, the balance "none" alone is known here.

    Raises:
        ValueError: it is no distillation, no teacher has shards, they are balanced, or dense features are to be taught
            by stored embeddings.
    """
    if cfg.TASK != "distillation":
        raise ValueError(f"TASK is {cfg.TASK}; only a distillation can be estimated")
    if cfg.DISTILL.BALANCE != "none":
        raise ValueError(f"DISTILL.BALANCE is {cfg.DISTILL.BALANCE}; only none can be estimated")
    wanted = [teacher for teacher in ("CLIP", "SAM") if cfg.DISTILL[teacher].SHARDS]
    if not wanted:
        raise ValueError("no teacher has images: set DISTILL.CLIP.SHARDS, DISTILL.SAM.SHARDS or both")
    if cfg.DISTILL.CLIP.EMBEDDINGS and cfg.DISTILL.CLIP.DENSE_WEIGHT:
        raise ValueError("DISTILL.CLIP.EMBEDDINGS have no dense features (DISTILL.CLIP.DENSE_WEIGHT): turn one off")
    cfg = random_weights(cfg)
    cfg.MODEL.DEVICE = "cpu"
    student = build_model(cfg).to("meta").train()
    models = {teacher: _MODELS[teacher](cfg) for teacher in wanted}
    costs = [cost for teacher in wanted for cost in _COUNTERS[teacher](cfg, student, models[teacher])]
    trained = [parameter.numel() for parameter in student.parameters() if parameter.requires_grad]
    modules = [student, *(model for model in models.values() if model is not None)]
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    return StageCost(tuple(costs), parameters, sum(trained), len(trained))


def count_clip(cfg: CfgNode, student: nn.Module, clip: ClassifyingClip | None) -> Iterator[ImageCost]:
    """Cost of an image of the CLIP teacher, for each size.

    Args:
        cfg: the distillation.
        student, clip: without numbers; no teacher where its embeddings are stored.
    """
    own = cfg.DISTILL.CLIP

    def teacher(device: str) -> ClipTeacher:
        return ClipTeacher(iter, clip, torch.device(device), SampleCount(1.0), dense_weight=own.DENSE_WEIGHT)

    def loss(device: str, size: int, images: int) -> Tensor:
        stored = None if clip is not None else torch.zeros(images, student.clip_head.mlp[-1].out_features)
        return teacher(device).loss(student, (_images(device, size, images), stored))

    modules = [student] if clip is None else [student, clip]
    with on_fake_device(CPU, *modules):
        taught = 0 if clip is None else forward_flops(lambda: teacher(CPU).embed(_images(CPU, own.TEACHER_SIZE), None))
        flops = {size: training_flops(partial(loss, CPU, size, 1)) for size in own.SIZES}
    with on_fake_device(GPU, *modules, dtype=_dtype(cfg)):
        memory = {size: _memory(modules, partial(loss, GPU, size)) for size in own.SIZES}
    for size, (forward, backward) in flops.items():
        yield ImageCost("CLIP", size, taught, forward - taught, backward, *memory[size])


def count_sam(cfg: CfgNode, student: nn.Module, sam: PromptableSam) -> Iterator[ImageCost]:
    """Cost of an image of the SAM teacher with its masks, for each size; the mean over the numbers of rounds.

    Args:
        cfg: the distillation.
        student, sam: without numbers.
    """
    own = cfg.DISTILL.SAM
    for model in (student, sam.sam):
        _embed_points_by_shape(model.prompt_encoder)

    def student_masks(device: str, size: int, rounds: int, images: int) -> list[MaskPrediction]:
        pixels = resize(_images(device, sam.input_size, images), (size, size))
        embedding = student.encode_pixels(pixels).of("sam").features
        side = (sam.input_size, sam.input_size)
        return _answers(
            lambda features, prompts, several: predict_masks(student, features, prompts, several, side),
            embedding, own.MASKS, rounds,
        )  # fmt: skip

    def teacher_masks(device: str, rounds: int, images: int) -> list[MaskPrediction]:
        embedding = sam.encode(_images(device, sam.input_size, images))
        return _answers(
            lambda features, prompts, several: sam.masks(features, prompts, multimask=several),
            embedding, own.MASKS, rounds,
        )  # fmt: skip

    def loss(device: str, size: int, rounds: int, images: int) -> Tensor:
        answers = student_masks(device, size, rounds, images)
        losses = [
            mask_distillation_loss(answer.logits, torch.zeros_like(answer.logits), own.FOCAL_WEIGHT).mean()
            + answer.quality.square().mean()
            for answer in answers
        ]
        return torch.stack(losses).mean()

    numbers = range(1, own.ROUNDS + 1)
    with on_fake_device(CPU, student, sam):
        taught = mean(forward_flops(partial(teacher_masks, CPU, rounds, 1)) for rounds in numbers)
        flops = {
            size: [training_flops(partial(loss, CPU, size, rounds, 1)) for rounds in numbers] for size in own.SIZES
        }
    with on_fake_device(GPU, student, sam, dtype=_dtype(cfg)):
        memory = {size: _memory([student, sam], partial(loss, GPU, size, own.ROUNDS)) for size in own.SIZES}
    for size, passes in flops.items():
        forward, backward = (mean(values) for values in zip(*passes, strict=True))
        yield ImageCost("SAM", size, taught, forward, backward, *memory[size])


def clip_teacher(cfg: CfgNode) -> ClassifyingClip | None:
    """The CLIP teacher of a distillation, without numbers; None where its embeddings are stored."""
    own = cfg.DISTILL.CLIP
    if own.EMBEDDINGS:
        return None
    clip, _ = build_clip(cfg.MODEL.CLIP.NAME, "")
    side = (own.TEACHER_SIZE, own.TEACHER_SIZE)
    encoder = clip_image_encoder(clip.visual, cfg)
    return _frozen(ClassifyingClip(encoder, None, clip.logit_scale.exp().item(), side))


def sam_teacher(cfg: CfgNode) -> PromptableSam:
    """The SAM teacher of a distillation, without numbers."""
    return _frozen(PromptableSam(build_sam(cfg.MODEL.SAM.NAME, "")))


def _frozen(model: nn.Module) -> nn.Module:
    return model.to("meta").eval().requires_grad_(False)


def _dtype(cfg: CfgNode) -> torch.dtype | None:
    """Of autocast on the GPUs that are estimated, whatever device MODEL.DEVICE is; None for fp32."""
    return PRECISIONS["bf16" if cfg.MODEL.PRECISION == AUTO else cfg.MODEL.PRECISION]


def _images(device: str, size: int, images: int = 1) -> Tensor:
    return torch.zeros(images, 3, size, size, device=device)


def _answers(predict: Predict, embedding: Tensor, masks: int, rounds: int) -> list[MaskPrediction]:
    """What `simulate_prompts` asks of a model: every second mask by a point, the others by a box, then by clicks.

    Args:
        predict: the model's answer to prompts, ambiguous or not, for their features.
        embedding: (B, C, h, w).
        masks: of each image.
        rounds: of predictions.
    """
    owners = torch.arange(len(embedding), device=embedding.device).repeat_interleave(masks)
    asked = [(owners[0::2], Prompts(*_click(len(owners[0::2]), embedding.device)))]
    if len(owners) > 1:
        boxes = torch.zeros(len(owners[1::2]), 4, device=embedding.device)
        asked.append((owners[1::2], Prompts.from_boxes(boxes)))
    answers = []
    for rows, prompts in asked:
        is_ambiguous = prompts.boxes is None
        for number in range(rounds):
            if number:
                prompts = prompts.with_masks(answers[-1].likeliest().detach())
            if number > 1:  # the first of the later rounds stands for the one without a click
                points, labels = _click(len(rows), embedding.device)
                prompts = prompts.with_clicks(points[:, 0], labels[:, 0])
            answers.append(predict(embedding[rows], prompts, is_ambiguous and not number))
    return answers


def _click(prompts: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.zeros(prompts, 1, 2, device=device), torch.zeros(prompts, 1, device=device)


def _embed_points_by_shape(encoder: nn.Module) -> None:
    """Let a prompt encoder that is only counted embed all points alike: SAM's picks them by the values of labels."""

    def embed(points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        return encoder.pe_layer.forward_with_coords(F.pad(points, (0, 0, 0, int(pad))), encoder.input_image_size)

    encoder._embed_points = embed


def _memory(modules: list[nn.Module], loss: Callable[[int], Tensor]) -> tuple[float, float]:
    """Bytes that the graph of a loss of so many images holds: for each image, and in any case."""
    own = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    one, two = (graph_bytes(partial(loss, images), own) for images in (1, 2))
    return two - one, 2 * one - two


_MODELS: dict[str, Callable[[CfgNode], nn.Module | None]] = {"CLIP": clip_teacher, "SAM": sam_teacher}
_COUNTERS: dict[str, Callable[..., Iterator[ImageCost]]] = {"CLIP": count_clip, "SAM": count_sam}
