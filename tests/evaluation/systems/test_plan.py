"""Plans of comparisons: those that come with the project, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from escnet.config import ConfigError
from escnet.evaluation.protocols import ORDINARY, Protocol
from escnet.evaluation.systems.configurations import random_configuration, trained_configuration
from escnet.evaluation.systems.plan import CostPlan, PlanError, System, read_plan

ROOT = Path(__file__).parents[3]
MINI = str(ROOT / "configs/camvid/escnet.yaml")
PLAN = {
    "systems": [
        {"name": "first", "config": MINI, "options": {"MODEL.META_ARCHITECTURE": "DenseClip"}},
        {"name": "second, other", "config": MINI, "weights": "model.pth"},
    ],
    "data": [{"name": "a150", "role": "unseen"}, {"name": "camvid_val"}],
}


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes))
    return path


def test_a_plan_is_read_and_changed(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, costs={"words": 7, "picture_size": [30, 40]}))
    assert [data.name for data in plan.data] == ["ade20k_150_val", "camvid_val"]
    assert [data.role for data in plan.data] == ["unseen", ""]
    assert plan.costs == CostPlan("ade20k_150_val", words=7, picture_size=(30, 40))
    assert [data.name for data in plan.limited(3).data] == ["ade20k_150_val[:3]", "camvid_val[:3]"]
    (second,) = plan.only(["second, other"]).systems
    assert second.weights == "model.pth"
    assert [s.weights for s in plan.with_weights({"first": "x=1.pth"}).systems] == ["x=1.pth", "model.pth"]
    for change in (lambda: plan.only(["third"]), lambda: plan.with_weights({"third": "x"})):
        with pytest.raises(PlanError, match="no system 'third'; its systems are 'first', 'second, other'"):
            change()
    with pytest.raises(PlanError, match="at least one image"):
        plan.limited(0)
    with pytest.raises(PlanError, match=r"slice of ade20k_150_val\[:3\]"):
        plan.limited(3).limited(2)


def test_a_dataset_may_have_a_column_of_each_protocol(tmp_path: Path) -> None:
    oracle = {"name": "a150", "protocol": "oracle"}
    plan = read_plan(written(tmp_path, data=[{"name": "a150"}, oracle, oracle | {"prompts": "box"}])).limited(2)
    assert [data.column.key for data in plan.data] == [
        "ade20k_150_val[:2]", "ade20k_150_val[:2]@oracle", "ade20k_150_val[:2]@oracle-box",
    ]  # fmt: skip
    assert plan.data[0].column.protocol == ORDINARY and plan.data[1].column.protocol == Protocol("oracle")
    with pytest.raises(PlanError, match="names ade20k_150_val@oracle twice"):
        read_plan(written(tmp_path, data=[oracle, oracle]))


@pytest.mark.parametrize("name", ["mojiscenes", "full"])
def test_the_systems_of_the_plans_that_come_with_the_project_can_be_configured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = read_plan(f"configs/comparison/{name}.yaml")
    assert len(plan.systems) >= 6
    for system in plan.systems:
        cfg = random_configuration(system)
        assert cfg.MODEL.WEIGHTS == "random" and cfg.MODEL.SAM.WEIGHTS == cfg.MODEL.CLIP.WEIGHTS == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": []}, "'systems' has to be a list of at least one"),
        ({"data": None}, "'data' has to be a list"),
        ({"system": []}, "the key 'system', which is unknown; there are systems, data, costs"),
        ({"systems": ["x"]}, "system 1 is 'x'; it has to be of keys"),
        ({"systems": [{"name": "x"}]}, "system 1 needs either a 'config' or a 'model'"),
        ({"systems": [{"name": 1, "config": "x"}]}, "'name' is 1; it has to be a text"),
        ({"systems": [{"name": "x", "config": "x", "options": ["A", 1]}]}, "KEY: VALUE"),
        ({"systems": [{"name": n, "config": "x"} for n in ("a b", "a_b")]}, "names a_b twice"),
        ({"systems": [{"name": "..", "config": "x"}]}, "the name '..', which no folder can have"),
        ({"data": [{"name": "a150"}, {"name": "ade20k_150_val"}]}, "names ade20k_150_val twice"),
        ({"data": [{"name": "a150", "role": "novel"}]}, "the role of ade20k_150_val is 'novel'"),
        (
            {"data": [{"name": "a150", "protocol": "easy"}]},
            "ade20k_150_val: the protocol is 'easy'; choose",
        ),
        ({"data": [{"name": "a150", "prompts": "box"}]}, "ade20k_150_val: the prompts are 'box', but the ordinary"),
        ({"data": [{"name": "a150", "protocol": 1}]}, "'protocol' is 1; it has to be a text"),
        ({"costs": {"threads": 0}}, "threads has 0; it has to be a whole number of at least 1"),
        ({"costs": {"picture_size": 3}}, r"picture_size is 3; it has to be \[height, width\]"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=f"plan.yaml.*{message}"):
        read_plan(written(tmp_path, **changes))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    with pytest.raises(ConfigError, match=r"plan.yaml': there is no such file"):
        read_plan(path)
    path.write_text("systems: [")
    with pytest.raises(PlanError, match=r"plan.yaml: cannot be read"):
        read_plan(path)


def test_what_has_to_be_trained_needs_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = System("mine", MINI)
    with pytest.raises(PlanError, match=r"mine: ESCNet has to be trained.*--weights 'mine=PATH'"):
        trained_configuration(system)
    with pytest.raises(PlanError, match=r"mine: there is no file /no.pth"):
        trained_configuration(System("mine", MINI, "/no.pth"))
    monkeypatch.chdir(tmp_path)
    Path("1e5").write_bytes(b"")
    cfg = trained_configuration(System("mine", MINI, "1e5"))
    assert cfg.MODEL.WEIGHTS == "1e5"
    assert trained_configuration(System("free", MINI, options={"MODEL.META_ARCHITECTURE": "DenseClip"}))
    with pytest.raises(PlanError, match=r"mine: .*no key MODEL.X"):
        random_configuration(System("mine", MINI, options={"MODEL.X": 1}))
    with pytest.raises(PlanError, match="is GeneralizedRCNN, which segments nothing by words"):
        random_configuration(System("mine", MINI, options={"MODEL.META_ARCHITECTURE": "GeneralizedRCNN"}))


def test_further_options_are_of_random_weights_alone() -> None:
    system = System(
        "x", MINI, random_options={"MODEL.SAM_CLIP.SCORE": 0.0}, options={"MODEL.META_ARCHITECTURE": "DenseClip"}
    )
    assert trained_configuration(system).MODEL.SAM_CLIP.SCORE == 0.5
    assert random_configuration(system).MODEL.SAM_CLIP.SCORE == 0.0
