"""How inputs are listed and cut into units, what is refused, and inputs that lie elsewhere."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from escnet.commands.label_corpus import main
from escnet.labelling.corpus.contents import keys_of
from escnet.labelling.corpus.inputs import list_input
from escnet.labelling.corpus.plan import alone_in, places, read_header, unit_at, units_of
from escnet.labelling.corpus.storage import patiently, read_url
from escnet.labelling.corpus.units import Unit
from escnet.labelling.corpus.verification import verify
from escnet.labelling.pictures import LabellingError

from .conftest import arguments, rows


@pytest.fixture
def elsewhere(pictures: Path) -> Iterator[str]:
    """Four of the pictures in fsspec's memory, beside what is none."""
    system = fsspec.filesystem("memory")
    for key in ("00.png", "01.png", "more.d/03.png", "02.png"):
        system.pipe_file(f"/bucket/set/{key}", (pictures / key).read_bytes())
    system.pipe_file("/bucket/set/notes.txt", b"none")
    system.pipe_file("/bucket/set/.hidden/04.png", b"none")
    yield "memory://bucket/set"
    system.rm("/bucket", recursive=True)


def test_a_folder_is_cut_in_the_order_of_its_listing(pictures: Path) -> None:
    units, digest, count = list_input(str(pictures), 16)
    assert [unit.count for unit in units] == [16, 16, 8] and count == 40
    keys = [key for unit in units for key in unit.keys]
    assert keys[:3] == ["00.png", "01.png", "02.png"] and keys[-1] == "more.d/39.png" and len(set(keys)) == 40
    assert [unit.name for unit in units] == ["000000/000000000", "000000/000000001", "000000/000000002"]
    assert list_input(str(pictures) + "/", 16).digest == digest


def test_the_digest_tells_names_and_sizes(pictures: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"12")
    digests = [list_input(str(tmp_path), 1).digest]
    (tmp_path / "b.png").write_bytes(b"123")
    digests.append(list_input(str(tmp_path), 1).digest)
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    digests.append(list_input(str(tmp_path), 1).digest)
    assert len(set(digests)) == 3


def test_archives_of_several_folders_have_labels_of_their_own(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            (tmp_path / folder / f"{number}.tar").write_bytes(b"")
    units = list_input(f"{tmp_path}/{{y,x}}/{{0..1}}.tar", 1).units
    assert [unit.label for unit in units] == ["y/0.tar", "y/1.tar", "x/0.tar", "x/1.tar"]
    assert [unit.label for unit in list_input(f"{tmp_path}/x/*.tar", 1).units] == ["0.tar", "1.tar"]
    assert [unit.label for unit in list_input(f"{tmp_path}/x/1.tar", 1).units] == ["1.tar"]


def test_row_groups_have_the_numbers_of_their_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"] * 5}), tmp_path / "t.parquet", row_group_size=2)
    listing = list_input(str(tmp_path / "t.parquet"), 1)
    assert [(unit.group, unit.first, unit.count) for unit in listing.units] == [(0, 0, 2), (1, 2, 2), (2, 4, 1)]
    assert [key for unit in listing.units for key in keys_of(unit)] == [f"t.parquet/{n}" for n in range(5)]
    assert listing.pictures == 5


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("nothing*.tar", "there is no such file"),
        ("{0..", "no such file|cannot be expanded"),
        ("a.txt", "has to be a folder"),
        ("{a.tar,a.tar}", "twice"),
        ("t.parquet", "has the columns name"),
        ("broken.parquet", "cannot be read as Parquet"),
        ("empty", "no image matches"),
    ],
)
def test_inputs_with_which_nothing_can_be_done(entry: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"name": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(LabellingError, match=told):
        list_input(f"{tmp_path}/{entry}", 1)


def test_a_prefix_elsewhere_is_labelled_as_a_folder_is(
    elsewhere: str, label: Callable[..., int], pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert label(elsewhere, output) == 0
    found = {row["key"]: row for row in rows(output)}
    assert list(found) == ["00.png", "01.png", "02.png", "more.d/03.png"]
    assert found["more.d/03.png"]["source"] == "memory://bucket/set/more.d/03.png"
    assert verify(output).faults == []
    local = tmp_path / "local"
    assert label(pictures, local) == 0
    same = {row["key"]: row["classes"] for row in rows(local)}
    assert all(row["classes"] == same[key] for key, row in found.items())


def test_archives_and_tables_elsewhere_are_fetched(
    elsewhere: str, label: Callable[..., int], pictures: Path, tmp_path: Path
) -> None:
    import tarfile

    system = fsspec.filesystem("memory")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        file.add(pictures / "00.png", "00.png")
    system.pipe_file("/bucket/s-0.tar", archive.getvalue())
    table = io.BytesIO()
    pq.write_table(pa.table({"path": ["set/00.png", "memory://bucket/set/01.png", "set/none.png"]}), table)
    system.pipe_file("/bucket/t.parquet", table.getvalue())
    assert label("memory://bucket/s-{0..0}.tar", tmp_path / "a") == 0
    assert label("memory://bucket/*.parquet", tmp_path / "b") == 1
    assert [row["key"] for row in rows(tmp_path / "a")] == ["s-0.tar/00"]
    assert [row["key"] for row in rows(tmp_path / "b")] == ["t.parquet/0", "t.parquet/1"]
    assert rows(tmp_path / "a")[0]["classes"] == rows(tmp_path / "b")[0]["classes"]
    assert verify(tmp_path / "a").faults == verify(tmp_path / "b").faults == []


def test_a_url_of_a_local_path_is_listed(pictures: Path) -> None:
    ours, theirs = list_input(str(pictures), 50), list_input(f"file://{pictures}", 50)
    assert sorted(ours.units[0].keys) == sorted(theirs.units[0].keys)


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_missing_package_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("s3://bucket/prefix", tmp_path / "out")) == 2
    told = capsys.readouterr().err
    assert "s3://bucket/prefix" in told and "pip install s3fs" in told
    with pytest.raises(LabellingError, match="a URL that fsspec knows"):
        list_input("foo://bucket/prefix", 1)
    with pytest.raises(LabellingError, match="has no image"):
        list_input("memory://nothing/here", 1)


def test_a_network_is_asked_again_but_not_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, asked = [], []
    monkeypatch.setattr("escnet.labelling.corpus.storage.time.sleep", waited.append)

    def third() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise OSError("reset by peer")
        return "here"

    assert patiently(third) == "here" and waited == [0.5, 2.0]
    with pytest.raises(FileNotFoundError):
        read_url("memory://bucket/none.png")
    assert len(waited) == 2


def test_a_plan_is_read_by_position(label: Callable[..., int], pictures: Path, tmp_path: Path) -> None:
    assert label(pictures, tmp_path / "out", "--samples-per-shard", "25") == 0
    header = read_header(tmp_path / "out")
    assert (header["units"], header["pictures"]) == (2, 40)
    units = list(units_of(tmp_path / "out"))
    assert [unit_at(tmp_path / "out", place.offset, place.length) for place in places(tmp_path / "out")] == units
    assert units == list_input(str(pictures), 25).units
    with pytest.raises(LabellingError, match="a line of the plan is damaged"):
        Unit.of_line("{}")


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX alone")
def test_names_that_are_no_text_are_labelled_too(label: Callable[..., int], pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = os.fsdecode(b"\xff.png")
    (folder / name).write_bytes((pictures / "00.png").read_bytes())
    assert label(folder, tmp_path / "out") == 0
    assert [row["key"] for row in rows(tmp_path / "out")] == ["\\xff.png"]
    assert verify(tmp_path / "out").faults == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"words": "cat, dog"}, "class_names was"),
        ({"options": ("--samples-per-shard", "3")}, "units was 20, is 14"),
        ({"options": ("--format", "webdataset")}, 'settings.format was "parquet", is "webdataset"'),
        ({"entry": "changed"}, "input_digest was"),
    ],
)
def test_another_command_is_refused_and_nothing_is_changed(
    changes: dict, told: str, label: Callable[..., int], pictures: Path, tmp_path: Path, capsys
) -> None:
    output = tmp_path / "out"
    assert label(pictures, output) == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"}
    entry = pictures
    if changes.get("entry"):
        entry = tmp_path / "changed"
        entry.mkdir()
        (entry / "x.png").write_bytes(b"x")
    words = {"words": changes["words"]} if "words" in changes else {}
    assert label(entry, output, *changes.get("options", ()), **words) == 2
    error = capsys.readouterr().err
    assert told in error and "--output" in error
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"}
    assert before == after


