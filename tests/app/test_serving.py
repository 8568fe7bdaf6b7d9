"""The server: what it tells browsers, where it keeps uploads, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import socket
import urllib.request
from typing import Any

import pytest

from escnet.app.limits import Limits
from escnet.app.models import SHIPPED, LoadedModels
from escnet.app.page import UNEXPECTED, _answered
from escnet.app.serving import POLICY, OwnMachineOnly, serving


def test_every_answer_forbids_other_machines() -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"x"})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(OwnMachineOnly(app)({}, None, send))
    assert (b"a", b"b") in sent[0]["headers"]
    assert dict(sent[0]["headers"])[b"content-security-policy"] == POLICY.encode()
    assert sent[1] == {"type": "http.response.body", "body": b"x"}
    assert "http:" not in POLICY and "https:" not in POLICY


def test_errors_are_sentences_and_answers_are_numbered() -> None:
    def fail(error: Exception) -> Any:
        raise error

    first = _answered(lambda: fail(ValueError("cat.jpg:\n is no picture")))
    second = _answered(lambda: fail(RuntimeError("CUDA error at 0x7f")))
    third = _answered(lambda: {"status": "done"})
    assert first["error"] == "cat.jpg: is no picture"
    assert second["error"] == UNEXPECTED
    assert "error" not in third
    assert first["number"] < second["number"] < third["number"]


def test_it_serves_on_this_machine_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "before")
    models = LoadedModels(SHIPPED, "cpu")
    with serving(models, Limits()) as served:
        folder = os.environ["GRADIO_TEMP_DIR"]
        assert os.path.isdir(folder)
        assert served.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(served.url) as answer:
            assert answer.headers["content-security-policy"] == POLICY
            assert b"Commas separate classes" in answer.read()
    assert not os.path.exists(folder)
    assert os.environ["GRADIO_TEMP_DIR"] == "before"


def test_a_port_that_is_taken() -> None:
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(OSError, match=f"nothing can listen on 127.0.0.1, port {port}: it is taken"),
            serving(LoadedModels(SHIPPED, "cpu"), Limits(), port=port),
        ):
            pass
