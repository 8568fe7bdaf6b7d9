"""The page itself: what stands on it, and which question each of its events asks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escnet.app.answering import Answering
from escnet.app.examples import ATTRIBUTION, EXAMPLES
from escnet.command_line import one_line

if TYPE_CHECKING:
    import gradio

logger = logging.getLogger(__name__)

VIEW = Path(__file__).parent / "view"
UNEXPECTED = "the server failed at this, and its log says why; try another picture, or other words"
_numbers = itertools.count(1)


def build_page(answering: Answering, cache_seconds: int = 3600) -> gradio.Blocks:
    """Build the page; needs gradio.

    Args:
        answering: to whom its questions go.
        cache_seconds: after which an uploaded file is deleted.
    """
    import gradio as gr

    with gr.Blocks(title="escnet", analytics_enabled=False, delete_cache=(600, cache_seconds)) as page:
        gr.Markdown("# escnet\nA picture and words in, masks out; all on the machine that serves this page.")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = _picture(gr)
                words = gr.Textbox(
                    label="Words",
                    info='Commas separate classes, "|" separates synonyms: cat, grass, building|edifice',
                    lines=2,
                    elem_id="words",
                )
                background = gr.Textbox(
                    label="Background words", info='Their pixels become the class "background"', elem_id="background"
                )
                model = gr.Dropdown(
                    answering.models.names,
                    value=answering.models.names[0],
                    label="Model",
                    filterable=False,
                    elem_id="model",
                )
                run = gr.Button("Segment", variant="primary", elem_id="run")
                gr.Markdown("**Examples**")
                with gr.Row():
                    for example in EXAMPLES:
                        gr.Button(example.title, size="sm", min_width=80).click(
                            _chosen(example), None, [picture, words, background], api_visibility="private", queue=False
                        )
                gr.Markdown(ATTRIBUTION, elem_classes="escnet-note")
            with gr.Column(scale=3, min_width=300):
                view = _view(gr)
        with gr.Accordion("How the model came to it", open=False, elem_id="maps"):
            maps = gr.Button("Draw maps, prompts and blocks", size="sm", elem_id="draw-maps")
            sheet = gr.HTML(label="Maps", elem_id="sheet")
        _connect(gr, answering, [picture, words, background, model], view, run, maps, sheet)
        page.unload(_forgetting(gr, answering))
    return page


def _picture(gr: Any) -> gradio.Image:
    picture = gr.Image(
        label="Picture", sources=["upload", "clipboard", "webcam"], type="filepath", elem_id="picture", height=300
    )
    # gradio opens the file itself, and tells of a damaged one in its own words; what it has checked is that the path
    # is one of its uploads.
    picture.preprocess = _stored
    return picture


def _stored(payload: Any) -> tuple[Path, str] | None:
    """The path of an upload, and what its user calls it."""
    if payload is None or not payload.path:
        return None
    return Path(payload.path), Path(payload.orig_name or payload.path).name


def _view(gr: Any) -> gradio.HTML:
    return gr.HTML(
        None,
        html_template=(VIEW / "view.html").read_text(encoding="utf-8"),
        js_on_load=(VIEW / "view.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        label="Result",
        elem_id="view",
    )


def _connect(
    gr: Any,
    answering: Answering,
    inputs: list[gradio.blocks.Block],
    view: gradio.HTML,
    run: gradio.Button,
    maps: gradio.Button,
    sheet: gradio.HTML,
) -> None:
    """Connect events with questions. gradio recognises an event's data and the request by their annotations."""

    def segment(picture: Any, words: str, background: str, model: str, request: gr.Request) -> dict[str, Any]:
        return _answered(lambda: answering.segment(request.session_hash, picture, words or "", background or "", model))

    def pointed(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        sent = event._data if isinstance(event._data, dict) else {}
        if "mask" in sent:
            return _answered(lambda: answering.point_without_word(request.session_hash, sent["mask"]))
        return _answered(lambda: answering.point(request.session_hash, sent.get("prompts")))

    def wanted(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        sent = event._data if isinstance(event._data, dict) else {}
        return _answered(lambda: answering.file(request.session_hash, str(sent.get("kind"))))

    def drawn(request: gr.Request) -> str:
        answer = _answered(lambda: dict(zip(("url", "text"), answering.maps(request.session_hash), strict=True)))
        if "error" in answer:
            return f'<p role="alert">{escape(answer["error"])}</p>'
        text = escape(answer["text"], quote=True)
        return f'<div class="escnet-sheet" tabindex="0"><img alt="{text}" src="{answer["url"]}"></div>'

    # One at a time: they share a device, and one group is one queue.
    common = {"concurrency_id": "models", "concurrency_limit": 1, "api_visibility": "private"}
    for function in (segment, pointed, wanted, drawn):
        # Annotations are strings here, of a module that this file does not import at its head.
        function.__annotations__ = {
            name: {"gr.Request": gr.Request, "gr.EventData": gr.EventData}.get(kind, kind)
            for name, kind in function.__annotations__.items()
        }
    asked = [
        run.click(segment, inputs, view, **common),
        *(text.submit(segment, inputs, view, **common) for text in inputs[1:3]),
        view.pointed(pointed, None, view, show_progress="hidden", **common),
    ]
    for question in asked:
        # The maps are those of the answer before.
        question.then(lambda: "", None, sheet, queue=False, api_visibility="private")
    view.wanted(wanted, None, view, show_progress="hidden", **common)
    maps.click(drawn, None, sheet, **common)


def _answered(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer to a question, or the sentence that the command line would have said; each has a number of its own."""
    try:
        answer = question()
    except (ValueError, KeyError, OSError) as error:
        answer = {"error": one_line(error)}
    except Exception:
        logger.exception("the page failed at a question")
        answer = {"error": UNEXPECTED}
    return {**answer, "number": next(_numbers)}


def _chosen(example: Any) -> Callable[[], tuple[str, str, str]]:
    return lambda: (str(example.file), example.words, example.background)


def _forgetting(gr: Any, answering: Answering) -> Callable[..., None]:
    def forget(request: gr.Request) -> None:
        answering.sessions.forget(request.session_hash)

    forget.__annotations__ = {"request": gr.Request}
    return forget
