"""The oracle protocol: counts worked out by hand, what is asked for, prompts of the truth, and what is kept apart."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image

from escnet.config import load_config
from escnet.evaluation.oracle import asked_classes, class_masks, nearest, pair_entries, prompt_generator, words_of
from escnet.evaluation.protocols import ORDINARY, Column, Protocol
from escnet.evaluation.report.html_report import write_report
from escnet.evaluation.report.published import PUBLISHED
from escnet.evaluation.report.result_table import measured_row, write_table
from escnet.evaluation.runs.comparable import ComparisonError, paired_runs
from escnet.evaluation.runs.comparison import compare_runs
from escnet.evaluation.runs.conditions import model_identity
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.evaluation.runs.image_results import ImageResults, ResultsError
from escnet.evaluation.runs.run_folder import Run, read_run
from escnet.evaluation.zero_shot import ZeroShotTask, evaluate_run, evaluate_zero_shot
from escnet.meta_arch.interfaces import InferenceOptions, MaskPrediction, PromptableModel, SegmentingModel
from escnet.meta_arch.segmentation import Segmentation
from escnet.vocabulary import Vocabulary

MINI = Path(__file__).parents[2] / "configs/camvid/escnet.yaml"
ORACLE, POINTS, BOX = Protocol("oracle"), Protocol("oracle", "points"), Protocol("oracle", "box")
WORDS = ("sky", "road", "car", "never seen")
VOID = 255
# Of eight, as pictures and truth below are 2x4.
CELL = 256 * 256 // 8
TRUTH = {"a": [[0, 0, 1, VOID], [0, 0, 1, VOID]], "b": [[0, 0, 0, 0], [0, 2, 2, 0]]}
# The masks of a model by picture and word: of a, those of sky and road overlap, and sky's covers void.
MASKS = {
    "a": {"sky": [[1, 1, 0, 1], [0, 0, 0, 0]], "road": [[0, 1, 1, 0], [0, 0, 0, 0]]},
    "b": {"sky": [[1, 1, 1, 1], [1, 1, 1, 1]], "car": [[0, 0, 0, 0], [0, 0, 0, 0]]},
}


def grown(grid: Sequence[Sequence[int]], size: tuple[int, int] = (256, 256)) -> np.ndarray:
    grid = np.array(grid)
    return np.kron(grid, np.ones((size[0] // grid.shape[0], size[1] // grid.shape[1]), int))


class KnownMasks(SegmentingModel):
    """Gives `MASKS`; of which picture is seen by its red. It has one weight, and keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__(InferenceOptions((4, 4)))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def encode_pixels(self, pixels):
        raise NotImplementedError

    def encode(self, images):
        return "ab"[int(images[0, 0, 0])]

    def segment_features(self, features, vocabulary):
        """Of every picture the first word is everywhere."""
        logits = torch.zeros(1, len(vocabulary.rows), 2, 4)
        logits[:, 0] = 1
        return Segmentation(logits)

    def word_masks(self, features, vocabulary, size):
        self.asked.append((features, vocabulary.names))
        return torch.stack([torch.from_numpy(grown(MASKS[features][word], size) > 0) for word in vocabulary.names])


class Prompted(PromptableModel):
    """Fills boxes; around points, of which it keeps the last ones, the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.points: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.words: list[Vocabulary | None] = []

    input_size, mask_size = 128, (64, 64)

    def encode(self, images):
        return images[None, :, :1, :1].float()

    def masks(self, features, prompts, words=None, multimask=False):
        assert len(features) == len(prompts.labels) and not multimask
        self.words.append(words)
        self.points.append((prompts.points, prompts.labels))
        logits = torch.ones(len(features), 1, 64, 64)
        if prompts.boxes is not None:
            middle = 2 * torch.arange(64) + 0.5
            left, top, right, bottom = (side[:, None] for side in prompts.boxes.unbind(dim=1))
            inside = ((middle > left) & (middle < right))[:, None] & ((middle > top) & (middle < bottom))[:, :, None]
            logits = torch.where(inside[:, None], 1.0, -1.0)
        return MaskPrediction(logits, torch.ones(len(features), 1))


class Told(Prompted):
    """Wants to know what the objects are."""

    takes_words: ClassVar[bool] = True


@pytest.fixture
def cfg() -> CfgNode:
    return load_config(MINI, ["DATALOADER.NUM_WORKERS", "0"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The pictures of `TRUTH`, 32x64."""
    write_pictures(tmp_path / "own", TRUTH)
    return tmp_path / "own"


