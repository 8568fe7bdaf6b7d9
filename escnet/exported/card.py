"""card.json, which says what exported graphs are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CARD, TOKENIZER = "card.json", "tokenizer.json"
# Of the card's own form: another number is another form.
FORM = 2
# What is read of it.
_KEYS = ("kind", "graphs", "text", "words", "templates", "subtracts_empty", "choice")
# The kinds of graphs, which are the ends of their files' names.
KINDS = ONNX, PROGRAM = "onnx", "pt2"
# Of their weights.
PRECISIONS = FULL, HALF, INT8 = "fp32", "fp16", "int8"
# The one graph from images to labels, and where a model has words of its own, their place in the metadata of its file.
WHOLE = "model"
WORDS_KEY = "escnet.class_names"


class ExportedFilesError(ValueError):
    """Exported files that are missing, damaged or of another form; the message names the file."""


def read_card(folder: Path) -> dict[str, Any]:
    """What tools/export.py wrote of its graphs.

    Raises:
        ExportedFilesError: it, or a file that it names, is missing, or of another form.
    """
    path = folder / CARD
    remedy = "give the folder that tools/export.py wrote"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExportedFilesError(f"{path}: cannot be read ({type(error).__name__}); {remedy}") from None
    if not isinstance(card, dict) or card.get("form") != FORM:
        raise ExportedFilesError(f"{path}: is not a card of form {FORM}; {remedy}, of this version of escnet")
    missing = [key for key in _KEYS if key not in card]
    if missing:
        raise ExportedFilesError(f"{path}: has no {missing[0]}; {remedy}, as it was")
    files = [graph["file"] for graph in card["graphs"].values()]
    for file in (*files, *([TOKENIZER] if card["text"] else [])):
        if Path(file).name != file or not (folder / file).is_file():
            raise ExportedFilesError(f"{folder / file}: is named in {CARD}, but is not there; {remedy}, whole")
    return card
