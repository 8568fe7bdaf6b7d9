"""Distillation: losses of each teacher by hand, parts of a batch, resume bit for bit, broken samples, balances."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from escnet.config import load_config
from escnet.data.images import write_labels
from escnet.data.shards.accounting import BrokenSample, TooManyBrokenError
from escnet.data.shards.embeddings import Teacher as EmbeddingTeacher
from escnet.data.shards.embeddings import write_embeddings
from escnet.data.shards.making import Making, make_shards
from escnet.data.shards.pictures import find_pictures
from escnet.data.shards.reading import read_shard
from escnet.data.shards.storing import Storing
from escnet.data.simulated_prompts import exact_boxes
from escnet.evaluation.runs.conditions import weights_sha256
from escnet.losses.distillation import Standardisation
from escnet.training.tasks.build import build_trainer
from escnet.training.trainer import Trainer

CONFIGS = Path(__file__).parents[2] / "configs/mojiscenes"
STAGE2 = CONFIGS / "sam_clip_stage2.yaml"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with rectangles in it: 12 pictures with masks, in 2 shards, which serve both teachers."""
    root = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    for number in range(12):
        regions = np.zeros((64, 80), dtype=np.uint8)
        for region in (1, 2, 3):
            y, x = generator.integers(0, 40, 2)
            regions[y : y + 20, x : x + 24] = region
        pixels = generator.integers(0, 60, (64, 80, 3)) + 60 * regions[..., None]
        (root / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{number}.jpg")
        write_labels(root / "regions" / f"{number}.png", regions)
    pictures = find_pictures([root / "images"], 0)
    make_shards(Making(pictures, root / "masks", 6, Storing(str(root / "regions")), 0))
    return root / "masks"


@pytest.fixture
def make(shards: Path, tmp_path: Path) -> Callable[..., Trainer]:
    def trainer(*options: str, config: Path = STAGE2, output: str = "run") -> Trainer:
        cfg: CfgNode = load_config(
            config,
            [
                "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "''", "OUTPUT_DIR", str(tmp_path / output),
                "DISTILL.CLIP.SHARDS", f"('{shards}',)", "DISTILL.SAM.SHARDS", f"('{shards}',)",
                "DISTILL.CLIP.BATCH_SIZE", "4", "DISTILL.SAM.BATCH_SIZE", "2", "DISTILL.SAM.MASKS", "2",
                "DISTILL.CLIP.DENSE_WEIGHT", "0", "DISTILL.BALANCE", "none", "DISTILL.SAM.WEIGHT", "10.0",
                "DISTILL.STATISTICS_IMAGES", "8", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "4", *options,
            ],
        )  # fmt: skip
        return build_trainer(cfg)

    return trainer


def gradients(trainer: Trainer, batch: list) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    trainer.optimizer.zero_grad()
    losses = trainer.task.backward(batch, lambda loss: loss)
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return losses, found


def test_clips_loss_is_one_minus_the_cosine_with_the_teachers_feature(make: Callable[..., Trainer]) -> None:
    trainer = make()
    clip, _ = trainer.task.teachers
    batch = next(clip.batches(0))
    ((part, share),) = clip.parts(batch)
    loss = clip.loss(trainer.model, part)
    with torch.no_grad():
        pixels = batch.images.float()
        student = trainer.model.encode_pixels(pixels).of("clip").summary
        small = F.interpolate(pixels, (48, 48), mode="bilinear", align_corners=False, antialias=True)
        theirs = clip.clip.clip_image(clip.clip.normalise(small)).pooled
    assert share == 1.0
    assert loss.item() == pytest.approx((1 - F.cosine_similarity(student, theirs)).mean().item(), abs=1e-5)


def test_dense_features_are_taught_on_the_coarser_grid(make: Callable[..., Trainer]) -> None:
    plain, dense = (
        make("DISTILL.CLIP.SIZES", "(96,)"),
        make("DISTILL.CLIP.SIZES", "(96,)", "DISTILL.CLIP.DENSE_WEIGHT", "2"),
    )
    (clip, _), (both, _) = plain.task.teachers, dense.task.teachers
    ((part, _),) = clip.parts(next(clip.batches(0)))
    with torch.no_grad():
        pixels = part[0].float()
        student = dense.model.encode_pixels(pixels).of("clip").features
        small = F.interpolate(student, (6, 6), mode="bilinear", align_corners=False, antialias=True)
        theirs = both.clip.encode_all(pixels).dense
        expected = clip.loss(plain.model, part) + 2 * (1 - F.cosine_similarity(small, theirs, dim=1)).mean()
        assert both.loss(dense.model, part).item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_student_that_is_sam_has_nothing_to_learn_from_sam(make: Callable[..., Trainer]) -> None:
    trainer = make("DISTILL.SAM.ROUNDS", "3")
    _, sam = trainer.task.teachers
    for start in range(3):
        ((part, _),) = sam.parts(next(sam.batches(start)))
        assert sam.loss(trainer.model.eval(), part).item() == pytest.approx(0.0, abs=1e-4)


def test_the_box_of_a_prompt_is_around_its_mask_in_pixels_of_sams_input(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make("DISTILL.SAM.ROUNDS", "1")
    _, sam = trainer.task.teachers
    ((part, _),) = sam.parts(next(sam.batches(0)))
    asked: list[Tensor] = []
    answer = sam.sam.masks
    monkeypatch.setattr(sam.sam, "masks", lambda f, p, **kw: asked.append(p.boxes) or answer(f, p, **kw))
    sam.loss(trainer.model.eval(), part)
    (boxes,) = (boxes for boxes in asked if boxes is not None)
    masks = part.batch.masks.flatten(0, 1)[1::2]
    assert masks.shape[-1] < sam.sam.input_size
    assert (boxes - exact_boxes(masks, sam.sam.input_size)).abs().max() <= sam.prompting.box_limit + 1e-4
    assert boxes.max() > masks.shape[-1]


def test_each_teacher_has_its_own_weight(make: Callable[..., Trainer]) -> None:
    options = ("DISTILL.SAM.SIZES", "(64,)")
    once, tenfold = make("DISTILL.SAM.WEIGHT", "1", *options), make("DISTILL.SAM.WEIGHT", "10", *options)
    batch = next(once.task.batches(0))
    (first, _), (second, _) = gradients(once, batch), gradients(tenfold, batch)
    assert second["loss_sam"].item() == pytest.approx(10 * first["loss_sam"].item(), rel=1e-5)
    assert second["loss_clip"].item() == pytest.approx(first["loss_clip"].item())
    assert first["loss_sam"] > 0.01


@pytest.mark.parametrize(
    "options",
    [
        # SAM's prompts are drawn for each part anew, so that only CLIP's gradient is the same.
        ("DISTILL.SAM.SHARDS", "()"),
        ("DISTILL.BALANCE", "phi_s", "DISTILL.CLIP.DENSE_WEIGHT", "1"),
        ("DISTILL.BALANCE", "angle", "DISTILL.SAM.SIZES", "(64,)"),
    ],
)
def test_parts_of_a_batch_add_up_to_its_gradient(make: Callable[..., Trainer], options: tuple[str, ...]) -> None:
    whole, parts = make(*options), make(*options, "DISTILL.MICRO_BATCH", "1")
    for trainer in (whole, parts):
        trainer.task.start()
    batch = next(whole.task.batches(0))
    (losses, expected), (own_losses, found) = gradients(whole, batch), gradients(parts, batch)
    for name, loss in losses.items():
        assert own_losses[name].item() == pytest.approx(loss.item(), rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def test_the_whole_student_has_a_gradient_of_both(make: Callable[..., Trainer]) -> None:
    trainer = make("DISTILL.SAM.SIZES", "(96,)")
    _, found = gradients(trainer, next(trainer.task.batches(0)))
    parts = {name.split(".")[0] for name, gradient in found.items() if gradient.abs().max() > 0}
    assert parts == {"backbone", "clip_head", "mask_decoder"}


def test_head_probing_trains_the_head_alone(make: Callable[..., Trainer]) -> None:
    trainer = make("DISTILL.SAM.SHARDS", "()", config=CONFIGS / "sam_clip_stage1.yaml")
    _, found = gradients(trainer, next(trainer.task.batches(0)))
    assert {name.split(".")[0] for name in found} == {"clip_head"}


@pytest.mark.parametrize("balance", ["none", "phi_s"])
def test_a_resumed_training_ends_as_one_that_was_left_alone(make: Callable[..., Trainer], balance: str) -> None:
    options = ("DISTILL.BALANCE", balance, "DISTILL.SAM.SIZES", "(64, 96)", "SOLVER.CHECKPOINT_PERIOD", "2")
    whole = make(*options, output="whole")
    whole.resume_or_load(resume=False)
    whole.train()
    stopped = make(*options)
    stopped.resume_or_load(resume=False)
    stopped.max_iter = 2
    stopped.train()
    # What the first process knew is gone.
    resumed = make(*options)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    resumed.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    counts = [trainer.task.teachers[0].count for trainer in (whole, resumed)]
    assert counts[0].seen == counts[1].seen > 0


def test_a_checkpoint_of_other_teachers_is_refused(make: Callable[..., Trainer]) -> None:
    trainer = make("SOLVER.MAX_ITER", "1")
    trainer.resume_or_load(resume=False)
    trainer.train()
    alone = make("SOLVER.MAX_ITER", "2", "DISTILL.SAM.SHARDS", "()")
    with pytest.raises(Exception, match="teachers were clip, sam"):
        alone.resume_or_load(resume=True)


def test_other_numbers_of_workers_are_refused_since_images_would_come_in_another_order(
    make: Callable[..., Trainer],
) -> None:
    state = make().task.state_dict()
    with pytest.raises(ValueError, match="NUM_WORKERS"):
        make("DATALOADER.NUM_WORKERS", "2").task.load_state_dict(state)


@pytest.mark.parametrize("balance", ["phi_s", "angle"])
def test_balanced_teachers_see_their_own_spread_first(make: Callable[..., Trainer], balance: str) -> None:
    trainer = make("DISTILL.BALANCE", balance, "DISTILL.SAM.SIZES", "(64,)")
    trainer.resume_or_load(resume=False)
    clip, sam = trainer.task.teachers
    if balance == "phi_s":
        features = torch.cat([taught.summary for taught in clip._some_features()])
        expected = Standardisation.fit(features)
        torch.testing.assert_close(clip.distance.state["scale"], expected.scale)
        assert clip.distance(expected.mean.expand_as(features), features).mean().item() == pytest.approx(1.0, abs=0.2)
    assert sam.distance.is_prepared
    losses, _ = gradients(trainer, next(trainer.task.batches(0)))
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_too_many_broken_samples_stop_a_training(make: Callable[..., Trainer]) -> None:
    trainer = make("DISTILL.BROKEN_SHARE", "0.05")
    clip, _ = trainer.task.teachers
    clip.count.least = 1
    batch = next(trainer.task.batches(0))
    broken = batch[0]._replace(broken=[BrokenSample("masks/000000.tar", "3", "no picture")])
    with pytest.raises(TooManyBrokenError, match=r"000000\.tar, 3: no picture"):
        trainer.task.backward([broken, batch[1]], lambda loss: loss)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SEED", "7"),
        ("DISTILL.CLIP.SIZES", "(64,)"),
        ("DISTILL.SAM.SIZES", "(96,)"),
        ("DISTILL.SAM.MASKS", "3"),
        ("DISTILL.CLIP.BATCH_SIZE", "6"),
    ],
)
def test_a_training_whose_images_would_come_in_another_order_is_not_resumed(
    make: Callable[..., Trainer], key: str, value: str
) -> None:
    trainer = make("SOLVER.MAX_ITER", "1", "SEED", "3")
    trainer.resume_or_load(resume=False)
    trainer.train()
    other = make("SOLVER.MAX_ITER", "2", *(() if key == "SEED" else ("SEED", "3")), key, value)
    with pytest.raises(Exception, match=rf"{key} was .*, is {re.escape(value)}"):
        other.resume_or_load(resume=True)


def test_stored_embeddings_of_another_size_or_model_are_refused(shards: Path, make: Callable[..., Trainer]) -> None:
    options = ("DISTILL.SAM.SHARDS", "()", "DISTILL.CLIP.EMBEDDINGS", "own")
    trainer = make("DISTILL.SAM.SHARDS", "()")
    tower = trainer.task.teachers[0].clip.clip_image

    def store(weights: str) -> None:
        teacher = EmbeddingTeacher("own", weights, 48, tower.embed_dim)
        for path in sorted(shards.glob("*.tar")):
            keys = [sample.key for sample in read_shard(str(path), False).samples]
            stored = {key: torch.ones(tower.embed_dim) for key in keys}
            write_embeddings(path.with_suffix(".own.safetensors"), teacher, stored)

    store(weights_sha256(tower.visual))
    assert make(*options).task.teachers[0].clip is None
    with pytest.raises(ValueError, match=r"48 px.*TEACHER_SIZE"):
        make(*options, "DISTILL.CLIP.TEACHER_SIZE", "64")
    store("0" * 64)
    with pytest.raises(ValueError, match=r"weights 0000.*MODEL\.CLIP\.WEIGHTS"):
        make(*options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("DISTILL.CLIP.SHARDS", "()", "DISTILL.SAM.SHARDS", "()"), "no teacher has images"),
        (("DISTILL.BALANCE", "fair"), "fair"),
        (("TASK", "juggling"), "segmentation, promptable, distillation"),
        (
            ("DISTILL.CLIP.SHARDS", "('nowhere',)"),
            r"DISTILL\.CLIP\.SHARDS \(.*DETECTRON2_DATASETS.*nowhere: .*make_shards\.py.*prepare_mojireplay\.py",
        ),
        (("DISTILL.CLIP.SIZES", "(50,)"), "DISTILL.CLIP.SIZES.*8"),
        (("DISTILL.SAM.SIZES", "(100,)"), "DISTILL.SAM.SIZES.*8"),
        (("DISTILL.CLIP.SIZES", "()"), "DISTILL.CLIP.SIZES"),
        (("DISTILL.CLIP.SIZES", "(64, 64)"), "DISTILL.CLIP: image sizes"),
        (("DISTILL.CLIP.TEACHER_SIZE", "50"), "DISTILL.CLIP.TEACHER_SIZE is .50, 50.*8 pixels"),
        (("SOLVER.REFERENCE_WORLD_SIZE", "8"), "SOLVER.REFERENCE_WORLD_SIZE is 8.*set it to 0"),
        (("DISTILL.CLIP.EMBEDDINGS", "clip", "DISTILL.CLIP.DENSE_WEIGHT", "1"), "turn one of them off"),
        # Told before anything is read.
        (
            ("DISTILL.CLIP.EMBEDDINGS", "e", "DISTILL.CLIP.AUGMENT", "True", "MODEL.CLIP.WEIGHTS", "no.pth"),
            r"DISTILL\.CLIP\.EMBEDDINGS are of whole images.*set DISTILL\.CLIP\.AUGMENT to False",
        ),
    ],
)
def test_what_cannot_be_trained_with_is_refused(
    make: Callable[..., Trainer], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(*options)