def write_pictures(root: Path, truths: dict[str, list[list[int]]]) -> None:
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number, (name, truth) in enumerate(truths.items()):
        Image.fromarray(grown(truth, (32, 64)).astype(np.uint8)).save(root / f"labels/{name}.png")
        Image.fromarray(np.full((32, 64, 3), number, np.uint8)).save(root / f"images/{name}.png")
    (root / "classes.txt").write_text("\n".join(WORDS) + "\n")


@pytest.fixture
def run(root: Path, cfg: CfgNode, tmp_path: Path) -> Run:
    return run_of(root, cfg, tmp_path / "out")


def run_of(root: Path, cfg: CfgNode, output: Path, protocol: Protocol = ORACLE) -> Run:
    return Run("Known", EvaluationData.load(f"folder:{root}", cfg, protocol), output)


def evaluate(run: Run, cfg: CfgNode, model: torch.nn.Module, batch_size: int = 1):
    return evaluate_run(run, cfg, model, model_identity(cfg, model), batch_size=batch_size)


def test_scores_by_hand(run: Run, cfg: CfgNode) -> None:
    model = KnownMasks()
    metrics = evaluate(run, cfg, model)
    # The class of no picture is not asked for, and each picture only for its own.
    assert model.asked == [("a", ("sky", "road")), ("b", ("sky", "car"))]
    # sky: in a 2 cells of 4, and 1 of void; in b all 6, and 2 of the car. road: 1 of 2, and 1 of the sky. car: nothing.
    ious = ((2 + 6) / (4 + 1 + 6 + 2), 1 / 3, 0.0)
    assert metrics.class_iou[:3] == pytest.approx(ious) and np.isnan(metrics.class_iou[3])
    assert metrics.miou == pytest.approx(sum(ious) / 3)
    assert metrics.mean_accuracy == pytest.approx((8 / 10 + 1 / 2 + 0) / 3)
    assert metrics.class_names == WORDS and metrics.scored is None
    assert np.isnan([metrics.miou_d2_2021, metrics.pixel_accuracy, metrics.fw_iou]).all()


def test_files_of_a_run(run: Run, cfg: CfgNode) -> None:
    evaluate(run, cfg, KnownMasks())
    assert run.folder.name.endswith("_own@oracle") and run.data.title.endswith("/own, oracle")
    assert {path.name for path in run.folder.iterdir()} == {
        "run.json", "images.0.jsonl", "metrics.json", "per_class.csv", "per_class.png", "confusions.csv",
    }  # fmt: skip
    first, second = (json.loads(line) for line in (run.folder / "images.0.jsonl").read_text().splitlines())
    outside = len(WORDS)
    assert (first["height"], first["width"]) == (256, 256)
    assert sorted(first["entries"]) == sorted(
        [[0, 0, 2 * CELL], [0, outside, 2 * CELL], [outside, 0, CELL],
         [1, 1, CELL], [1, outside, CELL], [outside, 1, CELL]]
    )  # fmt: skip
    assert sorted(second["entries"]) == sorted([[0, 0, 6 * CELL], [outside, 0, 2 * CELL], [2, outside, 2 * CELL]])
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert (metrics["images"], metrics["pairs"], metrics["ignored"]) == (2, 4, 0.0)
    assert metrics["fw_iou"] is None and len(metrics["classes"]) == 4 and "scored_classes" not in metrics
    assert "words_considered" not in metrics
    with open(run.folder / "confusions.csv") as file:
        confused = [(row["truth"], row["predicted"], int(row["pixels"])) for row in csv.DictReader(file)]
    assert confused[0] == ("(outside)", "sky", 3 * CELL) and ("car", "(outside)", 2 * CELL) in confused
    description = json.loads((run.folder / "run.json").read_text())
    assert description["conditions"]["protocol"] == {"name": "oracle", "prompts": "none", "size": [256, 256]}
    assert read_run(run.folder).protocol == ORACLE


