"""Training on words and masks: what is drawn, what is dropped and counted, and a run that resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor

from escnet.config import load_config
from escnet.data.label_spaces import label_spaces
from escnet.data.mappers import EvaluationMapper
from escnet.evaluation.oracle import OracleQuestions
from escnet.evaluation.protocols import Protocol
from escnet.ignore_label import IGNORE_LABEL
from escnet.losses.masks import MaskLossWeights, word_mask_loss
from escnet.meta_arch.interfaces import Prompts
from escnet.training.tasks.build import build_trainer
from escnet.training.tasks.word_masks import Question, WordPrompting, draw_prompts, draw_words
from escnet.vocabulary import Vocabulary

WORDS = Vocabulary(["cat", "grass", "car", "sky", "car"], allow_duplicates=True)


@pytest.fixture
def cfg(tiny_config: str, tmp_path: Path) -> CfgNode:
    """A tiny CLIP-Guided SAM that learns from the tiny world."""
    options = ["MODEL.META_ARCHITECTURE", "ClipGuidedSam", "TASK", "promptable", "OUTPUT_DIR", str(tmp_path / "out")]
    options += ["MODEL.GUIDED.CHECKPOINT", "False", "DATASETS.TEST", "()", "PROMPTABLE.WORDS", "3"]
    options += ["PROMPTABLE.NEGATIVES", "0.4", "PROMPTABLE.QUALITY_WEIGHT", "1.0"]
    return load_config(tiny_config, options)


def label_map() -> Tensor:
    """32 by 32: cat on the left, car on the right, one pixel of sky, an unlabelled row."""
    labels = torch.zeros(32, 32, dtype=torch.long)
    labels[:, 16:] = 2
    labels[5, 5] = 3
    labels[31] = IGNORE_LABEL
    return labels


def test_the_words_of_an_image_are_drawn_with_their_masks() -> None:
    torch.manual_seed(0)
    question, dropped = draw_words(label_map()[None], WORDS, WordPrompting(words=9), (16, 16))
    assert sorted(question.rows.tolist()) == [0, 2] and dropped == 1  # the sky covers no cell by half
    for row, target, valid in zip(question.rows.tolist(), question.targets, question.valid, strict=True):
        columns = slice(0, 8) if row == 0 else slice(8, 16)
        assert target[:15, columns].all() and target[:15].sum() == 15 * 8
        # Half of the last row of cells is labelled.
        assert valid.all()


def test_absent_words_have_empty_masks_and_no_other_name_of_what_is_there() -> None:
    torch.manual_seed(0)
    question, _ = draw_words(label_map()[None], WORDS, WordPrompting(words=9, negatives=0.999), (16, 16))
    assert question.rows.tolist() == [1]  # the second car is the first one's word
    assert not question.targets.any()
    share = []
    for seed in range(200):
        torch.manual_seed(seed)
        question, _ = draw_words(label_map()[None], WORDS, WordPrompting(words=1, negatives=0.3), (16, 16))
        share += [int(row == 1) for row in question.rows.tolist()]
    assert 0.2 < sum(share) / 200 < 0.4


def test_of_an_image_without_labels_nothing_is_asked() -> None:
    nothing = torch.full((1, 32, 32), IGNORE_LABEL)
    question, dropped = draw_words(nothing, WORDS, WordPrompting(words=2), (16, 16))
    assert len(question.rows) == dropped == 0


def test_prompts_are_on_the_masks_and_absent_words_are_asked_by_text() -> None:
    torch.manual_seed(0)
    targets = torch.zeros(3, 16, 16, dtype=torch.bool)
    targets[0, 2:5, 3:9] = targets[1, 10, 10] = True
    question = Question(torch.zeros(3).long(), torch.arange(3), targets, torch.ones_like(targets))
    found = {tuple(index.tolist()): given for index, given in draw_prompts(question, WordPrompting("points", 40), 128)}
    assert found[2,] is None
    points = found[0, 1].points
    cells = ((points + 0.5) / 8 - 0.5).round().long()
    for number in range(2):
        x, y = cells[number].unbind(dim=1)
        assert targets[number, y, x].all()
    assert len(set(map(tuple, cells[0].tolist()))) > 5
    boxes = dict((tuple(index.tolist()), given) for index, given in draw_prompts(question, WordPrompting("boxes"), 128))
    # Off by a tenth of their sides, but by no more than 2.5 pixels of 128.
    expected = torch.tensor([[3 * 8, 2 * 8, 9 * 8, 5 * 8], [80, 80, 88, 88]]) - 0.5
    assert (boxes[0, 1].boxes - expected).abs().max() <= 2.5
    assert not torch.equal(boxes[0, 1].boxes, expected)
    text = list(draw_prompts(question, WordPrompting("text"), 128))
    assert len(text) == 1 and text[0][1] is None and text[0][0].tolist() == [0, 1, 2]
    many = Question(*(part.repeat(30, *[1] * (part.dim() - 1)) for part in question))
    kinds = [given for _, given in draw_prompts(many, WordPrompting("mixed"), 128)]
    assert [type(given) for given in kinds] == [type(None), Prompts, Prompts]
    with pytest.raises(ValueError, match=r"PROMPTABLE\.PROMPTS is 'clicks'"):
        WordPrompting("clicks")


def by_hand(logits: list[float], target: list[int], valid: list[int]) -> dict[str, float]:
    """The terms from their definitions, pixel by pixel."""
    chosen = [(torch.tensor(z).sigmoid().item(), t) for z, t, v in zip(logits, target, valid, strict=True) if v]
    overlap, drawn, true = sum(p * t for p, t in chosen), sum(p for p, _ in chosen), sum(t for _, t in chosen)
    bce = [-torch.tensor(p if t else 1 - p).log().item() for p, t in chosen]
    hits = sum(1 for p, t in chosen if p > 0.5 and t)
    either = sum(1 for p, t in chosen if p > 0.5 or t)
    return {
        "bce": sum(bce) / len(chosen),
        "dice": 1 - (2 * overlap + 1) / (drawn + true + 1),
        "iou": 1 - (overlap + 1) / (drawn + true - overlap + 1),
        "quality": (0.7 - (hits / either if either else 0.0)) ** 2,
    }


@pytest.mark.parametrize("target", [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
def test_the_terms_of_the_loss_by_hand(target: list[int]) -> None:
    logits, valid = [1.5, -0.3, -0.8, 2.0], [1, 1, 1, 0]
    losses = word_mask_loss(
        torch.tensor([[logits]]), torch.tensor([0.7]), torch.tensor([[target]]).bool(), torch.tensor([[valid]]).bool(),
        MaskLossWeights(2.0, 1.0, 3.0, 0.5),
    )  # fmt: skip
    expected = by_hand(logits, target, valid)
    for name, weight in (("bce", 2.0), ("dice", 1.0), ("iou", 3.0), ("quality", 0.5)):
        assert losses[name].item() == pytest.approx(weight * expected[name], rel=1e-4, abs=1e-6)
    assert word_mask_loss(
        torch.zeros(1, 1, 2), torch.zeros(1), torch.zeros(1, 1, 2).bool(), torch.ones(1, 1, 2).bool(),
        MaskLossWeights(0, 0, 0, 0),
    ) == {}  # fmt: skip


def run(cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
    """Train; the final checkpoint."""
    trainer = build_trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)


@pytest.mark.parametrize("prompts", ["text", "points", "boxes", "mixed"])
def test_a_training_moves_what_is_to_learn_and_nothing_else(cfg: CfgNode, prompts: str) -> None:
    cfg.PROMPTABLE.PROMPTS = prompts
    trainer = build_trainer(cfg)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    learning = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    after = run(cfg)["model"]
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed <= learning
    for part in ("encoder.plain", "encoder.semantic", "mask_decoder", "prompt_encoder", "clip_image"):
        assert any(name.startswith(part) for name in changed)


def test_a_stopped_training_goes_on_to_the_same_end(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 4, 1
    whole = run(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    trainer = build_trainer(cfg)
    trainer.resume_or_load(resume=False)

    def stop() -> None:
        if trainer.iter == 2:
            raise KeyboardInterrupt

    trainer.after_step = lambda: (type(trainer).after_step(trainer), stop())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = run(cfg, resume=True)
    assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())
    assert resumed["trainer"]["task"] == whole["trainer"]["task"]
    assert whole["trainer"]["task"]["words"] > 0


def test_a_batch_whose_masks_all_vanish_is_no_crash(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    from escnet.training.tasks import word_masks

    drop = word_masks.draw_words
    monkeypatch.setattr(
        word_masks, "draw_words", lambda *args: (drop(*args)[0].take(torch.zeros(0, dtype=torch.long)), 3)
    )
    state = run(cfg)["trainer"]["task"]
    assert state == {"words": 0, "empty_masks": 9}


def test_models_that_take_no_words_are_refused(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "ESCNet"
    with pytest.raises(ValueError, match="TASK promptable asks for masks of words, and ESCNet does not answer"):
        build_trainer(cfg)


@pytest.mark.parametrize("prompts", ["text", "points", "boxes"])
def test_held_out_images_are_asked_as_in_training(cfg: CfgNode, prompts: str) -> None:
    cfg.LABELLED.IMAGES, cfg.LABELLED.VALIDATION, cfg.LABELLED.PERIOD = 3.0, 0.34, 1
    cfg.PROMPTABLE.PROMPTS = prompts
    task = build_trainer(cfg).task
    (record,) = task.split.validation
    score = task.validate()
    run(cfg)
    assert (Path(cfg.OUTPUT_DIR) / "labelled.json").is_file()
    assert (Path(cfg.OUTPUT_DIR) / "model_best.pth").is_file()
    # By hand, class by class.
    space = next(iter(label_spaces(cfg.DATASETS.TRAIN, cfg.INPUT.TEMPLATES, cfg.INPUT.CLASS_NAMES).values()))
    protocol = Protocol("oracle", {"text": "none", "points": "points", "boxes": "box"}[prompts])
    sample = EvaluationMapper({record["dataset"]: space}, with_truth=True)(record)
    (result,) = OracleQuestions(space, None, protocol)(task.model.eval(), [sample])
    hits = {}
    for truth, predicted, pixels in result.entries.tolist():
        for row in {truth, predicted}:
            common, either = hits.get(row, (0, 0))
            hits[row] = common + pixels * (truth == predicted), either + pixels
    hits.pop(space.vocabulary.num_classes, None)
    assert score == pytest.approx(100 * sum(c / e for c, e in hits.values()) / len(hits))
