"""Lists of shards, their index, and reading them: complete, damaged, foreign."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pytest

from escnet.data.shards.accounting import ShardError
from escnet.data.shards.batches import image_batches
from escnet.data.shards.index import INDEX, find_shards, read_index
from escnet.data.shards.indexing import index_folder
from escnet.data.shards.reading import read_shard


def names(sources: object) -> list[str]:
    return [Path(shard.url).name for shard in find_shards(sources)]


def test_folders_braces_and_lists_of_both(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures((2, 3, 1))
    assert (
        names(folder) == names(str(folder)) == names(f"{folder}/{{000..002}}.tar") == ["000.tar", "001.tar", "002.tar"]
    )
    assert names([f"{folder}/{{002,000}}.tar", folder / "001.tar"]) == ["002.tar", "000.tar", "001.tar"]
    shard = find_shards(folder)[1]
    assert shard == (str(folder / "001.tar"), 3, (folder / "001.tar").stat().st_size, "images")


def test_paths_may_be_relative(write_pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures((2,))
    monkeypatch.chdir(folder)
    assert names("000.tar") == names(".") == ["000.tar"]


def test_lists_that_cannot_be_used_are_refused(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures((1, 1))
    for sources, message in (
        ([], "no samples in the shards of an empty list"),
        (folder / "absent", "no such folder or shard"),
        (f"{folder}/{{000..007}}.tar", r"002\.tar: there is no such folder or shard"),
        (f"{folder}/{{000..", "no such folder|cannot be expanded"),
        ([folder, folder / "001.tar"], r"001\.tar: listed twice"),
        ("pipe:cat x.tar", "no such folder or shard"),
        ("pipe:curl http://nowhere/x.tar", "runs a command"),
        (str(folder / "000.tar") + "x", "no such folder or shard"),
    ):
        with pytest.raises(ShardError, match=message):
            find_shards(sources)
    (folder / "new.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"new\.tar: is not in .*index\.json; .*--index FOLDER"):
        find_shards(folder / "new.tar")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(format=2), "is of format 2"),
        (lambda index: index.update(kind="films"), "of the kind 'films'"),
        (lambda index: index.pop("shards"), "is not an index of shards"),
        (lambda index: index["shards"][0].update(name="../000.tar"), "is not the name of a shard"),
        (lambda index: index["shards"][0].update(name="pipe:000.tar"), "is not the name of a shard"),
        (lambda index: index["shards"][0].update(name="000.zip"), "is not the name of a shard"),
        (lambda index: index["shards"][0].update(samples=-1), "000.tar has -1 samples"),
        (lambda index: index["shards"][0].update(samples="9"), "has '9' samples"),
        (lambda index: index["shards"].append(index["shards"][0]), "lists a shard twice"),
    ],
)
def test_a_wrong_index_is_refused(
    write_pictures: Callable[..., Path], change: Callable[[dict], object], message: str
) -> None:
    folder = write_pictures((1,))
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ShardError, match=message):
        find_shards(folder)


def test_a_missing_or_damaged_index_is_refused_with_the_remedy(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures((1,))
    (folder / INDEX).write_text("{")
    with pytest.raises(ShardError, match=r"index\.json: is no JSON.*--index FOLDER"):
        find_shards(folder)
    (folder / INDEX).unlink()
    with pytest.raises(ShardError, match=r"index\.json: cannot be read \(No such file.*--index FOLDER"):
        find_shards(folder)


def test_foreign_shards_are_indexed(
    tmp_path: Path, picture: Callable[..., bytes], annotations: Callable[..., bytes], write_shard: Callable[..., None]
) -> None:
    image = picture(1)
    damaged, good = annotations([])[:-1], b'{"annotations": [1]}'
    samples = {"./sa_1": {"jpg": image, "json": damaged}, "sa_2": {"PNG": image, "json": good}}
    write_shard(tmp_path / "a.tar", samples)
    text = {"txt": b"text"}
    write_shard(tmp_path / "b.tar", {"x": {**text, "webp": image}, "only": text, "y": {"jpg.png": image}})
    write_shard(tmp_path / "c.tar", {"z": text})
    found = index_folder(tmp_path)
    assert [shard.samples for shard in found.shards] == [2, 1, 0] and found.kind == "masks" and not found.damaged
    assert found.others == {"txt": 3, "jpg.png": 1}
    assert names(tmp_path) == ["a.tar", "b.tar"]


def test_members_of_a_sample_need_not_stand_together(
    tmp_path: Path, picture: Callable[..., bytes], write_shard: Callable[..., None]
) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, {"x": {"png": picture(1)}, "y": {"png": picture(2)}})
    with tarfile.open(path, "a") as tar:
        for key in "xy":
            (tmp_path / "file").write_text(key)
            tar.add(tmp_path / "file", f"{key}.json")
    assert [(s.key, s.annotations) for s in read_shard(str(path), True).samples] == [("x", b"x"), ("y", b"y")]
    assert [s.annotations for s in read_shard(str(path), False).samples] == [None, None]


def test_a_compressed_shard_is_read(
    tmp_path: Path, picture: Callable[..., bytes], write_shard: Callable[..., None]
) -> None:
    write_shard(tmp_path / "plain" / "a.tar", {"x": {"png": picture(1)}})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "plain" / "a.tar").read_bytes()))
    index_folder(tmp_path)
    assert next(image_batches(tmp_path, batch_size=1, seed=0)).keys == ["x"]
    whole = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert read_shard(str(tmp_path / "a.tar.gz"), False).fault


def test_what_is_no_archive_and_what_has_no_images_is_told(tmp_path: Path, write_shard: Callable[..., None]) -> None:
    with pytest.raises(ShardError, match="no shards there"):
        index_folder(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    assert read_shard(str(tmp_path / "a.tar"), False).fault
    write_shard(tmp_path / "b.tar", {"x": {"txt": b"text"}})
    with pytest.raises(ShardError, match="no images in its 2 shards"):
        index_folder(tmp_path)


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs with curl")
def test_shards_are_read_from_a_server(write_pictures: Callable[..., Path]) -> None:
    folder = write_pictures((2, 3))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        try:
            assert list(read_index(url)) == ["000.tar", "001.tar"]
            local = [batch.keys for batch in islice(image_batches(folder, batch_size=5, seed=0), 2)]
            for sources in (url, url + "{000..001}.tar"):
                assert [batch.keys for batch in islice(image_batches(sources, batch_size=5, seed=0), 2)] == local
            with pytest.raises(ShardError, match=r"absent/index\.json: cannot be read"):
                find_shards(url + "absent/")
            with pytest.raises(ShardError, match=r"007\.tar: is not in"):
                find_shards(url + "007.tar")
            (folder / "001.tar").unlink()
            broken = next(image_batches(url, batch_size=5, seed=0)).broken
            assert len(broken) == 3 and "exit 22" in broken[0].reason
        finally:
            server.shutdown()