def test_a_stopped_evaluation_ends_as_an_undisturbed_one(run: Run, root: Path, cfg: CfgNode, tmp_path: Path) -> None:
    expected = evaluate(run, cfg, KnownMasks()).to_dict()
    lines = (run.folder / "images.0.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "images.0.jsonl").write_text(lines[0] + lines[1][:20])
    again = KnownMasks()
    assert evaluate(run, cfg, again).to_dict() == expected and again.asked == [("b", ("sky", "car"))]
    together = run_of(root, cfg, tmp_path / "together")
    assert evaluate(together, cfg, KnownMasks(), batch_size=2).to_dict() == expected
    results = [{result.image: result.entries.tolist() for result in ImageResults(r.folder)} for r in (run, together)]
    assert results[0] == results[1]


def test_a_label_map_gives_each_word_its_pixels(run: Run, cfg: CfgNode) -> None:
    words = Vocabulary(["sky", "car"])
    labels = torch.tensor([[0, 1, 1, 0]])

    class Labels(KnownMasks):
        def segment_features(self, features, vocabulary):
            return Segmentation(100 * torch.nn.functional.one_hot(labels, 2).permute(2, 0, 1)[None].float())

    masks = SegmentingModel.word_masks(Labels(), None, words, (256, 256))
    assert masks.dtype == torch.bool and torch.equal(masks, torch.from_numpy(grown([[0, 1, 1, 0]]) == [[[0]], [[1]]]))

    class First(KnownMasks):
        word_masks = SegmentingModel.word_masks

    # The first word is everywhere: sky 4 of 8 and 6 of 8 cells.
    assert evaluate(run, cfg, First()).class_iou[:3] == pytest.approx((10 / 16, 0, 0))


# What is asked for


def test_what_is_lost_at_the_size_is_not_asked_for(cfg: CfgNode, tmp_path: Path) -> None:
    write_pictures(tmp_path / "own", TRUTH)
    truth = np.zeros((512, 512), np.uint8)
    truth[0, 0] = 1  # of each 2x2 the last is kept
    truth[1, 1] = 2
    assert asked_classes(nearest(truth, (256, 256)), Vocabulary(WORDS), None) == [0, 2]
    assert asked_classes(truth, Vocabulary(WORDS), None) == [0, 1, 2]


def test_nearest_takes_the_label_at_the_middle() -> None:
    labels = np.arange(10).reshape(2, 5).astype(np.uint16) + 65000
    small, numbers = nearest(labels, (3, 4)), torch.tensor(labels.astype(float))
    expected = torch.nn.functional.interpolate(numbers[None, None], (3, 4), mode="nearest-exact")
    assert np.array_equal(small, expected[0, 0].numpy()) and small.dtype == np.uint16
    assert np.array_equal(nearest(labels, (2, 5)), labels)


def test_neither_void_nor_background_words_nor_what_is_not_scored_is_asked_for() -> None:
    truth = np.array([[0, 1, 2, 3], [3, 4, VOID, 0]])
    with_background = Vocabulary(["a", "b", "c", "d"], background=["wall", "ground"])
    assert asked_classes(truth, with_background, None) == [0, 1, 2, 3]
    assert asked_classes(truth, with_background, (2, 5)) == [2, 3]


def test_words_keep_synonyms_and_templates_and_may_repeat() -> None:
    vocabulary = Vocabulary(["cat, kitten", "sea", "sea"], ["x"], ("a {}", "the {}"), allow_duplicates=True)
    words = words_of(vocabulary, [2, 0, 1])
    assert words.rows == (("sea",), ("cat", "kitten"), ("sea",)) and words.templates == vocabulary.templates
    assert words.background == ()


def test_entries_of_pairs() -> None:
    truth = np.array([[0, 0, 2]])
    masks = torch.tensor([[[True, False, True]], [[True, True, True]]])
    entries = pair_entries(masks, class_masks(truth, [0, 2]), [0, 2], Vocabulary(["a", "b", "c"]))
    assert sorted(entries.tolist()) == [[0, 0, 1], [0, 3, 1], [2, 2, 1], [3, 0, 1], [3, 2, 2]]


def test_a_picture_without_a_class_is_asked_nothing(cfg: CfgNode, tmp_path: Path) -> None:
    write_pictures(tmp_path / "own", TRUTH | {"c": [[VOID]]})
    run = run_of(tmp_path / "own", cfg, tmp_path / "out")
    model = KnownMasks()
    metrics = evaluate(run, cfg, model)
    assert len(model.asked) == 2 and metrics.class_iou[1] == pytest.approx(1 / 3)
    assert json.loads((run.folder / "metrics.json").read_text())["images"] == 3
    compare_runs(run.folder, run.folder, samples=2)
    write_pictures(tmp_path / "void", {"c": [[VOID]]})
    with pytest.raises(ResultsError, match="not one of 1 images has a class that could be asked for"):
        evaluate(run_of(tmp_path / "void", cfg, tmp_path / "out"), cfg, model)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (np.full((32, 64), 9, np.uint8), r"ids 9 in the truth: neither class ids \(0\.\.3\)"),
        (np.zeros((5, 5), np.uint8), "the truth is 5x5, but the image is 32x64"),
    ],
)
def test_truth_that_does_not_fit_names_both_files(run: Run, root: Path, cfg: CfgNode, truth, message) -> None:
    Image.fromarray(truth).save(root / "labels/b.png")
    with pytest.raises(ValueError, match=rf"images/b\.png.*labels/b\.png: {message}"):
        evaluate(run, cfg, KnownMasks())
    assert ImageResults(run.folder).images() == {"a"}