def test_other_weights_and_configuration_are_refused(
    label: Callable[..., int], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label(pictures, tmp_path / "out") == 0
    named = arguments(pictures, tmp_path / "out")
    assert main([*named, "MODEL.CLIP.SMOOTHING", "1"]) == 2
    assert "config.MODEL.CLIP.SMOOTHING was 3, is 1" in capsys.readouterr().err
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"x")
    assert main([*named, "MODEL.CLIP.WEIGHTS", str(weights)]) == 2
    assert "weights.MODEL.CLIP.WEIGHTS was" in capsys.readouterr().err


def test_two_commands_do_not_share_an_output(
    label: Callable[..., int], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone_in(tmp_path / "out"):
        assert label(pictures, tmp_path / "out") == 2
    assert "another command is labelling into it" in capsys.readouterr().err


def test_verification_finds_what_is_wrong(
    label: Callable[..., int], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert label(pictures, output, "--samples-per-shard", "10") == 0
    assert main(["--verify", "--output", str(output)]) == 0
    assert "each picture is there exactly once" in capsys.readouterr().out
    files = sorted((output / "labels").rglob("*.parquet"))
    # One unit lacks a picture, one has a picture twice, one is gone, and one belongs to nobody.
    pq.write_table(pq.read_table(files[0]).slice(1), files[0])
    table = pq.read_table(files[2])
    pq.write_table(pa.concat_tables([table.slice(0, 9), table.slice(0, 1)]), files[2])
    for file in (files[0], files[2]):
        path = output / "records" / "000000" / f"{file.stem}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"bytes": file.stat().st_size}))
    files[3].unlink()
    (files[0].parent / "000000009.parquet").write_bytes(b"")
    assert main(["--verify", "--output", str(output)]) == 1
    told = capsys.readouterr().out
    for words in (
        "has other bytes than its record says",
        "00.png is missing (1)",
        "is there 1 too often",
        "unit 3: is not finished, 10 pictures",
        "is of no unit of the plan",
        "not as it should be",
    ):
        assert words in told
    assert main(["--verify", "--output", str(tmp_path)]) == 2


def test_the_end_says_what_there_is(label: Callable[..., int], pictures: Path, tmp_path: Path, capsys) -> None:
    assert label(pictures, tmp_path / "out", "--samples-per-shard", "40") == 0
    told = capsys.readouterr()
    assert "40 labelled, 0 failed, in 1 of 1 units" in told.out and "images/s" in told.out
    assert "failed=0" in told.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (line,) = (tmp_path / "out" / "units.jsonl").read_text().splitlines()
    assert (
        json.loads(line)["bytes"]
        == manifest["bytes"]
        == np.sum([path.stat().st_size for path in (tmp_path / "out/labels").rglob("*.parquet")])
    )
