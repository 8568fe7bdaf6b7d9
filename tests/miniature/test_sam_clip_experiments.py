"""Experiments with the small SAM-CLIP: stages that follow each other, are shared, remembered and judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from escnet.config import load_config
from escnet.data.benchmarks import data_root
from escnet.meta_arch.parents import build_parent
from escnet.miniature import sam_clip_experiments, sam_clip_merging, sam_clip_tables
from escnet.miniature.examination import Examination, write_examination
from escnet.miniature.judging import at_size, judge
from escnet.miniature.replay import Replay, write_replay
from escnet.miniature.sam_clip_experiments import Chain, Laboratory
from escnet.miniature.sam_clip_merging import Average
from escnet.miniature.sam_clip_questions import QUESTIONS
from escnet.miniature.sam_clip_tables import LabelMap, Question, run_question, save_curves, write_up
from escnet.predictor import Segmenter
from escnet.pretrained.reading import read_weights
from escnet.pretrained.shipped import resolve_shipped

SHORT = (
    "SOLVER.MAX_ITER", "1", "DISTILL.CLIP.BATCH_SIZE", "2", "DISTILL.STATISTICS_IMAGES", "4", "MODEL.DEVICE", "cpu",
)  # fmt: skip
PLAIN = Chain("plain")
WITHOUT = Chain("without", stage2=("DISTILL.SAM.SHARDS", "()"))
QUESTION = Question("replay", "?", (PLAIN, WITHOUT), (48, 64))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_replay(root / "mojireplay", Replay(clip=4, sam=4, shards=2), workers=1)
    write_examination(root / "mojiexamination", Examination(words=4, objects=2), workers=1)
    return root


@pytest.fixture
def laboratory(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    return Laboratory(tmp_path, SHORT)


def cells_of(table: str) -> list[list[str]]:
    header, _, *rows = table.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *rows)]


def test_chains_share_what_they_have_in_common_and_are_remembered(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [laboratory.examine(chain, 0, QUESTION.sizes) for chain in QUESTION.chains]
    assert set(found[0]["accuracy"]) == set(found[0]["ap"]) == {"48", "64"}
    # One stage 1 and two stages 2.
    assert len(list(laboratory.output.glob("trainings/*/model_final.pth"))) == 3
    monkeypatch.setattr(sam_clip_experiments, "build_trainer", lambda cfg: pytest.fail("trained again"))
    assert [laboratory.examine(chain, 0, QUESTION.sizes) for chain in QUESTION.chains] == found
    columns, *cells = cells_of(write_up(QUESTION, laboratory, (0,)))
    assert columns == ["replay", "accuracy 48", "accuracy 64", "AP 48", "AP 64", "AP 128"]
    assert [row[0] for row in cells] == ["CLIP alone", "SAM alone", "plain", "without"]
    assert cells[0][3:] == ["", "", ""] and cells[1][1:5] == ["", "", "", ""] and cells[2][5] == ""
    assert float(cells[0][1]) > 50 and float(cells[1][5]) > 20
    save_curves(laboratory.output / "curves.png", QUESTION, laboratory, (0,))
    assert (laboratory.output / "curves.png").stat().st_size > 5000


def test_label_maps_have_options_of_their_own(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def evaluate(cfg, model):
        made.append((model.label_map, tuple(model.image_size)))
        return {name: {"sem_seg": {"mIoU": 10.0 * len(made)}} for name in cfg.DATASETS.TEST}

    monkeypatch.setattr(sam_clip_experiments, "evaluate_datasets", evaluate)
    maps = (
        LabelMap("one", ("MODEL.SAM_CLIP.IMAGE_SIZE", "(64, 64)")),
        LabelMap("both", ("MODEL.SAM_CLIP.LABEL_MAP", "both")),
    )
    alone = cells_of(write_up(Question("maps", "?", (PLAIN,), (), maps=maps), laboratory, (0,)))
    assert made == [("clip", (64, 64)), ("both", (128, 128))]
    assert alone == [["maps", "mIoU novel", "mIoU base"], ["one", "10.0", "10.0"], ["both", "20.0", "20.0"]]
    header, *_, row = cells_of(write_up(Question("maps", "?", (PLAIN,), (48,), maps=maps), laboratory, (0,)))
    assert (header[0], row[0]) == ("maps", "plain")
    assert (header[-4:], row[-4:]) == (
        ["mIoU novel, one", "mIoU novel, both", "mIoU base, one", "mIoU base, both"],
        ["10.0", "20.0", "10.0", "20.0"],
    )


def test_each_examination_has_rows_and_plots_of_its_own(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Laboratory, "examine", lambda self, row, seed, sizes, folder: {"accuracy": {"48": len(folder)}})
    question = Question("domains", "?", (PLAIN,), (48,), (("near", "abc"), ("far", "abcdef")))
    header, *rows = cells_of(write_up(question, laboratory, (0,)))
    assert header == ["domains", "accuracy 48"]
    assert [row[0] for row in rows] == [
        f"{a}: {b}" for a in ("near", "far") for b in ("CLIP alone", "SAM alone", "plain")
    ]
    assert [row[1] for row in rows] == ["3.0"] * 3 + ["6.0"] * 3
    drawn: list[float] = []

    def draw(axes, row, found):
        axes.plot([], label=row.name)
        drawn.extend(found[0].values())

    monkeypatch.setattr(sam_clip_tables, "_draw_line", draw)
    save_curves(laboratory.output / "curves.png", question, laboratory, (0,))
    assert drawn == [3] * 3 + [6] * 3
    assert Image.open(laboratory.output / "curves.png").size == (1100, 836)


def test_a_stage_begins_with_the_weights_of_the_one_before(laboratory: Laboratory) -> None:
    frozen = Chain("frozen", stage2=("SOLVER.BASE_LR", "1e-30", "DISTILL.SAM.SHARDS", "()"))
    last = torch.load(laboratory.train(frozen, 0), weights_only=True)["model"]
    first = torch.load(laboratory.train(Chain("first", stage2=None), 0), weights_only=True)["model"]
    assert all(torch.allclose(last[name], value, atol=1e-20, rtol=0) for name, value in first.items())


def test_a_changed_configuration_is_another_training(laboratory: Laboratory, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        text = Path(f"configs/mojiscenes/sam_clip_stage{number}.yaml").read_text()
        base = Path("configs/mojiscenes/sam_clip.yaml").resolve()
        (tmp_path / f"stage{number}.yaml").write_text(text.replace("sam_clip.yaml", str(base)))
    copies = replace(laboratory, config=f"{tmp_path}/{{}}.yaml")
    before = copies.folders(PLAIN, 0)
    assert [folder.name for folder in before] == [folder.name for folder in laboratory.folders(PLAIN, 0)]
    path = tmp_path / "stage2.yaml"
    path.write_text(path.read_text().replace("BASE_LR: 0.0015", "BASE_LR: 0.0016"))
    after = copies.folders(PLAIN, 0)
    assert after[0] == before[0] and after[1] != before[1]


def test_a_model_is_judged_as_it_was_trained(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    poolings = []
    monkeypatch.setattr(sam_clip_experiments, "judge", lambda model, *_: poolings.append(model.clip_head.pooling) or {})
    chain = Chain("mean", *[("MODEL.SAM_CLIP.POOLING", "mean")] * 2)
    laboratory.examine(chain, 0, QUESTION.sizes)
    assert poolings == ["mean"]


def test_parents_are_judged_by_what_they_can(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load_config("configs/mojiscenes/sam_clip.yaml", ["MODEL.DEVICE", "cpu"])
    clip, sam = (judge(build_parent(name, cfg), data / "mojiexamination", (48,)) for name in ("clip", "sam"))
    assert set(clip) == {"accuracy"} and clip["accuracy"][48] >= 50
    assert set(sam) == {"ap", "iou"} and sam["iou"][128] > 30


def test_a_model_has_another_size_only_meanwhile() -> None:
    cfg = load_config("configs/mojiscenes/sam_clip.yaml", ["MODEL.DEVICE", "cpu"])
    for model in (Segmenter.from_config(cfg).model, build_parent("clip", cfg)):
        before = model.image_size
        with at_size(model, 64):
            assert tuple(model.image_size) == (64, 64)
        assert model.image_size == before


def test_questions_are_known_by_name_and_their_chains_differ() -> None:
    for name, question in QUESTIONS.items():
        assert question.name == name
        assert len({row.name for row in question.chains}) == len(question.chains)
        chains = [row for row in question.chains if isinstance(row, Chain)]
        assert len({str(chain.stages()) for chain in chains}) == len(chains)


def test_averages_lie_between_sam_and_the_tuned_model(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = sorted((data_root() / "mojiexamination/objects").glob("*.jpg"))
    records = [{"file_name": str(path)} for path in pictures]
    monkeypatch.setattr(sam_clip_merging, "dataset_records", lambda name: records)
    tuned = WITHOUT.model(laboratory, 0).state_dict()
    ends = [Average(str(alpha), WITHOUT, alpha).model(laboratory, 0).state_dict() for alpha in (0, 1)]
    sam = read_weights(resolve_shipped("shipped:sam"))
    convolution = "patch_embed.proj.weight"
    assert torch.equal(ends[0][f"backbone.encoder.{convolution}"], sam[f"image_encoder.{convolution}"].float())
    assert all(torch.equal(ends[1][name], value) for name, value in tuned.items())
    assert all(torch.equal(ends[0][name], value) for name, value in tuned.items() if name.startswith("clip_head."))
    middle = Average("", WITHOUT, 0.5, by_importance=True).model(laboratory, 0).state_dict()
    name = "backbone.encoder.blocks.1.mlp.lin1.weight"
    low, high = torch.minimum(ends[0][name], ends[1][name]), torch.maximum(ends[0][name], ends[1][name])
    assert ((middle[name] >= low - 1e-6) & (middle[name] <= high + 1e-6)).all()
    assert not torch.allclose(middle[name], (low + high) / 2, atol=0, rtol=0)
    assert len({Average("", WITHOUT, alpha).identity(laboratory, 0) for alpha in (0.2, 0.3)}) == 2


def test_all_seeds_of_a_question_are_run(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, function, *arguments):
            from concurrent.futures import Future

            future: Future = Future()
            future.set_result(seen.append(arguments[2]))
            return future

    seen: list[int] = []
    monkeypatch.setattr(sam_clip_tables, "several_processes", Pool)
    assert sorted(run_question(QUESTION, laboratory, (3, 4), 1))[-1].startswith("2/2")
    assert seen == [3, 4]