def test_masks_of_another_form_are_refused(run: Run, cfg: CfgNode) -> None:
    class Scores(KnownMasks):
        def word_masks(self, features, vocabulary, size):
            return super().word_masks(features, vocabulary, size).float()

    with pytest.raises(ValueError, match=r"Scores gives masks of shape \(2, 256, 256\) and type torch.float32"):
        evaluate(run, cfg, Scores())


# Prompts of the truth


@pytest.mark.parametrize("model", [Prompted, Told])
def test_boxes_of_the_truth(root: Path, cfg: CfgNode, tmp_path: Path, model) -> None:
    run, asked = run_of(root, cfg, tmp_path / "out", BOX), model()
    metrics = evaluate(run, cfg, asked)
    # In a the boxes are the classes. In b sky's box is everything: 6 cells of 8. Resizing rounds a corner off.
    assert metrics.class_iou[:3] == pytest.approx(((4 + 6) / (4 + 8), 1, 1), rel=1e-3)
    assert run.folder.name.endswith("@oracle-box") and run.data.title.endswith(", oracle, box")
    told = [None if words is None else words.names for words in asked.words]
    assert told == ([("sky", "road"), ("sky", "car")] if model.takes_words else [None, None])


def test_points_lie_on_the_truth_and_repeat(root: Path, cfg: CfgNode, tmp_path: Path) -> None:
    runs, models = [run_of(root, cfg, tmp_path / name, POINTS) for name in "xy"], [Prompted(), Prompted()]
    for run, model in zip(runs, models, strict=True):
        evaluate(run, cfg, model)
    for name, (points, labels), (again, _) in zip("ab", models[0].points, models[1].points, strict=True):
        assert points.shape == (2, 5, 2) and torch.equal(labels, torch.ones(2, 5)) and torch.equal(points, again)
        # Cells of 32x64 input pixels; indices begin in the middle of a pixel.
        column, row = ((points + 0.5) / torch.tensor([32.0, 64.0])).long().unbind(dim=-1)
        found = np.array(TRUTH[name])[row, column]
        assert np.array_equal(found, np.repeat([[0], [1 if name == "a" else 2]], 5, axis=1))


