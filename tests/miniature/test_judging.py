"""Judging on examinations of any origin: which words compete, and that their list decides it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from escnet.config import load_config
from escnet.data.errors import DatasetError
from escnet.data.examination_folder import CLASSES
from escnet.data.image_folders import write_classes
from escnet.meta_arch.clip import ClassifyingClip
from escnet.meta_arch.parents import build_parent
from escnet.miniature.examination import Examination, write_examination
from escnet.miniature.judging import judge
from escnet.miniature.world.classes import BASE, words


@pytest.fixture(scope="module")
def examination(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "examination"
    write_examination(root, Examination(words=8, objects=1), workers=1)
    return root


@pytest.fixture(scope="module")
def clip() -> ClassifyingClip:
    cfg = load_config("configs/mojiscenes/sam_clip.yaml", ["MODEL.DEVICE", "cpu"])
    return build_parent("clip", cfg)


def test_the_list_of_an_examination_says_which_words_compete(
    examination: Path, clip: ClassifyingClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    features = clip.text_features
    monkeypatch.setattr(
        clip, "text_features", lambda vocabulary: asked.append(vocabulary.names) or features(vocabulary)
    )
    before = judge(clip, examination, (64,))["accuracy"][64]
    assert len(asked[-1]) == 120 and before >= 50

    # Of other words, synonyms too, for the same folders, and one without pictures.
    root = tmp_path / "other"
    shutil.copytree(examination, root)
    names = [words()[word].name for word in BASE[:8]]
    write_classes(root / CLASSES, [*(f"{name}, {name} drawing" for name in names), "gravel"])
    judge(clip, root, (64,))
    assert asked[-1] == (*(f"{name}, {name} drawing" for name in names), "gravel")

    (root / CLASSES).unlink()
    judge(clip, root, (64,))
    assert sorted(asked[-1]) == sorted(names)


def test_a_missing_examination_is_told_with_the_scripts_that_make_them(clip: ClassifyingClip, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: has no words.*prepare_mojireplay.*prepare_regions"):
        judge(clip, tmp_path / "nowhere", (64,))
