"""Exported models that the tests of this folder share: the small SAM-CLIP, whose CLIP head is the fastest to export."""

from __future__ import annotations

from pathlib import Path

import pytest

from escnet import Segmenter, Vocabulary
from escnet.export.comparison import made_pictures
from escnet.export.folder import Check, ExportForm, export_folder

CONFIGS = Path(__file__).parents[2] / "configs" / "mojiscenes"


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return Segmenter.from_config(CONFIGS / "sam_clip.yaml", "shipped:sam_clip", device="cpu")


@pytest.fixture(scope="session")
def check() -> Check:
    return Check(made_pictures()[:2], Vocabulary(["cat", "tree", "house", "sun"], templates=["{}"]))


@pytest.fixture(scope="session")
def exported(segmenter: Segmenter, check: Check, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "sam_clip"
    export_folder(segmenter, folder, ExportForm(), check, {"config": "sam_clip"}, print)
    return folder
