"""A folder of exported graphs, which is handed out whole and compared, or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

import escnet
from escnet.export.comparison import Agreement, compare
from escnet.export.files import write_onnx, write_program
from escnet.export.graphs import Graphs, graphs_of, prepare, trace
from escnet.export.precision import lower
from escnet.export.text import tokenizer_file
from escnet.export.whole import assemble
from escnet.exported.card import CARD, FORM, FULL, ONNX, PROGRAM, TOKENIZER, WHOLE, WORDS_KEY
from escnet.exported.narrowing import Choice
from escnet.exported.programs import ProgramSegmenter
from escnet.exported.segmenter import OnnxSegmenter
from escnet.predictor import Segmenter
from escnet.vocabulary import Vocabulary


class DisagreementError(ValueError):
    """The graphs do not say what the model says; nothing was handed out."""


@dataclass(frozen=True)
class ExportForm:
    """In which form a model is exported.

    Attributes:
        kind: "onnx", or "pt2" for programs of torch.export.
        precision: "fp32", "fp16" or "int8"; of programs the first alone.
        is_whole: one graph from images to labels, instead of one for each part.
        words: that are baked into it; None for words as its input.

    Raises:
        ValueError: what does not go together.
    """

    kind: str = ONNX
    precision: str = FULL
    is_whole: bool = False
    words: Vocabulary | None = None

    def __post_init__(self) -> None:
        if self.kind == PROGRAM and (self.is_whole or self.precision != FULL):
            raise ValueError("programs of torch.export are of fp32, and one for each part; leave the rest to ONNX")
        if self.words is not None and not self.is_whole:
            raise ValueError("words are baked into one graph: ask for a whole one")


@dataclass(frozen=True)
class Check:
    """By what graphs and model are compared.

    Attributes:
        pictures: (H, W, 3) uint8.
        words: of a form without words of its own.
        least_agreement: the share of pixels that must have the same label.
    """

    pictures: Sequence[np.ndarray]
    words: Vocabulary
    least_agreement: float = 0.999


def export_folder(
    segmenter: Segmenter,
    folder: Path,
    form: ExportForm,
    check: Check,
    made_of: dict[str, Any],
    report: Callable[[str], None],
) -> Agreement:
    """Write the graphs of a model, run them, and hand them out if they agree with PyTorch.

    Args:
        segmenter: with the model; it works on all classes at once afterwards.
        folder: that must not exist yet.
        form: of the graphs.
        check: by what they are compared.
        made_of: of the configuration and weights, for the card.
        report: is given a line of each step.

    Raises:
        DisagreementError: fewer pixels agree.
        FileExistsError: the folder is there already.
        NotExportableError: for a model without graphs.
    """
    if folder.exists():
        raise FileExistsError(f"{folder}: is there already; name a folder that is not, or remove it")
    prepare(segmenter.model)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    words = form.words or check.words
    try:
        temporary.mkdir(parents=True)
        card = _write(segmenter, temporary, form, made_of, report)
        opened = (OnnxSegmenter if form.kind == ONNX else ProgramSegmenter)(temporary)
        found = compare(opened, segmenter, check.pictures, words)
        if not found.labels >= check.least_agreement:
            raise DisagreementError(
                f"{folder}: not written, as only {found.labels:.3%} of the pixels of {found.pictures} pictures have "
                f"the label that PyTorch gives, and {check.least_agreement:.3%} are asked for; look at what the "
                "precision costs in docs/export.md, and ask for less if that is enough"
            )
        sizes = [list(picture.shape[:2]) for picture in check.pictures]
        card["agreement"] = found._asdict() | {"sizes": sizes, "words": list(words.class_names)}
        _write_card(temporary, card)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return found


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights, with their names, in order."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _write(
    segmenter: Segmenter, folder: Path, form: ExportForm, made_of: dict[str, Any], report: Callable[[str], None]
) -> dict:
    model = segmenter.model
    templates = Vocabulary(["word"], templates=segmenter.templates).templates
    graphs = graphs_of(model, templates)
    if form.words is not None:
        del graphs.parts["text"]
    else:
        (folder / TOKENIZER).write_text(tokenizer_file(model.clip_text.tokenizer), encoding="utf-8")
    files = {}
    for name, part in graphs.parts.items():
        program, path = trace(part), folder / f"{name}.{form.kind}"
        if form.kind == PROGRAM:
            write_program(program, path)
        else:
            write_onnx(part, program, path)
            lower(path, form.precision)
        files[name] = path
    if form.is_whole:
        files = {WHOLE: _put_together(segmenter, graphs, files, form)} | (
            {} if form.words is not None else {"text": files["text"]}
        )
    for path in files.values():
        report(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB")
    start, end = model.clip_text.tokenizer.all_special_ids[:2]
    own = form.words
    card = {
        "form": FORM,
        "kind": form.kind,
        "precision": form.precision,
        "system": type(model).__name__,
        **made_of,
        "weights_sha256": weights_hash(model),
        "image_size": list(model.inference.image_size),
        "templates": list(templates),
        "graphs": {name: {"file": path.name} | _interface(path, graphs, name) for name, path in files.items()},
        "text": None if own else {"context_length": model.clip_text.context_length, "start": start, "end": end},
        "words": own and {"names": own.names, "background": own.background, "templates": own.templates},
        "subtracts_empty": graphs.empty is not None,
        "choice": graphs.choice,
        "versions": {"escnet": escnet.__version__, "torch": torch.__version__}
        | {package: version(package) for package in ("onnx", "onnxscript", "onnxruntime", "tokenizers")},
    }
    _write_card(folder, card)
    return card


def _put_together(segmenter: Segmenter, graphs: Graphs, files: dict[str, Path], form: ExportForm) -> Path:
    """The graphs but for that of texts as one, whose file takes their place."""
    pieces = {name: onnx.load(path) for name, path in files.items() if name != "text"}
    text = None if form.words is None else segmenter.model.clip_text.encode(form.words).numpy()
    empty = None if graphs.empty is None else graphs.empty.numpy()
    dim = graphs.parts["segment"].others["text"].shape[1]
    classes = () if form.words is None else form.words.row_to_class
    whole = assemble(pieces, Choice(**graphs.choice), dim, empty, text, classes)
    if form.words is not None:
        # For those who run the file without its card.
        entry = whole.metadata_props.add()
        entry.key, entry.value = WORDS_KEY, json.dumps(form.words.class_names, ensure_ascii=False)
    for name in pieces:
        files[name].unlink()
    path = files["encode"].with_name(f"{WHOLE}.{form.kind}")
    onnx.save(whole, path)
    return path


def _interface(path: Path, graphs: Graphs, name: str) -> dict[str, list[str]]:
    """Names of the inputs and outputs of a file."""
    if path.suffix[1:] == PROGRAM:
        part = graphs.parts[name]
        return {"inputs": part.inputs, "outputs": list(part.outputs)}
    graph = onnx.load(path, load_external_data=False).graph
    return {"inputs": [value.name for value in graph.input], "outputs": [value.name for value in graph.output]}


def _write_card(folder: Path, card: dict) -> None:
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
