"""Serving the page: on one machine, with nothing fetched from or sent to any other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from escnet.app.limits import Limits
from escnet.app.models import LoadedModels
from escnet.app.page import VIEW, build_page

# A browser that is told so asks no other machine, whatever a library's page names. gradio compiles templates in it.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_FONTS = ["system-ui", "sans-serif"]
_CODE_FONTS = ["ui-monospace", "monospace"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AppMissingError(ImportError):
    """The packages of the page are not installed."""


@dataclass(frozen=True)
class Served:
    """A page that is being served.

    Attributes:
        url: where.
        wait: until it is closed, by Ctrl-C or a signal.
    """

    url: str
    wait: Callable[[], None]


class OwnMachineOnly:
    """Middleware: every answer forbids a browser to ask other machines."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def require_gradio() -> None:
    """See that gradio can be imported, and tell it to report nothing to its makers.

    Raises:
        AppMissingError: it is not installed.
    """
    # Read when gradio is imported, and by what it imports.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise AppMissingError(f"the page needs gradio ({error}): pip install 'escnet[app]'") from error


@contextmanager
def serving(models: LoadedModels, limits: Limits, host: str = "127.0.0.1", port: int | None = None) -> Iterator[Served]:
    """Serve the page while the block runs; its uploads are deleted with the end of it.

    Args:
        models: that it offers.
        limits: what it takes.
        host: the address on which it listens; 127.0.0.1 can be reached from this machine alone.
        port: of it; None for the first free one from 7860.

    Raises:
        AppMissingError: gradio is not installed.
        OSError: the port is taken.
    """
    require_gradio()
    import gradio as gr
    from starlette.middleware import Middleware

    from escnet.app.answering import Answering

    with tempfile.TemporaryDirectory(prefix="escnet_page_") as folder, _uploads_in(folder):
        page = build_page(Answering(models, limits))
        page.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=limits.upload_megabytes * 2**20,
                state_session_capacity=limits.sessions,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                mcp_server=False,
                pwa=False,
                ssr_mode=False,
                theme=gr.themes.Default(font=_FONTS, font_mono=_CODE_FONTS),
                css_paths=VIEW / "view.css",
                js=(VIEW / "taking.js").read_text(encoding="utf-8"),
                app_kwargs={"middleware": [Middleware(OwnMachineOnly)]},
            )
        except OSError as error:
            raise OSError(
                f"nothing can listen on {host}, port {port or '7860 or one of the next hundred'}: it is taken, or no "
                f"address of this machine; choose others with --host and --port"
            ) from error
        try:
            yield Served(url, page.block_thread)
        finally:
            page.close(verbose=False)


@contextmanager
def _uploads_in(folder: str) -> Iterator[None]:
    """Let gradio put its files into a folder, while the block runs."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
