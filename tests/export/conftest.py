"""An exported model that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from escnet import Segmenter
from escnet.export.comparison import made_pictures
from escnet.export.folder import export_folder

SAM_CLIP = Path(__file__).parents[2] / "configs" / "mojiscenes" / "sam_clip.yaml"


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return Segmenter.from_config(SAM_CLIP, "shipped:sam_clip", device="cpu")


@pytest.fixture(scope="session")
def exported(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "sam_clip"
    words = segmenter.vocabulary("cat, tree, house, sun")
    export_folder(segmenter, folder, made_pictures()[:2], words, 0.999, {"config": "sam_clip"}, print)
    return folder