def test_random_numbers_depend_on_image_and_class_alone() -> None:
    drawn = {key: prompt_generator(*key).randint(1 << 30, size=4).tolist() for key in (("a", 1), ("a", 2), ("b", 1))}
    assert prompt_generator("a", 1).randint(1 << 30, size=4).tolist() == drawn["a", 1]
    assert len({tuple(numbers) for numbers in drawn.values()}) == 3


@pytest.mark.parametrize(
    ("model", "protocol", "message"),
    [
        (KnownMasks, POINTS, r"KnownMasks cannot draw masks from prompts \(points\), as the protocol 'oracle, points'"),
        (Prompted, ORACLE, "Prompted cannot segment by words, as the protocol 'oracle' asks"),
    ],
)
def test_a_model_that_cannot_answer_is_refused(root, cfg, tmp_path, model, protocol, message) -> None:
    run = run_of(root, cfg, tmp_path / "out", protocol)
    with pytest.raises(ValueError, match=message):
        evaluate(run, cfg, model())
    assert not run.folder.exists()


def test_prompts_are_of_whole_images(root: Path, cfg: CfgNode, tmp_path: Path) -> None:
    cfg.TEST.SLIDING.ENABLED = True
    with pytest.raises(ValueError, match=r"TEST\.SLIDING\.ENABLED is True, but prompts \(box\)"):
        evaluate(run_of(root, cfg, tmp_path / "out", BOX), cfg, Prompted())


def test_a_system_is_looked_at_before_it_is_built(root: Path, cfg: CfgNode, tmp_path: Path) -> None:
    task = ZeroShotTask((f"folder:{root}",), tmp_path / "out", "mine", protocol=POINTS)
    cfg.MODEL.CLIP.WEIGHTS = "/no/such.pth"
    with pytest.raises(ValueError, match="ESCNet cannot draw masks from prompts"):
        evaluate_zero_shot(cfg, task)


