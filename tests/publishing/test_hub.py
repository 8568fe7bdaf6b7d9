"""Models to the hub and back, against a server that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from escnet import Segmenter
from escnet.pretrained.deltas import tensors_sha256
from escnet.pretrained.files import WeightsError
from escnet.pretrained.hub import parse_reference
from escnet.publishing.found_models import find_model


@pytest.fixture
def pushed(hub: Any, tuned: Segmenter) -> Any:
    """The hub with the tuned model as "lab/street"."""
    tuned.push_to_hub("lab/street", token="hf_writer", card={"license": "apache-2.0"})
    return hub


def _is_same(ours: Segmenter, theirs: Segmenter) -> bool:
    return tensors_sha256(ours.model.state_dict()) == tensors_sha256(theirs.model.state_dict())


def test_there_and_back(pushed: Any, tuned: Segmenter) -> None:
    model = Segmenter.from_pretrained("hub:lab/street", device="cpu")
    assert _is_same(model, tuned)
    assert model.templates == "a picture of a {}"
    commit = pushed.repositories["lab/street"].branches["main"]
    assert model.source == f"hub:lab/street@{commit}"
    files = pushed.repositories["lab/street"].commits[commit]
    assert set(files) == {".gitattributes", "config.yaml", "model.safetensors", "escnet.json", "README.md"}
    assert "Segmenter.from_pretrained('hub:lab/street')" in files["README.md"].decode()
    # The large file went as one, not in the commit.
    assert list(pushed.large) == [hashlib.sha256(files["model.safetensors"]).hexdigest()]
    assert not pushed.repositories["lab/street"].private


def test_a_second_time_only_asks_whether_there_is_news(pushed: Any) -> None:
    find_model("hub:lab/street")
    pushed.log.clear()
    find_model("hub:lab/street")
    assert not [line for line in pushed.log if line.startswith("GET /lab")]


def test_revisions(pushed: Any, tuned: Segmenter) -> None:
    first = pushed.repositories["lab/street"].branches["main"]
    address = tuned.push_to_hub("lab/street", token="hf_writer", revision="v2", delta=True)
    second = pushed.repositories["lab/street"].branches["v2"]
    assert address.endswith(second) and first != second
    # The complete weights are not left beside the delta.
    assert "model.safetensors" not in pushed.repositories["lab/street"].commits[second]
    assert find_model("hub:lab/street").source.endswith(first)
    assert find_model("hub:lab/street@v2").source.endswith(second)
    assert find_model(f"hub:lab/street@{first}").source.endswith(first)
    assert _is_same(Segmenter.from_pretrained("hub:lab/street@v2", device="cpu"), tuned)
    with pytest.raises(WeightsError, match='hub:lab/street@v3: it has no revision "v3"'):
        find_model("hub:lab/street@v3")


def test_a_private_model_needs_a_token(hub: Any, tuned: Segmenter) -> None:
    tuned.push_to_hub("lab/secret", private=True, token="hf_writer")
    assert hub.repositories["lab/secret"].private
    with pytest.raises(WeightsError, match=r"no such repository at .*, or it is private: .* pass its token="):
        find_model("hub:lab/secret")
    assert find_model("hub:lab/secret", token="hf_reader").source.startswith("hub:lab/secret@")


@pytest.mark.parametrize(("token", "code"), [("hf_reader", 403), (None, 401)])
def test_only_who_may_writes(hub: Any, tuned: Segmenter, token: str | None, code: int) -> None:
    with pytest.raises(WeightsError, match=rf"hub:lab/street: .* refuses \({code}\); .* pass its token="):
        tuned.push_to_hub("lab/street", token=token)
    assert not hub.repositories


def test_a_download_that_breaks_off_goes_on_where_it_was(pushed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    pushed.cut = "model.safetensors"
    assert find_model("hub:lab/street").weights.is_file()
    ranges = [line.split("bytes=")[1] for line in pushed.log if "model.safetensors" in line and "bytes=" in line]
    size = len(next(iter(pushed.large.values())))
    # It may have taken less than was sent, but does not begin again.
    assert len(ranges) == 1 and 0 < int(ranges[0].rstrip("-")) <= size // 2


def test_another_file_than_was_published_is_refused(pushed: Any) -> None:
    repository = pushed.repositories["lab/street"]
    files = dict(repository.files("main")[1])
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"\x01"
    repository.commit("main", files)
    with pytest.raises(WeightsError, match=r"model\.safetensors: the SHA-256 is \w+, not \w+; it was changed"):
        find_model("hub:lab/street")


def test_a_configuration_that_cannot_be_used_costs_no_download_of_weights(pushed: Any) -> None:
    repository = pushed.repositories["lab/street"]
    files = dict(repository.files("main")[1])
    manifest = json.loads(files["escnet.json"])
    repository.commit("main", {**files, "escnet.json": json.dumps({**manifest, "format": 2}).encode()})
    with pytest.raises(WeightsError, match="format 2, but this escnet reads format 1: install a newer one"):
        find_model("hub:lab/street")
    assert not [line for line in pushed.log if line.startswith("GET") and "safetensors" in line]


def test_a_repository_of_something_else(hub: Any, pushed: Any) -> None:
    pushed.repositories["lab/street"].commit("main", {"pytorch_model.bin": b"..."})
    with pytest.raises(WeightsError, match="it is no model of escnet, since it has no such file"):
        find_model("hub:lab/street")


def test_without_a_network(pushed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = find_model("hub:lab/street")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert find_model("hub:lab/street").source == before.source
    with pytest.raises(WeightsError, match=r"hub:lab/other: http://127\.0\.0\.1:9 cannot be reached, and it was not"):
        find_model("hub:lab/other")


@pytest.mark.parametrize("name", ["hub:street", "hub:a/b/c", "hub:../b", "hub:a/b@", "hub:a/b@../../c", "hub:a/ b"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(WeightsError, match="is no model of the hub; write hub:owner/name"):
        parse_reference(name)


def test_nothing_of_the_hub_is_put_elsewhere(pushed: Any, tmp_path: Path) -> None:
    assert (tmp_path / "cache") in find_model("hub:lab/street").weights.parents
