"""The tool that embeds shards: what CLIP itself would give, kept, continued and refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from escnet.data.shards.batches import image_batches
from escnet.data.shards.embeddings import read_embeddings, read_teacher
from escnet.data.shards.making import Making, make_shards
from escnet.data.shards.pictures import find_pictures
from escnet.data.shards.storing import Storing
from escnet.evaluation.runs.conditions import weights_sha256
from escnet.layers.pixels import PixelNormalisation
from escnet.pretrained.clip import build_clip

CLIP = ("--clip", "escnet-moji", "--weights", "shipped:clip")


@pytest.fixture
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tools/embed_teacher.py")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Five pictures in three shards."""
    generator = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        pixels = generator.integers(0, 256, (60, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    pictures = find_pictures([tmp_path / "pictures"], seed=0)
    make_shards(Making(pictures, tmp_path / "shards", 2, Storing(), 0))
    return tmp_path / "shards"


def run(tool: ModuleType, shards: Path, *arguments: object, clip: tuple[str, ...] = CLIP) -> int:
    return tool.main(["--shards", str(shards), *clip, "--device", "cpu", *map(str, arguments)])


@pytest.mark.parametrize("workers", [0, 2])
def test_embeddings_are_those_of_clip_for_what_the_stream_shows(
    tool: ModuleType, shards: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    assert run(tool, shards, "--workers", workers, "--batch-size", 1 + workers) == 0
    assert "5 images of 3 shards embedded, 0 are broken\n" in capsys.readouterr().out
    (batch,) = islice(image_batches(shards, batch_size=5, seed=0, sizes=(48,), embeddings="escnet-moji"), 1)
    clip, _ = build_clip("escnet-moji", "shipped:clip")
    with torch.no_grad():
        expected = F.normalize(clip.encode_image(PixelNormalisation()(batch.images.float())), dim=-1)
    assert torch.allclose(batch.embeddings, expected, atol=2e-3)
    assert torch.allclose(batch.embeddings.norm(dim=1), torch.ones(5), atol=1e-3)
    teacher = read_teacher(shards / "000000.escnet-moji.safetensors")
    assert teacher == ("escnet-moji", weights_sha256(clip.visual), 48, expected.shape[1])


def test_what_is_there_is_kept_and_the_rest_is_made(
    tool: ModuleType, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tool, shards)
    first, second = (shards / f"00000{number}.escnet-moji.safetensors" for number in (0, 1))
    before, written = read_embeddings(second), first.stat().st_mtime_ns
    second.unlink()
    assert run(tool, shards) == 0
    assert "2 images of 1 shards embedded, 0 are broken; 2 shards had their embeddings" in capsys.readouterr().out
    after = read_embeddings(second)
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert first.stat().st_mtime_ns == written


def test_another_teacher_of_that_name_is_refused_and_one_of_another_is_not(
    tool: ModuleType, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tool, shards)
    assert run(tool, shards, "--image-size", 32) == 2
    err = capsys.readouterr().err
    assert "000000.escnet-moji.safetensors: was made by escnet-moji (weights " in err and "32 px" in err
    assert run(tool, shards, clip=("--clip", "escnet-moji", "--weights", "")) == 2
    assert run(tool, shards, "--image-size", 32, "--teacher", "moji32") == 0
    assert read_teacher(shards / "000002.moji32.safetensors").image_size == 32


def test_random_weights_are_the_same_each_time(tool: ModuleType, shards: Path) -> None:
    random = ("--clip", "escnet-moji", "--weights", "")
    assert run(tool, shards, clip=random) == run(tool, shards, clip=random) == 0


def test_a_configuration_names_the_teacher_and_its_size(tool: ModuleType, shards: Path) -> None:
    assert run(tool, shards, clip=("--config-file", "configs/mojiscenes/sam_clip.yaml")) == 0
    assert read_teacher(shards / "000000.escnet-moji.safetensors").image_size == 48


def test_broken_images_are_named_and_have_no_embedding(
    tool: ModuleType, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shards / "000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert run(tool, shards) == 1
    out = capsys.readouterr().out
    assert "4 images of 3 shards embedded, 1 are broken" in out
    assert f"{path}, sample 2: only 1 of 2 samples can be read" in out
    assert len(read_embeddings(shards / "000000.escnet-moji.safetensors")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image-size", 50), "patch size"),
        (("--device", "gpu"), "no device of PyTorch"),
        (("--teacher", "a/b"), "cannot name a teacher"),
        (("--weights", "shipped:absent"), "absent"),
        (("--clip", "ViT-Z"), 'no CLIP model "ViT-Z"'),
    ],
)
def test_what_cannot_be_done_is_refused(
    tool: ModuleType, shards: Path, capsys: pytest.CaptureFixture[str], arguments: tuple, message: str
) -> None:
    assert run(tool, shards, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(shards.glob("*.safetensors"))


def test_missing_shards_are_refused(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tool, tmp_path / "absent") == 2
    assert "there is no such folder or shard" in capsys.readouterr().err


@pytest.mark.parametrize(
    "clip", [(), ("--clip", "x"), ("--clip", "x", "--weights", "", "--config-file", "y"), (*CLIP, "--batch-size", "0")]
)
def test_wrong_options_are_told(tool: ModuleType, tmp_path: Path, clip: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(tool, tmp_path, clip=clip)
    assert stop.value.code == 2