@pytest.mark.parametrize(
    ("name", "prompts", "message"),
    [
        ("easy", "none", "the protocol is 'easy'; choose ordinary or oracle"),
        ("oracle", "line", "the prompts are 'line'; choose one of none, points, box"),
        ("ordinary", "box", "the prompts are 'box', but the ordinary protocol shows a model nothing"),
    ],
)
def test_protocols_that_do_not_exist(name: str, prompts: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Protocol(name, prompts)


# Kept apart from ordinary numbers


@pytest.fixture
def both(root: Path, run: Run, cfg: CfgNode) -> tuple[Run, Run]:
    """Finished runs of one model on one dataset under both protocols, in one output."""
    ordinary = run_of(root, cfg, run.output, ORDINARY)
    for each in (ordinary, run):
        evaluate(each, cfg, KnownMasks())
    return ordinary, run


def test_an_ordinary_run_says_nothing_of_protocols(both: tuple[Run, Run]) -> None:
    ordinary, _ = both
    assert "@" not in ordinary.folder.name and ordinary.data.key == ordinary.data.dataset
    assert "protocol" not in json.loads((ordinary.folder / "run.json").read_text())["conditions"]
    assert read_run(ordinary.folder).protocol == ORDINARY


def test_results_of_another_protocol_are_refused(both: tuple[Run, Run], cfg: CfgNode) -> None:
    ordinary, oracle = both
    (oracle.folder / "run.json").write_bytes((ordinary.folder / "run.json").read_bytes())
    with pytest.raises(ResultsError, match=r"has results of the protocol 'ordinary', not of 'oracle'; .*--restart"):
        evaluate(oracle, cfg, KnownMasks())


def test_a_table_of_both_names_the_oracle_and_keeps_papers_out(both: tuple[Run, Run]) -> None:
    ordinary, oracle = both
    dataset = ordinary.data.dataset
    columns = [Column(dataset), Column(dataset, ORACLE)]
    text = write_table(oracle.output, columns, [measured_row("Known", [ordinary, oracle])])
    assert f"{dataset}, oracle" in text.splitlines()[0]
    note = text.splitlines()[-1]
    assert note.startswith(f"{dataset}, oracle: each image was asked only") and "Not comparable" in note
    table = json.loads((oracle.output / "table.json").read_text())
    first, second = table["columns"]
    assert first == {"dataset": dataset, "short": dataset, "title": dataset}
    assert (second["key"], second["protocol"], second["prompts"]) == (f"{dataset}@oracle", "oracle", "none")
    (row,) = table["rows"]
    assert row["scores"][dataset]["miou"] != row["scores"][f"{dataset}@oracle"]["miou"]
    assert "protocol ordinary / oracle" in row["how"]
    with open(oracle.output / "table.csv") as file:
        assert [(line["dataset"], line["protocol"]) for line in csv.DictReader(file)] == [
            (dataset, "ordinary"), (dataset, "oracle"),
        ]  # fmt: skip
    page = write_report(oracle.output).read_text()
    assert note in page and "oracle mIoU</th>" in page and "pairs asked for</th><td>4<" in page
    assert page.count("Images with the lowest mIoU") == 1 and page.count("pixels ignored") == 1


def test_papers_are_in_no_oracle_table(run: Run, cfg: CfgNode) -> None:
    evaluate(run, cfg, KnownMasks())
    score = measured_row("Known", [run])
    score.scores["ade20k_150_val@oracle"] = score.scores.pop(run.data.key)
    text = write_table(run.output, [Column("ade20k_150_val", ORACLE)], [*PUBLISHED, score])
    assert "A-150, oracle" in text and "published" not in text
    for name in ("table.md", "table.csv", "table.json"):
        written = (run.output / name).read_text()
        assert "published" not in written and "oracle" in written
    assert (run.output / "table.md").read_text().startswith("Oracle mIoU in percent")
    page = write_report(run.output).read_text()
    assert "<h1>Zero-shot evaluation, oracle protocol</h1>" in page and "by other scores" not in page
    both = [Column("ade20k_150_val"), Column("ade20k_150_val", ORACLE)]
    line = next(line for line in write_table(run.output, both, [*PUBLISHED, score]).splitlines() if "CAT-Seg" in line)
    assert line.split()[-3:] == ["31.8", "-", "published"]


def test_runs_of_different_protocols_are_not_compared(both: tuple[Run, Run], tmp_path: Path) -> None:
    ordinary, oracle = both
    with pytest.raises(ComparisonError, match=r"the protocols differ: 'ordinary' in A .*'oracle' in B"):
        compare_runs(ordinary.folder, oracle.folder)
    pairs, alone = paired_runs(oracle.output, oracle.output)
    assert sorted(pairs) == sorted([(each.folder, each.folder) for each in both]) and not alone
    compared = compare_runs(oracle.folder, oracle.folder, samples=3)
    assert [score.name for score in compared.scores] == ["oracle mIoU"]
    assert [found.name for found in compared.classes] == list(WORDS)
    metrics = json.loads((oracle.folder / "metrics.json").read_text())
    assert compared.scores[0].a == pytest.approx(metrics["miou"], rel=1e-12)
    assert [found.images for found in compared.classes] == [2, 1, 1, 0]
